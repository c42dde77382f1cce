"""Small networks whose linear layers and activations have names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from unseen.lab import UserError

Inputs = dict[str, Float[Array, "..."]]  # name of a linear layer -> what it reads


class FeatureNet(eqx.Module):
    """A trunk of stages and one head or several, with a name for everything that is linear.

    A layer's name is its path in the module: "trunk.2.first" is `net.trunk[2].first`. With `collect=True`
    the call also returns what each linear layer reads: the last of these, at the head, are the features.
    Works on one example; `jax.vmap` it for a batch.

    Example:
        >>> net = FeatureNet.residual_mlp(196, 10, key=key)
        >>> logits, inputs = jax.vmap(lambda x: net(x, collect=True))(images)
        >>> features = inputs["heads.0"]

    Attributes:
        trunk: stages in forward order, each `stage(x) -> (output, {layer: what it reads})`.
        heads: linear read-outs of the same features.
    """

    trunk: tuple[eqx.Module, ...]
    heads: tuple[eqx.nn.Linear, ...]

    @overload
    def __call__(
        self, x: Float[Array, "..."], *, collect: Literal[False] = False, head: int = 0
    ) -> Float[Array, " classes"]: ...
    @overload
    def __call__(
        self, x: Float[Array, "..."], *, collect: Literal[True], head: int = 0
    ) -> tuple[Float[Array, " classes"], Inputs]: ...
    def __call__(
        self, x: Float[Array, "..."], *, collect: bool = False, head: int = 0
    ) -> Float[Array, " classes"] | tuple[Float[Array, " classes"], Inputs]:
        """Logits of one example.

        Args:
            x: one input: a vector or image for MLPs, (height, width) or (height, width, channels) for
                `conv_net` and `vision_transformer`.
            collect: also return what every linear layer reads, by name, in forward order: (width,) or, where
                a layer is applied at many positions, (positions, width); a convolution reads its patches.
            head: which head answers.
        """
        inputs: Inputs = {}
        for index, stage in enumerate(self.trunk):
            x, read = stage(x)  # type: ignore[operator]
            inputs |= {f"trunk.{index}.{name}": value for name, value in read.items()}
        inputs[f"heads.{head}"] = x
        logits = self.heads[head](x)
        return (logits, inputs) if collect else logits

    def linear_layers(self) -> dict[str, eqx.nn.Linear | eqx.nn.Conv2d]:
        """Linear layers and convolutions by name, in forward order, heads last."""
        return dict(_linear(self))

    def stages(self) -> tuple[str, ...]:
        """Names of the parts that run one after the other: the trunk's stages, then the heads."""
        return tuple(f"trunk.{i}" for i in range(len(self.trunk))) + tuple(f"heads.{i}" for i in range(len(self.heads)))

    @classmethod
    def mlp(
        cls, inputs: int, classes: int, *, widths: Sequence[int] = (128, 64), heads: int = 1, key: Key[Array, ""]
    ) -> FeatureNet:
        """ReLU layers of the given widths on a flattened input of `inputs` numbers."""
        keys = _keys(key, len(widths) + 1)
        sizes = (inputs, *widths)
        trunk = tuple(Dense(a, b, flatten=i == 0, key=next(keys)) for i, (a, b) in enumerate(itertools.pairwise(sizes)))
        return cls(trunk, _heads(sizes[-1], classes, heads, next(keys)))

    @classmethod
    def residual_mlp(
        cls,
        inputs: int,
        classes: int,
        *,
        width: int = 128,
        blocks: int = 4,
        hidden: int | None = None,
        heads: int = 1,
        key: Key[Array, ""],
    ) -> FeatureNet:
        """A linear embedding, `blocks` pre-norm residual blocks (layer norm, `hidden` ReLU units, by default
        2 x `width`) and a last layer norm: a transformer without its attention."""
        keys = _keys(key, blocks + 2)
        trunk = (
            Dense(inputs, width, flatten=True, relu=False, key=next(keys)),
            *(ResidualBlock(width, hidden or 2 * width, key=next(keys)) for _ in range(blocks)),
            Normalize(width),
        )
        return cls(trunk, _heads(width, classes, heads, next(keys)))

    @classmethod
    def conv_net(
        cls,
        channels: int,
        classes: int,
        *,
        widths: Sequence[int] = (16, 32),
        heads: int = 1,
        key: Key[Array, ""],
    ) -> FeatureNet:
        """3x3 convolutions of the given widths, each with ReLU and 2x2 maximum pooling, then the mean over
        positions."""
        keys = _keys(key, len(widths) + 1)
        sizes = (channels, *widths)
        convolutions = (ConvPool(a, b, key=next(keys)) for a, b in itertools.pairwise(sizes))
        return cls((*convolutions, MeanPool()), _heads(sizes[-1], classes, heads, next(keys)))

    @classmethod
    def vision_transformer(
        cls,
        size: int,
        channels: int,
        classes: int,
        *,
        patch: int = 7,
        width: int = 64,
        blocks: int = 2,
        attention_heads: int = 4,
        heads: int = 1,
        key: Key[Array, ""],
    ) -> FeatureNet:
        """A tiny ViT on `size` x `size` images: patches, learned positions, pre-norm blocks, mean over patches.

        Raises:
            UserError: if `patch` does not divide `size` or `attention_heads` does not divide `width`.
        """
        if size % patch:
            raise UserError(f"patch takes a divisor of the image size {size}, got {patch}.")
        if width % attention_heads:
            raise UserError(f"attention_heads takes a divisor of the width {width}, got {attention_heads}.")
        keys = _keys(key, blocks + 2)
        trunk = (
            PatchEmbedding(size, channels, patch, width, key=next(keys)),
            *(TransformerBlock(width, attention_heads, key=next(keys)) for _ in range(blocks)),
            Normalize(width),
            MeanPool(),
        )
        return cls(trunk, _heads(width, classes, heads, next(keys)))


