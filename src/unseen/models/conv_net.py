"""A convolutional network for populations: patches and one matrix product a layer."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab import UserError

Maps = Float[Array, "batch _ _ _"]  # rows, columns, channels


class ConvNet(eqx.Module):
    """3x3 convolutions with ReLU, each but those on the smallest maps followed by 2x2 maximum pooling; then the
    mean over positions and a linear head.

    It takes a whole batch. A convolution is written as nine shifted copies and a matrix product: under `jax.vmap`
    over members that stays a batched product, whereas convolutions become grouped ones, which XLA runs slowly on
    CPUs. Any stage can be entered from outside (`stage`, `read`), for methods that mix hidden features.

    Example:
        >>> net = ConvNet(10, widths=(16, 32), key=key)
        >>> logits = net(images)

    Attributes:
        kernels: of each stage, (9 x channels in, channels out), patches row by row.
        biases: of each stage.
        head: linear read-out of the pooled features.
        smallest: maps of this size or less are not pooled.
    """

    kernels: tuple[Float[Array, "taps width"], ...]
    biases: tuple[Float[Array, " width"], ...]
    head: eqx.nn.Linear
    smallest: int = eqx.field(static=True)

    def __init__(
        self,
        outputs: int,
        *,
        widths: Sequence[int] = (16, 32),
        channels: int = 1,
        smallest: int = 3,
        key: PRNGKeyArray,
    ) -> None:
        """Weights from He's normal initialisation, biases 0.

        Raises:
            UserError: without any stage.
        """
        if not widths or min(widths) < 1:
            raise UserError(f"widths takes one whole number from 1 on for each stage, got {tuple(widths)}.")
        *keys, head = jax.random.split(key, len(widths) + 1)
        sizes = [9 * c for c in (channels, *widths[:-1])]
        self.kernels = tuple(
            jax.random.normal(k, (n, width)) * jnp.sqrt(2 / n) for k, n, width in zip(keys, sizes, widths, strict=True)
        )
        self.biases = tuple(jnp.zeros(width) for width in widths)
        self.head = eqx.nn.Linear(widths[-1], outputs, key=head)
        self.smallest = smallest

    @property
    def stages(self) -> int:
        """Number of convolutions."""
        return len(self.kernels)

    def stage(self, index: int, maps: Maps) -> Maps:
        """One convolution with ReLU and, above the smallest size, pooling."""
        out = jax.nn.relu(patches(maps) @ self.kernels[index] + self.biases[index])
        return max_pool(out) if min(out.shape[1:3]) > self.smallest else out

    def maps(self, images: Float[Array, "batch height width *channels"], until: int | None = None) -> Maps:
        """Feature maps after `until` stages, by default all."""
        out = images if images.ndim == 4 else images[..., None]
        for index in range(self.stages if until is None else until):
            out = self.stage(index, out)
        return out

    def read(self, maps: Maps, since: int | None = None) -> Float[Array, "batch outputs"]:
        """Outputs from the feature maps after `since` stages, by default all."""
        for index in range(self.stages if since is None else since, self.stages):
            maps = self.stage(index, maps)
        return jax.vmap(self.head)(maps.mean((1, 2)))

    def layers(self, images: Float[Array, "batch height width *channels"]) -> dict[str, Maps]:
        """Feature maps after every stage, by name, in forward order."""
        out, found = self.maps(images, 0), {}
        for index in range(self.stages):
            out = self.stage(index, out)
            found[f"stage {index + 1}"] = out
        return found

    def __call__(self, images: Float[Array, "batch height width *channels"]) -> Float[Array, "batch outputs"]:
        """Outputs for a batch of images."""
        return self.read(self.maps(images))


def patches(maps: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width taps"]:
    """The 3x3 surroundings of every position, zero outside: nine shifted copies side by side."""
    _, height, width, _ = maps.shape
    padded = jnp.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)], -1)


def max_pool(
    maps: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Maximum over 2x2 squares; an odd last row or column is left out."""
    rows, columns = maps.shape[1] // 2 * 2, maps.shape[2] // 2 * 2
    inner = maps[:, :rows, :columns]
    across = jnp.maximum(inner[:, :, ::2], inner[:, :, 1::2])
    return jnp.maximum(across[:, ::2], across[:, 1::2])
