"""A perceptron whose width and batch norm are values, so that one compiled program trains many architectures."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.models.batch_norm import GhostBatchNorm


class ChoiceMLP(eqx.Module):
    """One hidden layer of up to `most` units, of which the first `width` are on, with batch norm or without.

    Units that are off are always 0 and have no gradient, and the head is initialised for the width, so the network
    is the narrow one. Called on a batch.

    Attributes:
        layer, head: linear layers.
        norm: batch norm of the hidden layer, used where `normalise`.
        on: which hidden units there are.
        normalise: whether there is batch norm.
    """

    layer: eqx.nn.Linear
    norm: GhostBatchNorm
    head: eqx.nn.Linear
    on: Bool[Array, " most"]
    normalise: Bool[Array, ""]

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        most: int,
        width: int | Int[Array, ""],
        normalise: bool | Bool[Array, ""],
        key: PRNGKeyArray,
    ) -> None:
        """`width` (from 1 to `most`) and `normalise` may be traced."""
        first, last = jax.random.split(key)
        self.layer = eqx.nn.Linear(inputs, most, key=first)
        self.norm = GhostBatchNorm.of(most)
        head = eqx.nn.Linear(most, classes, key=last)
        # Equinox draws within 1 / sqrt(fan-in), which is the width's here.
        self.head = jax.tree.map(lambda w: w * jnp.sqrt(most / width), head)
        self.on = jnp.arange(most) < width
        self.normalise = jnp.asarray(normalise)

    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch classes"]:
        """Logits of a batch."""
        hidden = x @ self.layer.weight.T + self.layer.bias
        hidden = jnp.where(self.normalise, self.norm(hidden), hidden)
        return jnp.where(self.on, jax.nn.relu(hidden), 0) @ self.head.weight.T + self.head.bias

    def settled(self, x: Float[Array, "example inputs"], weights: Float[Array, " example"]) -> ChoiceMLP:
        """A copy whose batch norm uses the statistics of `x` under `weights`."""
        norm = self.norm.settled(x @ self.layer.weight.T + self.layer.bias, weights)
        return eqx.tree_at(lambda net: net.norm, self, norm)
