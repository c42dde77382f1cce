"""A convolutional network whose kernels act as matrices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class MatrixConvNet(eqx.Module):
    """3x3 convolutions with ReLU that halve the image each, then a linear layer on what is left.

    Either 2x2 maximum pooling halves it, or the convolution's own stride of 2, which costs about a quarter
    (Springenberg et al., 2015, arXiv 1412.6806).

    Every convolution is a matrix product with the nine shifted images. A population of networks with
    weights of their own then is a batched matrix product: on a CPU far faster than the grouped convolution that
    `jax.vmap` makes of `eqx.nn.Conv2d`. Works on one image; `jax.vmap` it for a batch.

    Attributes:
        kernels: (9 x channels in, channels out) of each convolution.
        biases: of each convolution.
        head: reads the flattened positions.
        strided: convolutions have stride 2, and there is no pooling.
    """

    kernels: tuple[Float[Array, "patch channels"], ...]
    biases: tuple[Float[Array, " channels"], ...]
    head: eqx.nn.Linear
    strided: bool = eqx.field(static=True)

    def __init__(
        self, size: int, classes: int, *, widths: Sequence[int] = (8, 16), strided: bool = False, key: PRNGKeyArray
    ):
        """For grey images of `size` x `size`; He-normal kernels."""
        head, *keys = jax.random.split(key, 1 + len(widths))
        sizes = itertools.pairwise((1, *widths))
        self.kernels = tuple(
            jnp.sqrt(2 / (9 * a)) * jax.random.normal(k, (9 * a, b)) for k, (a, b) in zip(keys, sizes, strict=True)
        )
        self.biases = tuple(jnp.zeros(b) for b in widths)
        left = size // 2 ** len(widths)
        self.head = eqx.nn.Linear(left * left * widths[-1], classes, key=head)
        self.strided = strided

    def __call__(self, image: Float[Array, "size size"]) -> Float[Array, " classes"]:
        """Outputs for one image."""
        x = image[..., None]
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            halves, channels = (x.shape[0] // 2, x.shape[1] // 2), x.shape[2]
            high, wide = (2 * half for half in halves)  # an odd last row or column falls away
            stride = 2 if self.strided else 1
            padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
            shifts = [padded[i : i + high : stride, j : j + wide : stride] for i in range(3) for j in range(3)]
            patches = jnp.stack(shifts, -2)
            x = jax.nn.relu(patches.reshape(-1, 9 * channels) @ kernel + bias).reshape(*patches.shape[:2], -1)
            if not self.strided:
                x = x.reshape(halves[0], 2, halves[1], 2, -1).max((1, 3))
        return self.head(x.ravel())
