"""Addition of symbols through their embeddings: the smallest network with something to understand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class ToyAdditionNet(eqx.Module):
    """decoder(E[i] + E[j]): an embedding for each symbol, added exactly, and a tanh network that reads the sum.

    It can only answer a pair that it has not seen if its embeddings add up to the sum of a pair that it has.

    Source: Liu et al. (2022, arXiv 2205.10343), section 3; sizes and first values as in the official code.

    Attributes:
        embedding: one row a symbol, shared by both operands.
        weights, biases: of the decoder's layers.
    """

    embedding: Float[Array, "symbols dimension"]
    weights: list[Float[Array, "inputs outputs"]]
    biases: list[Float[Array, " outputs"]]

    def __init__(
        self,
        symbols: int,
        outputs: int,
        *,
        key: PRNGKeyArray,
        dimension: int = 1,
        widths: Sequence[int] = (100, 100),
    ):
        """Embeddings uniform in ±1/2, layers uniform within one over the root of their inputs."""
        embedding_key, *keys = jax.random.split(key, len(widths) + 2)
        self.embedding = jax.random.uniform(embedding_key, (symbols, dimension), minval=-0.5, maxval=0.5)
        self.weights, self.biases = [], []
        for layer, (a, b) in zip(keys, itertools.pairwise((dimension, *widths, outputs)), strict=True):
            weight_key, bias_key = jax.random.split(layer)
            bound = 1 / jnp.sqrt(a)
            self.weights.append(jax.random.uniform(weight_key, (a, b), minval=-bound, maxval=bound))
            self.biases.append(jax.random.uniform(bias_key, (b,), minval=-bound, maxval=bound))

    def __call__(
        self, left: Float[Array, "*#batch symbols"], right: Float[Array, "*#batch symbols"]
    ) -> Float[Array, "*#batch outputs"]:
        """Outputs of one-hot operands whose batch shapes broadcast."""
        x = left @ self.embedding + right @ self.embedding
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = jnp.tanh(x @ weight + bias)
        return x @ self.weights[-1] + self.biases[-1]


class NearestAnswer(eqx.Module):
    """A network whose outputs are compared with given answers: the nearest one is what it says.

    Attributes:
        net: from the operands to a vector.
    """

    net: ToyAdditionNet

    def __call__(
        self,
        left: Float[Array, "*#batch symbols"],
        right: Float[Array, "*#batch symbols"],
        answers: Float[Array, "sums width"],
    ) -> Float[Array, "*#batch sums"]:
        """Minus the mean squared distance to each answer, as logits of a kind."""
        out = self.net(left, right)[..., None, :]
        return -jnp.square(out - answers).mean(-1)
