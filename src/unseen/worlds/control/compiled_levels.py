"""Levels of reward objects as small tables: fast to walk in, and exact to evaluate."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unseen.lab import UserError
from unseen.worlds.control.grid_levels import MOVES, GridLevel


class CompiledLevel(eqx.Module):
    """A `GridLevel` with one player, walls and objects (no lava, keys, boxes, switches), or with leading axes many.

    The same dynamics as `GridLevels` without slip, but a step takes one look into a table and a handful of comparisons,
    and its random numbers from outside, so that a whole rollout's are drawn at once. A state is a cell inside of the
    border, row by row, times `patterns`, plus one binary digit for each object, present or not.

    Example:
        >>> level = CompiledLevel.of(kind(jax.random.key(0)))
        >>> state, reward, ended = level.step(level.start, action, jax.random.uniform(key, (1 + level.objects,)))
        >>> best = level.optimum(horizon=50)

    Attributes:
        arrive: cell after each move from each cell.
        cell: of each object, as a number.
        reward, ends, respawn: of each object, see `GridLevel`.
        start: number of the first state: the player's first cell, all objects there.
    """

    arrive: Int[Array, "*levels cells moves"]
    cell: Int[Array, "*levels objects"]
    reward: Float[Array, "*levels objects"]
    ends: Float[Array, "*levels objects"]
    respawn: Float[Array, "*levels objects"]
    start: Int[Array, "*levels"]

    @classmethod
    def of(cls, level: GridLevel) -> CompiledLevel:
        """The tables of one level (vmap for many).

        Raises:
            UserError: if the level has several players, or (where that is known outside of a trace) lava, a key, a box
                or a switch.
        """
        if level.players != 1:
            raise UserError(f"CompiledLevel takes levels with one player, got {level.players}.")
        others = jnp.stack([level.key, level.box, level.switch])
        if not isinstance(others, jax.core.Tracer) and (bool((others >= 0).any()) or bool(level.lava.any())):
            raise UserError("CompiledLevel takes levels of walls and objects, got lava, a key, a box or a switch.")
        rows, columns = level.size
        cell = np.stack(np.meshgrid(np.arange(1, rows - 1), np.arange(1, columns - 1), indexing="ij"), -1)
        target = cell.reshape(-1, 1, 2) + MOVES

        def number(cell: Array | np.ndarray) -> Array | np.ndarray:
            return (cell[..., 0] - 1) * (columns - 2) + cell[..., 1] - 1

        here = np.arange(len(target))[:, None]
        arrive = jnp.where(level.walls[target[..., 0], target[..., 1]], here, number(target))
        start = jnp.asarray((number(level.start[0]) + 1) * 2**level.objects - 1)
        return cls(arrive, jnp.asarray(number(level.object_cell)), level.reward, level.ends, level.respawn, start)

    @property
    def objects(self) -> int:
        """How many objects there are."""
        return self.cell.shape[-1]

    @property
    def patterns(self) -> int:
        """Which objects are there: how many possibilities."""
        return 2**self.objects

    @property
    def states(self) -> int:
        """Number of states, those inside of walls included."""
        return self.arrive.shape[-2] * self.patterns

    @property
    def moves(self) -> int:
        """Number of actions: up, right, down, left."""
        return self.arrive.shape[-1]

    def step(
        self, state: Int[Array, ""], action: Int[Array, ""], uniform: Float[Array, " draws"]
    ) -> tuple[Int[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        """The next state, the reward, and whether an object ended the episode.

        Args:
            uniform: 1 + objects random numbers in [0, 1): for the end, and for each object's return.
        """
        digit = 2 ** np.arange(self.objects)[::-1]
        cell = self.arrive[state // self.patterns, action]
        present = (state // digit) % 2 == 1
        taken = present & (self.cell == cell)
        # Objects lie in different cells: at most one is taken in a step.
        ended = uniform[0] < jnp.sum(taken * self.ends)
        after = (present & ~taken) | (uniform[1:] < self.respawn)
        return cell * self.patterns + jnp.sum(after * digit), jnp.sum(taken * self.reward), ended

    # Exact answers ---------------------------------------------------------------------------------------

    def _backup(self, after: Float[Array, "cells patterns"]) -> Float[Array, "cells patterns moves"]:
        """Reward of a move plus the expected value after it."""
        digits = np.array(list(itertools.product((0, 1), repeat=self.objects)))
        # Expectation over returning objects, one object at a time.
        cells = after.shape[0]
        value = after.reshape(cells, *[2] * self.objects)
        for i in range(self.objects):
            gone, there = jnp.split(value, 2, axis=1 + i)
            value = jnp.concatenate([gone + self.respawn[i] * (there - gone), there], 1 + i)
        value = value.reshape(cells, self.patterns)
        taken = (digits == 1) & (jnp.arange(cells)[:, None, None] == self.cell)
        left = jnp.arange(self.patterns) - taken @ (2 ** np.arange(self.objects)[::-1])
        arrived = taken @ self.reward + (1 - taken @ self.ends) * jnp.take_along_axis(value, left, 1)
        return jnp.moveaxis(arrived[self.arrive], 1, 2)

    def evaluate(self, policy: Float[Array, "states moves"], horizon: int) -> Float[Array, ""]:
        """Expected undiscounted return of an episode of at most `horizon` steps, from the start."""
        chances = policy.reshape(-1, self.patterns, self.moves)

        def back(after: Array, _: None) -> tuple[Array, None]:
            return jnp.sum(chances * self._backup(after), -1), None

        values, _ = jax.lax.scan(back, jnp.zeros(chances.shape[:2]), None, horizon)
        return values.ravel()[self.start]

    def optimum(self, horizon: int) -> Float[Array, ""]:
        """The best possible value of `evaluate`, by policies that may look at the clock."""

        def back(after: Array, _: None) -> tuple[Array, None]:
            return self._backup(after).max(-1), None

        values, _ = jax.lax.scan(back, jnp.zeros((self.arrive.shape[-2], self.patterns)), None, horizon)
        return values.ravel()[self.start]
