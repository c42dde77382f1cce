"""What is trained in `population` and `matmul`: two small studies, each with its twin in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jaxtyping import Array, Float, Int, PRNGKeyArray
from torch import nn
from torch.nn import functional

from unseen.lab.learner import Learner
from unseen.lab.study import Study
from unseen.learners import classifier
from unseen.learners.sequence import adam, minibatches, sequence_learner
from unseen.models.transformer import Transformer
from unseen.worlds.algorithms.chomsky import ReverseString
from unseen.worlds.sequences import Sequences

RATE = 1e-3  # learning rate of everything here


# A small network on images ---------------------------------------------------------------------------------


class MLP(eqx.Module):
    """ReLU network with two hidden layers."""

    layers: tuple[eqx.nn.Linear, ...]

    def __init__(self, width: int, *, key: PRNGKeyArray):
        sizes = (64, width, width, 10)
        keys = jax.random.split(key, 3)
        pairs = zip(sizes, sizes[1:], keys, strict=False)
        self.layers = tuple(eqx.nn.Linear(i, o, key=k) for i, o, k in pairs)

    def __call__(self, images: Float[Array, "batch 64"]) -> Float[Array, "batch 10"]:
        x = images
        for layer in self.layers[:-1]:
            x = jax.nn.relu(x @ layer.weight.T + layer.bias)
        return x @ self.layers[-1].weight.T + self.layers[-1].bias


class Digits(eqx.Module):
    """The 1,797 images of 8 x 8 pixels that come with scikit-learn; the last fifth is the test side."""

    images: Float[Array, "examples 64"]
    labels: Int[Array, " examples"]
    train: Float[Array, " examples"]

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        self.images, self.labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels, jnp.int32)
        self.train = (jnp.arange(len(labels)) < 0.8 * len(labels)).astype(jnp.float32)

    @property
    def inputs(self) -> tuple[Float[Array, "examples 64"]]:
        return (self.images,)

    @property
    def targets(self) -> Int[Array, " examples"]:
        return self.labels

    @property
    def test(self) -> Float[Array, " examples"]:
        return 1 - self.train


class SmallMLP(Study):
    """AdamW on minibatches of digits, drawn with replacement."""

    width: int = 64
    batch: int = 64
    steps: int = 2_000
    every: int = 200

    def learner(self) -> Learner:
        return classifier(
            lambda key: MLP(self.width, key=key),
            Digits(),
            optax.adamw(RATE, weight_decay=0.01),
            batch_size=self.batch,
            steps=self.steps,
            every=self.every,
        )


class TorchMLP:
    """The same with PyTorch: eager, fused AdamW, the data a tensor in memory, rows drawn for many updates at once."""

    def __init__(self, study: SmallMLP):
        self.study, data = study, Digits()
        self.images, self.labels = tensor(data.images), tensor(data.labels).long()
        self.split = int(data.train.sum())

    def network(self) -> nn.Sequential:
        width = self.study.width
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

    @staticmethod
    def load(network: nn.Sequential, model: MLP) -> None:
        """Copy the weights of the JAX model."""
        for mine, theirs in zip([m for m in network if isinstance(m, nn.Linear)], model.layers, strict=True):
            copy_linear(mine, theirs)

    def draw(self) -> torch.Tensor:
        return torch.randint(self.split, (self.study.every, self.study.batch))

    def train(self, network: nn.Sequential, draw: Callable[[], torch.Tensor]) -> list[dict[str, float]]:
        """All updates; what is measured before the first and after every `every`."""
        optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01, fused=True)
        history = [self.measure(network)]
        for _ in range(self.study.steps // self.study.every):
            for rows in draw().unbind():
                optimizer.zero_grad(set_to_none=True)
                functional.cross_entropy(network(self.images[rows]), self.labels[rows]).backward()
                optimizer.step()
            history.append(self.measure(network))
        return history

    @torch.inference_mode()
    def measure(self, network: nn.Sequential) -> dict[str, float]:
        logits = network(self.images)
        loss = functional.cross_entropy(logits, self.labels, reduction="none")
        right = (logits.argmax(-1) == self.labels).float()
        sides = {"train": slice(self.split), "test": slice(self.split, None)}
        losses = {f"{name}_loss": loss[side].mean().item() for name, side in sides.items()}
        return losses | {f"{name}_accuracy": right[side].mean().item() for name, side in sides.items()}

    def run(self, seed: int) -> list[dict[str, float]]:
        """One run."""
        torch.manual_seed(seed)
        return self.train(self.network(), self.draw)


# A small transformer on strings ----------------------------------------------------------------------------


class SmallTransformer(Study):
    """Reversing strings as in `chomsky-hierarchy`: 2 layers, 4 heads, sinusoidal positions, batches of strings of
    length 1 to `length` in twice as many positions."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    batch: int = 64
    length: int = 16
    pool: int = 4096  # strings that are drawn from, so that PyTorch can have the same
    steps: int = 10
    every: int = 5

    def data(self) -> Sequences:
        lengths, strings = jax.random.split(jax.random.key(0))
        of_length = jax.random.randint(lengths, (self.pool,), 1, self.length + 1)
        return ReverseString().sample(strings, of_length, self.pool, self.length)

    def learner(self) -> Learner:
        return sequence_learner(
            self.network, minibatches(self.data(), self.batch), adam(RATE), steps=self.steps, every=self.every
        )

    def network(self, key: PRNGKeyArray) -> Transformer:
        world = ReverseString()
        return Transformer(
            world.input_size + 1,
            self.width,
            world.output_size,
            key=key,
            layers=self.layers,
            heads=self.heads,
            causal=False,
        )


