"""A learner made of arithmetic: a grid of skills that unlock each other, to test teachers with."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


class SyntheticLearner(eqx.Module):
    """A `side` x `side` grid of skills over the unit square of tasks.

    A visit of a task raises its cell by one up to `cap`, if the cell is the hidden `start` or one of its four
    neighbours has reached `unlock`; otherwise nothing is learned. The reward is the cell's competence over `cap`.

    Axes: `start` (which skill comes first: learners of unknown abilities), `side`.

    Attributes:
        start: row and column of the cell that needs no neighbour.
        side: cells along an axis.
        cap, unlock: in visits.

    Source: Portelas et al., "Meta Automatic Curriculum Learning" (2020), section on the toy environment; code
    flowersteam/meta-acl, the second version of its toy environment (four neighbours, any start).
    """

    start: Int[Array, "2"]
    side: int = eqx.field(static=True, default=10)
    cap: float = eqx.field(static=True, default=100.0)
    unlock: float = eqx.field(static=True, default=75.0)

    @classmethod
    def random(cls, key: Key[Array, ""], side: int = 10, **settings: float) -> SyntheticLearner:
        """A learner that starts anywhere."""
        return cls(jax.random.randint(key, (2,), 0, side), side, **settings)

    def init(self) -> Float[Array, "side side"]:
        """The competence of a learner that knows nothing."""
        return jnp.zeros((self.side, self.side))

    def cell(self, task: Float[Array, "2"]) -> Int[Array, "2"]:
        """The cell in which a task lies."""
        return jnp.clip(jnp.floor(task * self.side).astype(int), 0, self.side - 1)

    def open(self, competence: Float[Array, "side side"]) -> Bool[Array, "side side"]:
        """Which skills can be learned now (or have been)."""
        able = jnp.pad(competence >= self.unlock, 1)
        beside = able[:-2, 1:-1] | able[2:, 1:-1] | able[1:-1, :-2] | able[1:-1, 2:]
        return beside.at[self.start[0], self.start[1]].set(True)

    def episode(
        self, competence: Float[Array, "side side"], task: Float[Array, "2"]
    ) -> tuple[Float[Array, "side side"], Float[Array, ""]]:
        """One visit of a task: the new competence and the reward."""
        row, column = self.cell(task)
        own = competence[row, column]
        rows = jnp.stack([row - 1, row + 1, row, row])
        columns = jnp.stack([column, column, column - 1, column + 1])
        inside = (rows >= 0) & (rows < self.side) & (columns >= 0) & (columns < self.side)
        beside = (inside & (competence[rows, columns] >= self.unlock)).any()
        learns = beside | ((row == self.start[0]) & (column == self.start[1]))
        after = jnp.where(learns, jnp.minimum(own + 1, self.cap), own)
        return competence.at[row, column].set(after), after / self.cap

    def frontier(self, competence: Float[Array, "side side"], key: Key[Array, ""]) -> Float[Array, "2"]:
        """A task that teaches something: in the open cell nearest to being mastered (any cell once all are)."""
        worth = jnp.where(self.open(competence) & (competence <= self.unlock), competence, -1.0)
        best = jnp.argmax(worth)
        corner = jnp.stack([best // self.side, best % self.side])
        return (corner + jax.random.uniform(key, (2,))) / self.side


def mastered_share(competence: Float[Array, "*batch side side"], above: float = 75.0) -> Float[Array, "*batch"]:
    """Share of skills whose competence is above the mark."""
    return (competence > above).mean((-2, -1))
