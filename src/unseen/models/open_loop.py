"""A world model that is trained the way imagination uses it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from unseen.models.world_model import Foreseen, WorldModel


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
