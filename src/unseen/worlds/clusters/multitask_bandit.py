"""Contextual bandits that share a representation, or do not."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from unseen.lab import UserError


class MultitaskBandit(eqx.Module):
    """Several tasks, played at once: in each round every task shows some contexts, one is chosen in each, and pays
    `representation(context) @ head` plus normal noise.

    Axes: number of tasks, and whether they share the representation.

    Attributes:
        contexts: pool that candidates are drawn from, what a learner sees.
        values: mean reward of each context in each task.
        candidates: contexts that a task shows in a round.
        noise: standard deviation of a reward.
    """

    contexts: Float[Array, "pool inputs"]
    values: Float[Array, "tasks pool"]
    candidates: int = eqx.field(static=True, default=10)
    noise: float = eqx.field(static=True, default=0.3)

    @classmethod
    def of_maps(
        cls,
        key: Key[Array, ""],
        features: Float[Array, "maps pool dims"],
        contexts: Float[Array, "pool inputs"],
        tasks: int,
        *,
        shared: bool | Float[Array, ""] = True,
        candidates: int = 10,
        noise: float = 0.3,
    ) -> MultitaskBandit:
        """Tasks whose representation is one of a finite class of maps.

        Heads are uniform on the unit sphere. One map is drawn for all tasks if `shared`, else one for each; the
        heads are the same in both cases.

        Args:
            features: what each map of the class makes of each context.
        """
        which, head = jax.random.split(key)
        drawn = jax.random.randint(which, (tasks,), 0, features.shape[0])
        drawn = jnp.where(jnp.asarray(shared, bool), drawn[0], drawn)
        heads = jax.random.normal(head, (tasks, features.shape[-1]))
        heads = heads / jnp.linalg.norm(heads, axis=1, keepdims=True)
        return cls(contexts, jnp.einsum("mpd,md->mp", features[drawn], heads), candidates, noise)

    @classmethod
    def digits(
        cls,
        key: Key[Array, ""],
        tasks: int,
        *,
        shared: bool | Float[Array, ""] = True,
        dims: int = 4,
        candidates: int = 10,
        noise: float = 0.3,
    ) -> MultitaskBandit:
        """Images of scikit-learn's digits (1,797 of 8 x 8 pixels, scaled to [0, 1]) as contexts. A hidden table gives
        each class a vector of `dims` standard normal numbers, and a task's head on the unit sphere a reward; tasks
        that do not share have tables of their own."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        labels = jnp.asarray(np.asarray(bunch.target))
        table = jax.random.normal(jax.random.fold_in(key, 7), (tasks, 10, dims))
        # As a class of maps: one for each task's table.
        images = jnp.asarray(np.asarray(bunch.data) / 16, jnp.float32)
        return cls.of_maps(key, table[:, labels], images, tasks, shared=shared, candidates=candidates, noise=noise)

    @property
    def tasks(self) -> int:
        """Their number."""
        return self.values.shape[0]

    def show(self, key: Key[Array, ""]) -> Int[Array, "tasks candidates"]:
        """The candidates of a round, by their number in the pool; with replacement."""
        return jax.random.randint(key, (self.tasks, self.candidates), 0, len(self.contexts))

    def pay(self, key: Key[Array, ""], chosen: Int[Array, " tasks"]) -> Float[Array, " tasks"]:
        """Noisy rewards of the chosen contexts."""
        mean = jnp.take_along_axis(self.values, chosen[:, None], 1)[:, 0]
        return mean + self.noise * jax.random.normal(key, mean.shape)

    def loss(self, shown: Int[Array, "tasks candidates"], chosen: Int[Array, " tasks"]) -> Float[Array, " tasks"]:
        """Regret of a round: the best candidate's mean reward minus the chosen one's."""
        best = jnp.take_along_axis(self.values, shown, 1).max(1)
        return best - jnp.take_along_axis(self.values, chosen[:, None], 1)[:, 0]


def random_maps(
    key: Key[Array, ""], maps: int, contexts: Float[Array, "pool inputs"], *, dims: int = 4, width: int = 16
) -> Float[Array, "maps pool dims"]:
    """What random two-layer networks make of contexts: `tanh(x W) V`, each output scaled to variance 1 over the pool.

    Raises:
        UserError: if there are fewer than two maps.
    """
    if maps < 2:
        raise UserError(f"maps takes a whole number from 2 on, got {maps}.")
    inputs = contexts.shape[1]

    def one(key: Array) -> Array:
        first, second = jax.random.split(key)
        hidden = jnp.tanh(2 * contexts @ jax.random.normal(first, (inputs, width)) / inputs**0.5)
        out = hidden @ jax.random.normal(second, (width, dims)) / width**0.5
        return (out - out.mean(0)) / out.std(0)

    return jax.lax.map(one, jax.random.split(key, maps), batch_size=32)
