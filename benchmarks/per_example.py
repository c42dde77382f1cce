"""Gradient coherence and Hessian-vector products, against torch.func on the same network with the same weights.

    python -m benchmarks.per_example [--write]

A ReLU network with two hidden layers on all digits. Coherence needs the gradient of every example, in micro-batches of
the same size on both sides, and the products of all of them with their mean; a Hessian-vector product takes the whole
set at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.flatten_util import ravel_pytree
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional

from benchmarks.clock import Lap, Laps, interleave, said, timed
from benchmarks.population import best_threads
from benchmarks.report import Result, command
from benchmarks.tasks import MLP, Digits, SmallMLP, TorchMLP, tensor
from unseen.learners.classifier import cross_entropy
from unseen.measures.curvature import Curvature
from unseen.measures.per_example_gradients import PerExampleGradients

CALLS = 5  # in a lap


class Ours:
    """Both measures by unseen, compiled."""

    def __init__(self, model: MLP, examples: int, micro_batch: int):
        data = Digits()
        images, labels = data.images[:examples], data.labels[:examples]

        def loss(net: MLP, example: Any) -> jax.Array:
            image, label = example
            return cross_entropy(net(image[None]), label[None])[0]

        def found(net: MLP) -> jax.Array:
            gradients = PerExampleGradients.of(loss, net, (images, labels), micro_batch=micro_batch)
            return jnp.append(gradients.alignment, gradients.coherence)

        def product(net: MLP, vector: jax.Array) -> jax.Array:
            return Curvature(lambda m: cross_entropy(m(images), labels).mean(), net).product(vector)

        self.model = model
        self._coherence, self._product = jax.jit(found), jax.jit(product)

    def coherence(self) -> np.ndarray:
        """Alignment of every example's gradient with their mean, and last the coherence."""
        return np.asarray(self._coherence(self.model))

    def product(self, vector: np.ndarray) -> np.ndarray:
        return np.asarray(self._product(self.model, vector))


class Torch:
    """Both measures by torch.func: vmap of grad, and jvp of grad."""

    def __init__(self, model: MLP, width: int, examples: int, micro_batch: int):
        twin = TorchMLP(SmallMLP(width=width))
        self.network = twin.network()
        twin.load(self.network, model)
        self.images, self.labels, self.micro_batch = twin.images[:examples], twin.labels[:examples], micro_batch
        self.parameters = {name: value.detach() for name, value in self.network.named_parameters()}

    def loss(self, parameters: dict[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional_call(self.network, parameters, (images,)), labels)

    def coherence(self) -> np.ndarray:
        def one(parameters: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return self.loss(parameters, image[None], label[None])

        each = vmap(grad(one), in_dims=(None, 0, 0))
        batches = list(zip(self.images.split(self.micro_batch), self.labels.split(self.micro_batch), strict=True))
        # The mean gradient is one backward pass over all examples; single gradients are made once, and not kept.
        mean = flat(grad(self.loss)(self.parameters, self.images, self.labels))
        squares, along = [], []
        for images, labels in batches:
            gradients = each(self.parameters, images, labels)
            rows = torch.cat([g.flatten(1) for g in gradients.values()], 1)
            squares.append(rows.square().sum(1))
            along.append(rows @ mean)
        squared, inner, length = torch.cat(squares), torch.cat(along), mean.square().sum()
        alignment = inner / (squared * length).sqrt()
        return np.append(alignment.numpy(), (length / squared.mean()).item())

    def product(self, vector: dict[str, torch.Tensor]) -> np.ndarray:
        gradient = grad(lambda parameters: self.loss(parameters, self.images, self.labels))
        return flat(jvp(gradient, (self.parameters,), (vector,))[1]).numpy()

    def shaped(self, model: MLP, vector: np.ndarray) -> dict[str, torch.Tensor]:
        """A vector in the order of the JAX model's parameters, as named tensors in the network's shapes."""
        layers = ravel_pytree(model)[1](jnp.asarray(vector)).layers
        arrays = [getattr(layer, name) for layer in layers for name in ("weight", "bias")]
        return dict(zip(self.parameters, map(tensor, arrays), strict=True))


def flat(tree: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten() for value in tree.values()])


def laps(work: Callable[[], object], calls: int) -> Callable[[], Lap]:
    """A side whose first call, which compiles, is set-up."""
    begun: list[float] = []

    def lap() -> Lap:
        setup = 0.0
        if not begun:
            begun.append(timed(work))
            setup = begun[0]
        return Lap(timed(lambda: [work() for _ in range(calls)]) / calls, setup)

    return lap


def measure(tiny: bool = False) -> Result:
    """Both measures by both libraries, which must agree before anything is timed."""
    width, examples, micro_batch, repeats, calls = (8, 20, 10, 1, 1) if tiny else (256, 1_792, 128, 5, CALLS)
    model = MLP(width, key=jax.random.key(0))
    ours, theirs = Ours(model, examples, micro_batch), Torch(model, width, examples, micro_batch)
    size = ravel_pytree(model)[0].size
    vector = np.random.default_rng(0).normal(size=size).astype(np.float32)
    shaped = theirs.shaped(model, vector)
    apart = {
        "coherence": relative(ours.coherence(), theirs.coherence()),
        "Hessian-vector product": relative(ours.product(vector), theirs.product(shaped)),
    }
    if max(apart.values()) > 1e-3:
        raise SystemExit(f"The two libraries do not compute the same: relative distances {apart}.")
    count, words = best_threads(lambda _: theirs.coherence())
    torch.set_num_threads(count)
    fresh = Ours(model, examples, micro_batch)  # not compiled yet
    sides = {
        "unseen, coherence": laps(fresh.coherence, calls),
        "torch.func, coherence": laps(theirs.coherence, calls),
        "unseen, product": laps(lambda: fresh.product(vector), 4 * calls),
        "torch.func, product": laps(lambda: theirs.product(shaped), 4 * calls),
    }
    found = interleave(sides, repeats)
    rows = []
    for what, key in (("gradient coherence", "coherence"), ("Hessian-vector product", "product")):
        rows += [row(f"{what}, {name}", found[f"{name}, {key}"], found[f"unseen, {key}"]) for name in NAMES]
    agree = " and ".join(f"{value:.0e} ({name})" for name, value in apart.items())
    notes = [
        f"64-{width}-{width}-10 ReLU network with {size:,} parameters on {examples:,} digits. Coherence with "
        f"the alignment of every example, in micro-batches of {micro_batch}; the product on all examples at "
        f"once. {repeats} interleaved repeats, median (smallest to largest). Set-up is the first call, which "
        "for JAX compiles.",
        f"The results agree to {agree}, relative. torch.func runs eagerly and makes the single gradients once, "
        f"beside one backward pass for their mean; unseen makes them twice. {words}",
    ]
    return Result("per-example", "Per-example gradients and Hessian-vector products", COLUMNS, rows, notes, ("torch",))


NAMES = ("unseen", "torch.func")
COLUMNS = ("", "time of a call", "times unseen's", "set-up")


def row(name: str, side: Laps, base: Laps) -> list[str]:
    milliseconds = [1e3 * seconds for seconds in side.seconds]
    ratio = "1" if side is base else said(side.ratios(base))
    return [name, said(milliseconds, " ms"), ratio, f"{side.first_setup:.2f} s"]


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance of two vectors' entries, over the largest entry."""
    return float(np.abs(a - b).max() / np.abs(b).max())


if __name__ == "__main__":
    command(__doc__, measure)
