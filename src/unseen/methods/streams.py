"""Random streams for optimizers, which see no key of the run that they serve."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray


def noise_stream(key: PRNGKeyArray, params: Any) -> PRNGKeyArray:
    """A key that follows from `key` and from the first weights: runs that start elsewhere get other noise, runs that
    start at the same point the same noise (coupled runs)."""
    for leaf in jax.tree.leaves(params):
        bits = jax.lax.bitcast_convert_type(jnp.asarray(leaf, jnp.float32), jnp.uint32)
        mixed = bits.ravel() * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1)  # odd factors: order matters
        key = jax.random.fold_in(key, jnp.bitwise_xor.reduce(mixed))
    return key
