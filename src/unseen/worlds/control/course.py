"""Grid levels of one walker as tables of cells: episodes and shortest ways become work on arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.worlds.control.grid_levels import MOVES, GridLevel, distances

FREE, LAVA, GOAL = 0, 1, 2  # what a cell is to who steps on it


class Course(eqx.Module):
    """Levels with one player, walls, lava and one goal (no key, door, box or slip) as `GridLevels` plays them. Cells
    inside the border are numbered row by row.

    Attributes:
        following: the cell that each of the four moves leads to.
        status: `FREE`, `LAVA` or `GOAL`; the latter two end an episode.
        walls: impassable.
        usable: free cells from which the goal can be reached.
        start, goal: cells.
        size: rows and columns inside the border.
    """

    following: Int[Array, "levels cells moves"]
    status: Int[Array, "levels cells"]
    walls: Bool[Array, "levels cells"]
    usable: Bool[Array, "levels cells"]
    start: Int[Array, " levels"]
    goal: Int[Array, " levels"]
    size: tuple[int, int] = eqx.field(static=True)

    @classmethod
    def of(cls, levels: GridLevel) -> Course:
        """The tables of stacked levels."""
        rows, columns = levels.size[0] - 2, levels.size[1] - 2
        cells = jnp.stack(jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij"), -1).reshape(-1, 2)
        steps = cells[:, None] + jnp.asarray(MOVES)
        inside = ((steps >= 0) & (steps < jnp.array([rows, columns]))).all(-1)
        there = jnp.where(inside, steps[..., 0] * columns + steps[..., 1], 0)

        def number(cell: Array) -> Array:
            return (cell[0] - 1) * columns + cell[1] - 1

        def one(level: GridLevel) -> tuple[Array, ...]:
            walls, lava = level.walls[1:-1, 1:-1].ravel(), level.lava[1:-1, 1:-1].ravel()
            following = jnp.where(inside & ~walls[there], there, jnp.arange(rows * columns)[:, None])
            goal = number(level.object_cell[0])
            status = jnp.where(lava, LAVA, FREE).at[goal].set(GOAL)
            far = distances(level.walls | level.lava, level.object_cell[0])[1:-1, 1:-1].ravel()
            usable = jnp.isfinite(far) & (status == FREE)
            return following, status, walls, usable, number(level.start[0]), goal

        return cls(*jax.vmap(one)(levels), (rows, columns))

    @property
    def cells(self) -> int:
        """How many."""
        return self.status.shape[-1]

    def planes(self) -> Float[Array, "levels rows columns 3"]:
        """Where one can stand, lava, and the goal, as zeros and ones: all zero in walls, as beyond the border."""
        free = ~self.walls & (self.status != LAVA)
        found = jnp.stack([free, self.status == LAVA, self.status == GOAL], -1)
        return found.reshape(-1, *self.size, 3).astype(jnp.float32)

    def arrivals(self, level: Int[Array, ""], moves: Int[Array, "cells targets"], targets: Int[Array, " targets"],
                 horizon: int) -> Float[Array, "cells targets"]:  # fmt: skip
        """Steps from every cell to every target (a cell), where `moves` says what to do in each cell on the way to
        each: infinite if one ends elsewhere, goes round in circles or takes longer than `horizon`. From a target itself
        it is the time until one is back."""
        following, status = self.following[level], self.status[level]
        here = jnp.broadcast_to(jnp.arange(self.cells)[:, None], moves.shape)
        over = jnp.broadcast_to((status != FREE)[:, None], moves.shape)

        def step(carry: tuple[Array, Array, Array], time: Array) -> tuple[tuple[Array, Array, Array], None]:
            here, over, taken = carry
            after = following[here, moves[here, jnp.arange(len(targets))]]
            reached = ~over & (after == targets) & (status[after] != LAVA)
            taken = jnp.where(reached, time + 1.0, taken)
            return (jnp.where(over, here, after), over | reached | (status[after] != FREE), taken), None

        start = here, over, jnp.full(moves.shape, jnp.inf)
        return jax.lax.scan(step, start, jnp.arange(horizon))[0][2]


class Place(NamedTuple):
    """A running episode: the level, the cell, the practised goal (a cell) and the steps so far."""

    level: Int[Array, ""]
    cell: Int[Array, ""]
    goal: Int[Array, ""]
    time: Int[Array, ""]


Judge = Callable[[Int[Array, "*batch 2"], Int[Array, "*batch 2"]], tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]]


@dataclasses.dataclass(frozen=True)
class GoalCourse:
    """A course with gymnax's interface, from random cells to a goal of each episode: the level's or, in a share
    `practice` of the episodes, a random cell.

    Observations are (observation, goal): numbers of the level, the cell and its status, and of the goal and its status.

    Attributes:
        judge: (cell and status reached, goal) -> reward and whether that ends the episode, batched or not.
        observe: (observation, goal) -> what the learner sees as a pytree.
        horizon: the time limit.
        practice: share of episodes with a goal at random.
    """

    judge: Judge
    observe: Callable[[Array, Array], Any]
    horizon: int = 60
    practice: float = 0.0

    def reset(self, key: Key[Array, ""], params: Course) -> tuple[Any, Place]:
        """A new episode on one of the levels."""
        course = params
        which, begin, end, own = jax.random.split(key, 4)
        level = jax.random.randint(which, (), 0, course.goal.shape[0])
        weight = jnp.where(course.usable[level], 0.0, -jnp.inf)
        cell = jax.random.categorical(begin, weight)
        other = jax.random.categorical(end, jnp.where(jnp.arange(course.cells) == cell, -jnp.inf, weight))
        # Where the only usable cell is the start there is no other: then the goal is the level's.
        practised = jax.random.bernoulli(own, self.practice) & (course.usable[level].sum() > 1)
        place = Place(level, cell, jnp.where(practised, other, course.goal[level]), jnp.zeros((), int))
        return self.observe(*self._seen(course, place)), place

    def step(self, key: Key[Array, ""], state: Place, action: Int[Array, ""], params: Course) -> tuple:
        """One move; after the last one the observation is the next episode's."""
        course = params
        now = state._replace(cell=course.following[state.level, state.cell, action], time=state.time + 1)
        seen, goal = self._seen(course, now)
        reward, ended = self.judge(seen[1:], goal)
        late = ~ended & (now.time >= self.horizon)
        fresh, first = self.reset(key, params)
        done, last = ended | late, self.observe(seen, goal)
        following = jax.tree.map(lambda a, b: jnp.where(done, a, b), (fresh, first), (last, now))
        return *following, reward, ended, late, {"final_observation": last}

    def _seen(self, course: Course, place: Place) -> tuple[Int[Array, "3"], Int[Array, "2"]]:
        status = course.status[place.level]
        return (
            jnp.stack([place.level, place.cell, status[place.cell]]),
            jnp.stack([place.goal, status[place.goal]]),
        )
