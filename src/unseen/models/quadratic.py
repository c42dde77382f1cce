"""Networks on pairs of one-hot operands, all called as `model(left, right)`."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab.errors import UserError
from unseen.models.transformer import Transformer


class QuadraticMLP(eqx.Module):
    """logits = (A[a] + B[b])^2 W, without biases: homogeneous of degree 3 in its parameters.

    Operands come as one-hot vectors and are read by matrix products (a gather is ten times slower to
    differentiate on a CPU). Batch shapes broadcast: operands of shapes (p, 1, p) and (1, p, p) give the
    logits of the whole table.

    Source: Gromov (2023, arXiv 2301.02679), section 2.

    Attributes:
        left, right: A and B, one row an operand.
        out: W, one column a class.
    """

    left: Float[Array, "p width"]
    right: Float[Array, "p width"]
    out: Float[Array, "width p"]

    def __init__(self, p: int, width: int, *, key: PRNGKeyArray, scale: float = 1.0):
        """LeCun-normal layers, times `scale`: variance 1/(2p) for A and B, since the first layer sees 2p
        inputs, and 1/width for W."""
        a, b, w = jax.random.split(key, 3)
        self.left = scale * jax.random.normal(a, (p, width)) / jnp.sqrt(2 * p)
        self.right = scale * jax.random.normal(b, (p, width)) / jnp.sqrt(2 * p)
        self.out = scale * jax.random.normal(w, (width, p)) / jnp.sqrt(width)

    def __call__(self, left: Float[Array, "*#batch p"], right: Float[Array, "*#batch p"]) -> Float[Array, "*#batch p"]:
        """Logits of one-hot operands whose batch shapes broadcast."""
        hidden = jnp.square(left @ self.left + right @ self.right)
        # One flat matrix product: a third faster on the CPU than a product with two batch axes.
        flat = hidden.reshape(-1, hidden.shape[-1]) @ self.out
        return flat.reshape(*hidden.shape[:-1], -1)

    @classmethod
    def cosine(cls, p: int, width: int) -> QuadraticMLP:
        """The exact solution of addition mod p by cosine weights: its logits are m/4 (p [c = a + b] - 1).

        Each of the (p - 1)/2 frequencies f has m units with phases u and v:
        A = cos(2 pi f a/p + u), B = cos(2 pi f b/p + v), W = cos(2 pi f c/p + u + v). The square times W has
        a term in f(a + b - c) without a phase, and others whose phases are u + v, 3u + v, u - v, u + 3v, 2u,
        2v and 2(u + v). The units' phases are spaced so that each of these sums to zero over the m units
        (Gromov draws them at random, which is exact at infinite width only).

        Source: Gromov (2023, arXiv 2301.02679), section 3, the weights and u + v as the output's phase.

        Args:
            p: an odd modulus.
            width: number of units; those beyond m (p - 1)/2 stay 0.

        Raises:
            UserError: if p is even or below 3, or the width below 3 (p - 1), which is m = 6.
        """
        if p < 3 or p % 2 == 0:
            raise UserError(f"p takes an odd number from 3 on, got {p}.")
        frequencies = (p - 1) // 2
        m = width // frequencies
        if m < 6:
            raise UserError(f"width takes a number from {6 * frequencies} on at p = {p}, got {width}.")
        s, t = next(
            (s, t)
            for s, t in itertools.product(range(1, m), repeat=2)
            if all(k % m for k in (s + t, 3 * s + t, s - t, s + 3 * t, 2 * s, 2 * t, 2 * (s + t)))
        )
        frequency, unit = jnp.divmod(jnp.arange(m * frequencies), m)
        angle = 2 * jnp.pi * (jnp.arange(p)[:, None] * (1 + frequency) % p) / p  # exact before rounding
        u, v = 2 * jnp.pi * s * unit / m, 2 * jnp.pi * t * unit / m
        idle = ((0, 0), (0, width - m * frequencies))
        left, right, out = (jnp.pad(jnp.cos(angle + phase), idle) for phase in (u, v, u + v))
        empty = cls(p, width, key=jax.random.key(0))
        return eqx.tree_at(lambda net: (net.left, net.right, net.out), empty, (left, right, out.T))


class EmbeddingMLP(eqx.Module):
    """ReLU network on the concatenated embeddings of two one-hot operands; the same call as `QuadraticMLP`.

    Attributes:
        embedding: one row an operand, shared by both sides.
        left, right: the two halves of the hidden layer's weights.
        bias: of the hidden layer.
        out: one column a class.
    """

    embedding: Float[Array, "p d"]
    left: Float[Array, "d width"]
    right: Float[Array, "d width"]
    bias: Float[Array, " width"]
    out: Float[Array, "width p"]

    def __init__(self, p: int, width: int, *, key: PRNGKeyArray, dimension: int = 64):
        """He-normal layers over unit-normal embeddings of size `dimension`; zero bias."""
        e, a, b, w = jax.random.split(key, 4)
        self.embedding = jax.random.normal(e, (p, dimension))
        self.left = jax.random.normal(a, (dimension, width)) / jnp.sqrt(dimension)
        self.right = jax.random.normal(b, (dimension, width)) / jnp.sqrt(dimension)
        self.bias = jnp.zeros(width)
        self.out = jax.random.normal(w, (width, p)) / jnp.sqrt(width)

    def __call__(self, left: Float[Array, "*#batch p"], right: Float[Array, "*#batch p"]) -> Float[Array, "*#batch p"]:
        """Logits of one-hot operands whose batch shapes broadcast."""
        read = left @ self.embedding @ self.left + right @ self.embedding @ self.right
        hidden = jax.nn.relu(read + self.bias)
        flat = hidden.reshape(-1, hidden.shape[-1]) @ self.out
        return flat.reshape(*hidden.shape[:-1], -1)


class PairTransformer(eqx.Module):
    """Causal transformer on the sequence x, operation sign, y, equals sign, read at the last position; the
    same call as `QuadraticMLP`.

    Source: Power et al. (2022, arXiv 2201.02177), appendix A.1.2: two layers of width 128 with four heads.
    Pre-norm blocks with GELU stand for the paper's.

    Attributes:
        transformer: over the p operands and the two signs.
    """

    transformer: Transformer

    def __init__(self, p: int, width: int, *, key: PRNGKeyArray, layers: int = 2, heads: int = 4):
        """A transformer with p + 2 tokens and p outputs."""
        self.transformer = Transformer(p + 2, width, p, key=key, layers=layers, heads=heads, max_time=4)

    def __call__(self, left: Float[Array, "*#batch p"], right: Float[Array, "*#batch p"]) -> Float[Array, "*#batch p"]:
        """Logits of one-hot operands whose batch shapes broadcast."""
        left, right = jnp.broadcast_arrays(left, right)
        p = left.shape[-1]
        signs = jnp.broadcast_to(jnp.eye(p + 2)[p:], (*left.shape[:-1], 2, p + 2))
        x, y = (jnp.pad(side, [(0, 0)] * (side.ndim - 1) + [(0, 2)]) for side in (left, right))
        tokens = jnp.stack([x, signs[..., 0, :], y, signs[..., 1, :]], axis=-2)
        flat = jax.vmap(self.transformer)(tokens.reshape(-1, 4, p + 2))[:, -1]
        return flat.reshape(left.shape)
