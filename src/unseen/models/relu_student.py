"""A two-layer student of real-valued functions."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class ReluStudent(eqx.Module):
    """f(x) = v . relu(W x) / sqrt(width), which starts at 0.

    The factor keeps the sharpness of the loss the same for every width, so that one learning rate serves all.

    Source: Advani and Saxe (2017, arXiv 1710.03667): small first layer, second layer at zero.

    Attributes:
        weights: W, one column a unit.
        readout: v.
    """

    weights: Float[Array, "inputs width"]
    readout: Float[Array, " width"]

    def __init__(self, inputs: int, width: int, *, key: PRNGKeyArray, scale: float = 1.0):
        """Normal first-layer weights of standard deviation scale/sqrt(inputs)."""
        self.weights = scale * jax.random.normal(key, (inputs, width)) / jnp.sqrt(inputs)
        self.readout = jnp.zeros(width)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch"]:
        """The output."""
        return jax.nn.relu(x @ self.weights) @ self.readout / jnp.sqrt(self.readout.size)
