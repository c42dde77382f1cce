"""Networks of single examples, called on batches."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float


class Batched(eqx.Module):
    """A module of one example as one of a batch: `jax.vmap` that is a module itself, as `classifier` takes it.

    Example:
        >>> net = Batched(FeatureNet.mlp(64, 10, widths=(64,), key=key))
        >>> logits = net(images)

    Attributes:
        net: the module; its inexact arrays are what is trained.
    """

    net: Any

    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """What the network says of every example of the batch."""
        return jax.vmap(self.net)(x)
