"""Two-layer networks of one output, for exclusive-or worlds."""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class TwoLayerFixedReadout(eqx.Module):
    """f(x) = sum_j a_j relu(w_j . x) with a_j = 1/sqrt(width) or its negative, drawn once and not trained.

    Source: Xu et al. (2023, arXiv 2310.02541).

    Attributes:
        weights: of the first layer, one column a unit.
        signs: of the read-out, integers, so that no optimizer moves them.
    """

    weights: Float[Array, "dimension width"]
    signs: Int[Array, " width"]

    def __init__(self, dimension: int, width: int, *, key: PRNGKeyArray, scale: float = 1e-6):
        """Normal first-layer weights with standard deviation `scale`."""
        w, a = jax.random.split(key)
        self.weights = scale * jax.random.normal(w, (dimension, width))
        self.signs = jax.random.rademacher(a, (width,))

    def __call__(
        self, x: Float[Array, "*batch dimension"], answers: Float[Array, "*batch width"] | float = 0.0
    ) -> Float[Array, "*batch"]:
        """The output; `answers` are added to what the units read (see `XorClusters.sample_in_span`)."""
        return jax.nn.relu(x @ self.weights + answers) @ self.signs / jnp.sqrt(self.signs.size)


Kind = Literal["plain", "bias", "normalised"]


class XorNets(eqx.Module):
    """Two-layer ReLU networks of one output in three kinds, whose flattest solutions differ.

    "plain": f(x) = v . relu(W x). "bias": v . relu(W x + b). "normalised": v . h / max(|h|, 1e-6) with
    h = relu(W x + b), a layer norm without centring.

    Source: Wen et al. (2023, arXiv 2307.11007).

    Attributes:
        weights: W, one row a unit.
        bias: b; None in the plain network.
        readout: v.
        normalised: whether the hidden features have length 1.
    """

    weights: Float[Array, "width inputs"]
    bias: Float[Array, " width"] | None
    readout: Float[Array, " width"]
    normalised: bool = eqx.field(static=True)

    def __init__(self, inputs: int, width: int, kind: Kind, *, key: PRNGKeyArray):
        """Uniform initial values within 1/sqrt(number of a layer's inputs), as PyTorch's linear layers have."""
        w, b, v = jax.random.split(key, 3)

        def uniform(key: PRNGKeyArray, shape: tuple[int, ...], inputs: int) -> Array:
            return jax.random.uniform(key, shape, minval=-1, maxval=1) / jnp.sqrt(inputs)

        self.weights = uniform(w, (width, inputs), inputs)
        self.bias = None if kind == "plain" else uniform(b, (width,), inputs)
        self.readout = uniform(v, (width,), width)
        self.normalised = kind == "normalised"

    def features(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch width"]:
        """What the read-out reads."""
        read = x @ self.weights.T
        hidden = jax.nn.relu(read if self.bias is None else read + self.bias)
        if not self.normalised:
            return hidden
        # The square root of at least 1e-12, not the length itself: it has a gradient where all units are silent.
        length = jnp.sqrt(jnp.maximum(jnp.sum(hidden**2, -1, keepdims=True), 1e-12))
        return hidden / length

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch"]:
        """The output."""
        return self.features(x) @ self.readout
