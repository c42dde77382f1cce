"""What a policy does, as shares of episodes in which something comes about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key


def predicate_profile(
    act: Callable[[Key[Array, ""], Array], Array],
    environment: Any,
    params: Any,
    predicates: Callable[[Any], Bool[Array, " predicates"]],
    key: Key[Array, ""],
    *,
    episodes: int = 32,
    steps: int | None = None,
) -> Float[Array, " predicates"]:
    """Shares of episodes in which each predicate holds after some step.

    Args:
        act: (key, observation) -> action; may be stochastic.
        environment: with gymnax 1.0's interface.
        params: its parameters.
        predicates: state -> what holds in it.
        episodes: played side by side, each from a reset.
        steps: the longest episode, by default `params.max_steps_in_episode`. What comes after an earlier end is not
            counted.

    Source: Groth et al. (2021) describe behaviours in words; here they are counted.
    """
    count = params.max_steps_in_episode if steps is None else steps

    def episode(key: Key[Array, ""]) -> Bool[Array, " predicates"]:
        begin, play = jax.random.split(key)
        observation, state = environment.reset_env(begin, params)

        def step(carry: tuple, key: Key[Array, ""]) -> tuple[tuple, None]:
            observation, state, over, seen = carry
            choose, move = jax.random.split(key)
            observation, state, _, ended, _ = environment.step_env(move, state, act(choose, observation), params)
            return (observation, state, over | ended, seen | (predicates(state) & ~over)), None

        nothing = jnp.zeros_like(predicates(state))
        start = observation, state, jnp.zeros((), bool), nothing
        return jax.lax.scan(step, start, jax.random.split(play, count))[0][-1]

    return jax.vmap(episode)(jax.random.split(key, episodes)).mean(0)
