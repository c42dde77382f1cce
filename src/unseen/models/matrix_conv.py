"""A convolutional network whose kernels act as matrices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class MatrixConvNet(eqx.Module):
    """3x3 convolutions with ReLU and 2x2 maximum pooling, then a linear layer on what is left.

    Every convolution is a matrix product with the nine shifted images. A population of networks with
    weights of their own then is a batched matrix product: on a CPU far faster than the grouped convolution that
    `jax.vmap` makes of `eqx.nn.Conv2d`. Works on one image; `jax.vmap` it for a batch.

    Attributes:
        kernels: (9 x channels in, channels out) of each convolution.
        biases: of each convolution.
        head: reads the flattened positions.
    """

    kernels: tuple[Float[Array, "patch channels"], ...]
    biases: tuple[Float[Array, " channels"], ...]
    head: eqx.nn.Linear

    def __init__(self, size: int, classes: int, *, widths: Sequence[int] = (8, 16), key: PRNGKeyArray):
        """For grey images of `size` x `size`; He-normal kernels."""
        head, *keys = jax.random.split(key, 1 + len(widths))
        sizes = itertools.pairwise((1, *widths))
        self.kernels = tuple(
            jnp.sqrt(2 / (9 * a)) * jax.random.normal(k, (9 * a, b)) for k, (a, b) in zip(keys, sizes, strict=True)
        )
        self.biases = tuple(jnp.zeros(b) for b in widths)
        left = size // 2 ** len(widths)
        self.head = eqx.nn.Linear(left * left * widths[-1], classes, key=head)

    def __call__(self, image: Float[Array, "size size"]) -> Float[Array, " classes"]:
        """Outputs for one image."""
        x = image[..., None]
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            rows, columns, channels = x.shape
            padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
            shifts = [padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
            patches = jnp.stack(shifts, -2).reshape(rows * columns, 9 * channels)
            x = jax.nn.relu(patches @ kernel + bias).reshape(rows, columns, -1)
            rows, columns = rows // 2, columns // 2
            x = x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1).max((1, 3))
        return self.head(x.ravel())