class Dense(eqx.Module):
    """A linear layer, with ReLU or without."""

    linear: eqx.nn.Linear
    flatten: bool = eqx.field(static=True)
    relu: bool = eqx.field(static=True)

    def __init__(
        self, inputs: int, width: int, *, flatten: bool = False, relu: bool = True, key: Key[Array, ""]
    ) -> None:
        self.linear = eqx.nn.Linear(inputs, width, key=key)
        self.flatten, self.relu = flatten, relu

    def __call__(self, x: Float[Array, "..."]) -> tuple[Float[Array, " width"], Inputs]:
        """Output, and what the layer reads."""
        x = x.reshape(-1) if self.flatten else x
        out = self.linear(x)
        return jax.nn.relu(out) if self.relu else out, {"linear": x}


class Normalize(eqx.Module):
    """Layer norm over the last axis."""

    norm: eqx.nn.LayerNorm

    def __init__(self, width: int) -> None:
        self.norm = eqx.nn.LayerNorm(width)

    def __call__(self, x: Float[Array, "*positions width"]) -> tuple[Float[Array, "*positions width"], Inputs]:
        """Output; it has no linear layer."""
        return _over_positions(self.norm, x), {}


class MeanPool(eqx.Module):
    """Mean over all axes but the last."""

    def __call__(self, x: Float[Array, "*positions width"]) -> tuple[Float[Array, " width"], Inputs]:
        """Output; it has no linear layer."""
        return x.reshape(-1, x.shape[-1]).mean(0), {}


class ResidualBlock(eqx.Module):
    """x + second(relu(first(norm(x))))."""

    norm: eqx.nn.LayerNorm
    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self, width: int, hidden: int, *, key: Key[Array, ""]) -> None:
        a, b = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(width)
        self.first = eqx.nn.Linear(width, hidden, key=a)
        self.second = eqx.nn.Linear(hidden, width, key=b)

    def __call__(self, x: Float[Array, "*positions width"]) -> tuple[Float[Array, "*positions width"], Inputs]:
        """Output, and what both layers read."""
        normed = _over_positions(self.norm, x)
        hidden = jax.nn.relu(_over_positions(self.first, normed))
        return x + _over_positions(self.second, hidden), {"first": normed, "second": hidden}


class ConvPool(eqx.Module):
    """A 3x3 convolution, ReLU and 2x2 maximum pooling; images as (height, width, channels)."""

    convolution: eqx.nn.Conv2d

    def __init__(self, channels: int, width: int, *, key: Key[Array, ""]) -> None:
        self.convolution = eqx.nn.Conv2d(channels, width, 3, padding=1, key=key)

    def __call__(
        self, x: Float[Array, "height width *channels"]
    ) -> tuple[Float[Array, "half_height half_width features"], Inputs]:
        """Output, and the patches that the convolution reads: (positions, channels x 3 x 3)."""
        x = jnp.moveaxis(x if x.ndim == 3 else x[..., None], -1, 0)
        # Patches come out channel-major, as the kernel (features, channels, 3, 3) lies flattened.
        patches = jax.lax.conv_general_dilated_patches(x[None], (3, 3), (1, 1), "SAME")[0]
        out = jax.nn.relu(self.convolution(x))
        out = eqx.nn.MaxPool2d(2, 2)(out)
        return jnp.moveaxis(out, 0, -1), {"convolution": patches.reshape(patches.shape[0], -1).T}


