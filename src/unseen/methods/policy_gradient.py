"""Advantages and the clipped objective of policy gradients, as functions of arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Scalar = float | Float[Array, ""]


def advantages(
    reward: Float[Array, "time *batch"],
    value: Float[Array, "time *batch"],
    ends: Bool[Array, "time *batch"],
    last_value: Float[Array, "*batch"],
    gamma: Scalar = 0.99,
    trace: Scalar = 0.95,
) -> Float[Array, "time *batch"]:
    """Generalised advantage estimates (Schulman et al., 2016, equation 16); added to `value` they are lambda-returns.

    Args:
        reward: of each step.
        value: of the state before each step.
        ends: where nothing follows a step.
        last_value: of the state after the last step.
        gamma: discount of a step.
        trace: lambda; 0 looks one step ahead, 1 to the end.
    """

    def back(carry: tuple[Array, Array], step: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        following, found = carry
        reward, value, ends = step
        goes_on = gamma * (1.0 - ends)
        found = reward + goes_on * following - value + goes_on * trace * found
        return (value, found), found

    start = last_value, jnp.zeros_like(last_value)
    return jax.lax.scan(back, start, (reward, value, ends), reverse=True)[1]


def clipped_loss(
    log_prob: Float[Array, "*batch"],
    old_log_prob: Float[Array, "*batch"],
    advantage: Float[Array, "*batch"],
    clip: Scalar = 0.2,
) -> Float[Array, "*batch"]:
    """PPO's loss of each action: minus the smaller of the plain and the clipped ratio times the advantage (Schulman et
    al., 2017, equation 7)."""
    ratio = jnp.exp(log_prob - old_log_prob)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
