"""A world model that is trained the way imagination uses it."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from unseen.models.world_model import Foreseen, LatentDynamics, WorldModel


class OpenLoopWorldModel(WorldModel):
    """A `WorldModel` whose losses are those of its own long predictions: only the first observation of a segment, and
    of each episode in it, is looked at, from there on the model reads what it foresaw itself.

    Errors that would add up in imagination are seen, and unlearned, in training (latent overshooting in the large:
    Hafner et al., 2019, arXiv 1811.04551).
    """

    def watch(
        self, observation: Float[Array, "time obs"], action: Float[Array, "time action"], first: Bool[Array, " time"]
    ) -> tuple[Float[Array, "time memory"], Float[Array, "time latent"], Foreseen]:
        """The memory before each step, the latent that was read then (the model's own, but at a beginning), and what
        was foreseen of the step."""
        seen = jax.vmap(lambda one: self.vae.encode(one)[0])(observation)

        def step(carry: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], tuple]:
            memory, latent = carry
            seen, action, first = now
            memory = jnp.where(first, self.dynamics.start(), memory)
            latent = jnp.where(first, seen, latent)
            after, foreseen = self.dynamics(memory, latent, action)
            return (after, foreseen.latent), (memory, latent, foreseen)

        begin = self.dynamics.start(), seen[0]
        return jax.lax.scan(step, begin, (seen, action, first))[1]


class DeepDynamics(LatentDynamics):
    """A `LatentDynamics` whose heads are networks that read latent and action beside the memory; what follows is a
    change of the present latent. One step can then depend on what lies in the way of a move.

    Attributes:
        following, reward, ends: (memory, latent, action) -> change of the latent, reward, logit of an end.
    """

    following: eqx.nn.MLP  # type: ignore[assignment]
    reward: eqx.nn.MLP  # type: ignore[assignment]
    ends: eqx.nn.MLP  # type: ignore[assignment]

    def __init__(self, latent: int, action: int, memory: int = 64, width: int = 128, *, key: PRNGKeyArray):
        cell, following, reward, ends = jax.random.split(key, 4)
        self.cell = eqx.nn.GRUCell(latent + action, memory, key=cell)
        read = memory + latent + action
        self.following = eqx.nn.MLP(read, latent, width, 2, key=following)
        self.reward = eqx.nn.MLP(read, 1, width, 1, key=reward)
        self.ends = eqx.nn.MLP(read, 1, width, 1, key=ends)

    def __call__(
        self, memory: Float[Array, " memory"], latent: Float[Array, " latent"], action: Float[Array, " action"]
    ) -> tuple[Float[Array, " memory"], Foreseen]:
        """The memory after a step, and what it foresees."""
        memory = self.cell(jnp.concatenate([latent, action]), memory)
        read = jnp.concatenate([memory, latent, action])
        return memory, Foreseen(latent + self.following(read), self.reward(read)[0], self.ends(read)[0])

    def in_units(self, unit: float) -> DeepDynamics:
        """The same, with rewards counted in other units: those foreseen times `unit`."""
        head = self.reward.layers[-1]
        return eqx.tree_at(
            lambda one: (one.reward.layers[-1].weight, one.reward.layers[-1].bias),
            self,
            (unit * head.weight, unit * head.bias),
        )