class PatchEmbedding(eqx.Module):
    """Linear embedding of square patches, with a learned vector for each position."""

    linear: eqx.nn.Linear
    position: Float[Array, "patches width"]
    patch: int = eqx.field(static=True)

    def __init__(self, size: int, channels: int, patch: int, width: int, *, key: Key[Array, ""]) -> None:
        a, b = jax.random.split(key)
        self.linear = eqx.nn.Linear(channels * patch**2, width, key=a)
        self.position = 0.02 * jax.random.normal(b, ((size // patch) ** 2, width))
        self.patch = patch

    def __call__(self, x: Float[Array, "rows columns *channels"]) -> tuple[Float[Array, "patches width"], Inputs]:
        """Output, and the flattened patches."""
        rows, columns, p = x.shape[0] // self.patch, x.shape[1] // self.patch, self.patch
        patches = x.reshape(rows, p, columns, p, -1).swapaxes(1, 2).reshape(rows * columns, -1)
        return _over_positions(self.linear, patches) + self.position, {"linear": patches}


class TransformerBlock(eqx.Module):
    """Pre-norm self-attention and a residual MLP block."""

    norm: eqx.nn.LayerNorm
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    output: eqx.nn.Linear
    mlp: ResidualBlock
    attention_heads: int = eqx.field(static=True)

    def __init__(self, width: int, attention_heads: int, *, key: Key[Array, ""]) -> None:
        keys = jax.random.split(key, 5)
        self.norm = eqx.nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (eqx.nn.Linear(width, width, key=k) for k in keys[:4])
        self.mlp = ResidualBlock(width, 4 * width, key=keys[4])
        self.attention_heads = attention_heads

    def __call__(self, x: Float[Array, "tokens width"]) -> tuple[Float[Array, "tokens width"], Inputs]:
        """Output, and what the six linear layers read."""
        normed = jax.vmap(self.norm)(x)
        split = (len(x), self.attention_heads, -1)
        query, key, value = (jax.vmap(layer)(normed).reshape(split) for layer in (self.query, self.key, self.value))
        mixed = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
        out, read = self.mlp(x + jax.vmap(self.output)(mixed))
        attention = {"query": normed, "key": normed, "value": normed, "output": mixed}
        return out, attention | {f"mlp.{name}": value for name, value in read.items()}


def layer_inputs(net: FeatureNet, batch: Float[Array, "example ..."]) -> Inputs:
    """What every linear layer of `net` reads on a batch: name -> (example, ..., width)."""
    return jax.vmap(lambda x: net(x, collect=True)[1])(batch)


def torch_layer_inputs(module: Any, *args: Any, **kwargs: Any) -> dict[str, Float[np.ndarray, "samples width"]]:
    """What every `torch.nn.Linear` of a PyTorch or Hugging Face model reads in one forward call.

    The names are those of `module.named_modules()`, so "name.weight" is the layer's key in its state dict.

    Args:
        module: a `torch.nn.Module`; it is called as `module(*args, **kwargs)` without gradients.

    Returns:
        name -> inputs, all leading axes (batch, tokens) flattened into samples; calls of one layer are joined.
    """
    import torch

    seen: dict[str, list[np.ndarray]] = {}

    def record(name: str) -> Any:
        def hook(_: Any, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach().float().cpu().numpy()
            seen.setdefault(name, []).append(x.reshape(-1, x.shape[-1]))

        return hook

    handles = [
        layer.register_forward_pre_hook(record(name))
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: np.concatenate(parts) for name, parts in seen.items()}


def _linear(net: FeatureNet) -> Iterator[tuple[str, eqx.nn.Linear | eqx.nn.Conv2d]]:
    def is_linear(node: Any) -> bool:
        return isinstance(node, eqx.nn.Linear | eqx.nn.Conv2d)

    for path, node in jax.tree_util.tree_leaves_with_path(net, is_leaf=is_linear):
        if is_linear(node):
            yield jax.tree_util.keystr(path, simple=True, separator="."), node


def _over_positions(layer: Any, x: Float[Array, "*positions width"]) -> Float[Array, "*positions out"]:
    out = jax.vmap(layer)(x.reshape(-1, x.shape[-1]))
    return out.reshape(*x.shape[:-1], out.shape[-1])


def _keys(key: Key[Array, ""], n: int) -> Iterator[Key[Array, ""]]:
    return iter(jax.random.split(key, n))


def _heads(width: int, classes: int, heads: int, key: Key[Array, ""]) -> tuple[eqx.nn.Linear, ...]:
    return tuple(eqx.nn.Linear(width, classes, key=k) for k in jax.random.split(key, heads))
