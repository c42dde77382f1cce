"""A policy network for bets on how often an outcome follows an action."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class GoalConditionedCounter(eqx.Module):
    """Logits of success of the two branches of a composite goal (`unseen.worlds.control.CompositeGoal`).

    It sees the goal alone, the pair of state and action and the outcome as one-hot vectors, k and n as numbers, and
    nothing of the process. Its policy is the branch with the larger logit.

    Attributes:
        net: two hidden layers.
        states, actions, most: numbers of states and actions, and the depth at which the inputs k/n and log n reach 1.
    """

    net: eqx.nn.MLP
    states: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    most: int = eqx.field(static=True)

    def __init__(self, states: int, actions: int, *, width: int, most: int = 64, key: PRNGKeyArray) -> None:
        self.states, self.actions, self.most = states, actions, most
        self.net = eqx.nn.MLP(states * actions + states + 3, 2, width, 2, key=key)

    def __call__(
        self,
        state: Int[Array, "*goals"],
        action: Int[Array, "*goals"],
        outcome: Int[Array, "*goals"],
        at_most: Int[Array, "*goals"],
        depth: Int[Array, "*goals"],
    ) -> Float[Array, "*goals 2"]:
        """Logits that the outcome follows at most k times in n tries, and more often."""
        # The middle of the gap between k and k + 1 successes is what the share of successes is compared with.
        share = (at_most + 0.5) / depth
        log_depth = jnp.log2(depth) / math.log2(self.most)
        x = jnp.concatenate(
            [
                jax.nn.one_hot(state * self.actions + action, self.states * self.actions),
                jax.nn.one_hot(outcome, self.states),
                jnp.stack([share, log_depth, (share - 0.5) * jnp.sqrt(depth / self.most)], -1),
            ],
            -1,
        )
        flat = x.reshape(-1, x.shape[-1])
        return jax.vmap(self.net)(flat).reshape(*x.shape[:-1], 2)
