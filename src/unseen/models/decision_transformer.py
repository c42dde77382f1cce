"""A causal transformer over condition, observation and action tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.lab import UserError
from unseen.models.transformer import Block


class History(NamedTuple):
    """The last steps of an episode, newest last: what a decision transformer remembers while it acts.

    Attributes:
        observation, action: zero where no step was taken yet; the newest action is not chosen yet.
        taken: number of steps in the window.
    """

    observation: Float[Array, "context observation"]
    action: Float[Array, "context action"]
    taken: Int[Array, ""]


class DecisionTransformer(eqx.Module):
    """Acts by sequence prediction: tokens (condition, observation, action) of the last steps, in this order;
    the action is read off the observation's token.

    One sequence; `jax.vmap` over a batch. The condition may be a goal, a return to go, a latent, a text
    embedding: a vector a step, embedded by `embed_condition` (any module vector -> width). Same network as
    `transformers`' DecisionTransformerModel, which a test checks.

    Sources: Chen et al. (2021, arXiv 2106.01345), algorithm 1; goal-conditioned as in Ghugare et al. (2024,
    arXiv 2401.11237), appendix.

    Attributes:
        time_table: one learned row a time step, added to all three tokens of a step.
        context: number of steps that `act` looks back.
    """

    embed_condition: Any
    embed_observation: eqx.nn.Linear
    embed_action: eqx.nn.Linear
    time_table: Float[Array, "times width"]
    norm_in: eqx.nn.LayerNorm
    blocks: tuple[Block, ...]
    norm_out: eqx.nn.LayerNorm
    head: eqx.nn.Linear
    context: int = eqx.field(static=True)

    def __init__(
        self,
        observation: int,
        action: int,
        condition: int = 1,
        *,
        width: int = 32,
        layers: int = 2,
        heads: int = 4,
        context: int = 10,
        times: int | None = None,
        embed_condition: Any = None,
        key: PRNGKeyArray,
    ):
        """Sizes of one step's vectors; `times` rows of time (default: the context's length, so that time
        counts from the window's start); `embed_condition` replaces the linear embedding of the condition.

        Raises:
            UserError: if the width is no multiple of the heads.
        """
        if width % heads:
            raise UserError(f"width takes a multiple of the {heads} heads, got {width}.")
        keys = jax.random.split(key, 5 + layers)
        linear = eqx.nn.Linear
        self.embed_condition = embed_condition or linear(condition, width, key=keys[0])
        self.embed_observation = linear(observation, width, key=keys[1])
        self.embed_action = linear(action, width, key=keys[2])
        self.time_table = 0.02 * jax.random.normal(keys[3], (times or context, width))
        self.norm_in = eqx.nn.LayerNorm(width)
        self.blocks = tuple(Block(width, heads, key=k) for k in keys[5:])
        self.norm_out = eqx.nn.LayerNorm(width)
        self.head = linear(width, action, key=keys[4])
        self.context = context

    def __call__(
        self,
        condition: Float[Array, "steps condition"],
        observation: Float[Array, "steps observation"],
        action: Float[Array, "steps action"],
        time: Int[Array, " steps"] | None = None,
        present: Bool[Array, " steps"] | None = None,
    ) -> Float[Array, "steps action"]:
        """The action predicted at each step from the steps up to it (its own action unseen), in [-1, 1].

        Args:
            time: rows of the time table, by default 0, 1, 2, ...
            present: false at padding, which no token sees.
        """
        steps = observation.shape[0]
        rows = self.time_table[jnp.arange(steps) if time is None else time]
        tokens = jnp.stack(
            [
                jax.vmap(embed)(x) + rows
                for embed, x in (
                    (self.embed_condition, condition),
                    (self.embed_observation, observation),
                    (self.embed_action, action),
                )
            ],
            axis=1,
        ).reshape(3 * steps, -1)
        x = jax.vmap(self.norm_in)(tokens)
        allowed = jnp.tril(jnp.ones((3 * steps, 3 * steps), bool))
        if present is not None:
            allowed &= jnp.repeat(present, 3)[None]
        for block in self.blocks:
            x, _ = block(x, allowed, None, None)
        return jnp.tanh(jax.vmap(self.head)(jax.vmap(self.norm_out)(x[1::3])))

    def remember(self) -> History:
        """The history at an episode's start."""
        observation, action = self.embed_observation.in_features, self.embed_action.in_features
        return History(
            jnp.zeros((self.context, int(observation))),
            jnp.zeros((self.context, int(action))),
            jnp.zeros((), jnp.int32),
        )

    def act(
        self,
        history: History,
        observation: Float[Array, " observation"],
        condition: Float[Array, " condition"],
    ) -> tuple[History, Float[Array, " action"]]:
        """The next action under a condition that is constant over the window, and the history with it."""
        seen = jnp.concatenate([history.observation[1:], observation[None]])
        done = jnp.concatenate([history.action[1:], jnp.zeros_like(history.action[:1])])
        taken = jnp.minimum(history.taken + 1, self.context)
        time = jnp.arange(self.context) - (self.context - taken)
        conditions = jnp.broadcast_to(condition, (self.context, *condition.shape))
        action = self(conditions, seen, done, jnp.maximum(time, 0), time >= 0)[-1]
        return History(seen, done.at[-1].set(action), taken), action