class TorchBlock(nn.Module):
    """Attention and two layers with a GELU, each on the normalised stream."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        parts = self.project(self.norm1(x)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts.unbind(0), attn_mask=allowed)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


class TorchNetwork(nn.Module):
    """`unseen.models.Transformer` with one-hot inputs and sinusoidal positions, on a batch."""

    def __init__(self, tokens: int, width: int, outputs: int, layers: int, heads: int, time: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(tokens, width))
        self.blocks = nn.ModuleList(TorchBlock(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)
        angle = torch.arange(time)[:, None] * 10_000.0 ** (-torch.arange(0, width, 2) / width)
        self.register_buffer("position", torch.cat([angle.sin(), angle.cos()], -1))

    def forward(self, inputs: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        x = inputs @ self.embedding + self.position
        allowed = present[:, None, None, :]
        for block in self.blocks:
            x = block(x, allowed)
        return self.head(self.norm(x))


class TorchTransformer:
    """The same with PyTorch: eager, its own attention kernel, fused AdamW."""

    def __init__(self, study: SmallTransformer):
        self.study, data = study, study.data()
        self.inputs, self.present = tensor(data.inputs), tensor(data.present)
        self.outputs, self.targets = tensor(data.outputs), tensor(data.targets).long()
        self.demanded = torch.where(self.outputs, self.targets, -100)  # what cross_entropy ignores

    def network(self) -> TorchNetwork:
        s, world = self.study, ReverseString()
        return TorchNetwork(world.input_size + 1, s.width, world.output_size, s.layers, s.heads, self.inputs.shape[1])

    @staticmethod
    def load(network: TorchNetwork, model: Transformer) -> None:
        """Copy the weights of the JAX model."""
        with torch.no_grad():
            network.embedding.copy_(tensor(model.embedding))
        assert model.head is not None
        copy_linear(network.head, model.head)
        copy_norm(network.norm, model.norm)
        for mine, theirs in zip(network.blocks, model.blocks, strict=True):
            copy_norm(mine.norm1, theirs.norm1)
            copy_norm(mine.norm2, theirs.norm2)
            copy_linear(mine.project, theirs.attention.project)
            copy_linear(mine.out, theirs.attention.out)
            copy_linear(mine.up, theirs.up)
            copy_linear(mine.down, theirs.down)

    def draw(self) -> torch.Tensor:
        return torch.randint(self.study.pool, (self.study.every, self.study.batch))

    def loss(self, network: TorchNetwork, rows: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over the demanded outputs."""
        logits = network(self.inputs[rows], self.present[rows])
        return functional.cross_entropy(logits.flatten(0, 1), self.demanded[rows].flatten())

    def train(self, network: TorchNetwork, draw: Callable[[], torch.Tensor]) -> list[dict[str, float]]:
        """All updates; what is measured before the first and after every `every`."""
        parameters = list(network.parameters())
        optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.0, fused=True)
        history = [self.measure(network, draw()[0])]
        for _ in range(self.study.steps // self.study.every):
            for rows in draw().unbind():
                optimizer.zero_grad(set_to_none=True)
                self.loss(network, rows).backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
            history.append(self.measure(network, draw()[0]))
        return history

    @torch.inference_mode()
    def measure(self, network: TorchNetwork, rows: torch.Tensor) -> dict[str, float]:
        outputs, targets = self.outputs[rows], self.targets[rows]
        logits = network(self.inputs[rows], self.present[rows])
        wrong = outputs & (logits.argmax(-1) != targets)
        return {
            "train_loss": functional.cross_entropy(logits.flatten(0, 1), self.demanded[rows].flatten()).item(),
            "train_accuracy": 1 - (wrong.sum() / outputs.sum()).item(),
            "train_exact": (wrong.sum(-1) == 0).float().mean().item(),
        }

    def run(self, seed: int) -> list[dict[str, float]]:
        """One run."""
        torch.manual_seed(seed)
        return self.train(self.network(), self.draw)


def tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def copy_linear(mine: nn.Linear, theirs: eqx.nn.Linear) -> None:
    with torch.no_grad():
        mine.weight.copy_(tensor(theirs.weight))
        mine.bias.copy_(tensor(theirs.bias))


def copy_norm(mine: nn.LayerNorm, theirs: eqx.nn.LayerNorm) -> None:
    with torch.no_grad():
        mine.weight.copy_(tensor(theirs.weight))
        mine.bias.copy_(tensor(theirs.bias))
