"""Mazes for a round body that moves continuously: every maze made from one key."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError
from unseen.worlds.control.grid_levels import TEST_LEVELS, Maze, distances


class MazeLevel(eqx.Module):
    """One maze, or with a leading axis on every array many of one size. Lengths are in cells; cell (i, j) is the square
    i <= x < i + 1, j <= y < j + 1.

    Attributes:
        walls: a map of twice the resolution. [2 j + 1, 2 i + 1] is the cell (i, j), always free; [2 j + 1, 2 i] the
            wall without thickness on the line x = i beside it, [2 j, 2 i + 1] the one on the line y = j; [2 j, 2 i] the
            lattice point (i, j), true where a wall ends at it.
        start, goal: positions (x, y).
    """

    walls: Bool[Array, "*levels rows columns"]
    start: Float[Array, "*levels 2"]
    goal: Float[Array, "*levels 2"]


class MazeState(NamedTuple):
    """A running episode: the number of its maze, the body, the push of the last contact, slow averages of the position
    and the step."""

    which: Int[Array, ""]
    position: Float[Array, "2"]
    push: Float[Array, "2"]
    traces: Float[Array, "traces 2"]
    time: Int[Array, ""]


class MazeParams(eqx.Module):
    """What may vary inside one compiled program.

    Attributes:
        levels: mazes that episodes are drawn from, with a leading axis.
        far: [level, row, column], moves (of half a cell, on the map `walls`) from every place to the level's goal.
        progress: reward for every cell that the way to the goal gets shorter.
        max_steps_in_episode: the episode's time limit.
    """

    levels: MazeLevel
    far: Float[Array, "levels rows columns"]
    progress: float | Float[Array, ""]
    max_steps_in_episode: int = eqx.field(static=True)


@dataclasses.dataclass(frozen=True)
class ContinuousMaze(Environment):
    """A disc that slides through mazes with thin walls, as a gymnax environment and as a plain function (`move`).

    A maze is a random spanning tree of `cells` x `cells` cells (the generator of `GridLevels`) with a share `loops` of
    the other walls removed. The action is a velocity: its length is cut at 1, and a step is `speed` times it. A disc
    that would overlap a wall or a wall's end is pushed out along the shortest way, which is exact for steps shorter
    than the radius. Observed are position, goal and the push of the last contact, all scaled to about [-1, 1], and
    where the body was lately (`traces`): never the maze. Reaching the goal pays 1 and ends the episode.

    Axes: layout (the key), `cells`, `loops`, `radius`, `apart`; a wall that moves (`close`).

    Example:
        >>> world = ContinuousMaze()
        >>> train, test = (world.levels(jax.random.key(0), 24, split) for split in ("train", "test"))
        >>> level = world.level(jax.random.key(1))
        >>> position, push = world.move(level, level.start, jnp.array([1.0, 0.0]))

    Attributes:
        cells: of a side.
        loops: share of the walls off the tree that are removed.
        radius: of the body.
        speed: cells a step.
        goal_radius: distance at which the goal counts as reached; less than two radii, so never through a wall.
        apart: least straight distance of start and goal.
        traces: time constants (steps) of running averages of the position, observed relative to it: a memory for
            policies that have none.
    """

    cells: int = 8
    loops: float = 0.15
    radius: float = 0.2
    speed: float = 0.1
    goal_radius: float = 0.3
    apart: float = 4.0
    traces: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.cells < 2:
            raise UserError(f"cells takes 2 or more, got {self.cells}.")
        if not 0 <= self.loops <= 1:
            raise UserError(f"loops takes a share from 0 to 1, got {self.loops}.")
        if not 0 < self.radius < 0.4:
            raise UserError(f"radius takes more than 0 and less than 0.4, got {self.radius}.")
        if not 0 < self.speed <= self.radius:
            raise UserError(f"speed takes more than 0 and at most the radius, {self.radius}, got {self.speed}.")
        if not 0 < self.goal_radius < 2 * self.radius:
            raise UserError(f"goal_radius takes less than two radii, {2 * self.radius}, got {self.goal_radius}.")
        if not 0 <= self.apart <= self.cells - 1:
            raise UserError(f"apart takes 0 to {self.cells - 1} cells, got {self.apart}.")

    # Levels ----------------------------------------------------------------------------------------------

    def level(self, key: Key[Array, ""]) -> MazeLevel:
        """One maze with start and goal, each in a uniformly drawn cell, at a uniform place where the body fits."""
        layout, pair, first, second = jax.random.split(key, 4)
        walls = _with_posts(Maze(2 * self.cells + 1, self.loops)(layout).walls)
        centre = np.stack(np.meshgrid(*[np.arange(self.cells) + 0.5] * 2), -1).reshape(-1, 2).astype(np.float32)
        far = np.linalg.norm(centre[:, None] - centre, axis=-1) >= max(self.apart, 1.0)
        chosen = jax.random.categorical(pair, jnp.where(far.ravel(), 0.0, -jnp.inf))
        room = 0.5 - self.radius

        def place(key: Array, cell: Array) -> Array:
            return jnp.asarray(centre)[cell] + jax.random.uniform(key, (2,), minval=-room, maxval=room)

        return MazeLevel(walls, place(first, chosen // len(centre)), place(second, chosen % len(centre)))

    def levels(self, key: Key[Array, ""], count: int, split: str = "train") -> MazeLevel:
        """Mazes, stacked, from `maze_keys`."""
        return jax.vmap(self.level)(maze_keys(key, count, split))

    def close(self, level: MazeLevel, row: Int[Array, ""] | int, column: Int[Array, ""] | int) -> MazeLevel:
        """The maze with one more wall, at an entry of `walls`."""
        return eqx.tree_at(lambda m: m.walls, level, _with_posts(level.walls.at[row, column].set(True)))

    def distances(self, level: MazeLevel) -> Float[Array, "rows columns"]:
        """Moves of half a cell from every entry of `walls` to the goal's cell, infinite in walls."""
        return distances(level.walls, _entry(level.goal))

    def shortest(self, level: MazeLevel) -> Float[Array, ""]:
        """Length in cells of the shortest way from start to goal through the centres of cells; the body can cut corners
        a little."""
        row, column = _entry(level.start)
        return self.distances(level)[row, column] / 2

    # Dynamics --------------------------------------------------------------------------------------------

    def move(
        self, level: MazeLevel, position: Float[Array, "2"], action: Float[Array, "2"]
    ) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
        """The next position, and by how much walls pushed the body there (zero without contact)."""
        action = action / jnp.maximum(jnp.linalg.norm(action), 1.0)
        wanted = position + self.speed * action
        # Farther than a radius from every wall before, less than a radius gone: `wanted` is on the right side still.
        cell = jnp.clip(jnp.floor(wanted).astype(int), 0, self.cells - 1)
        x, y = 2 * cell[0], 2 * cell[1]
        walls = level.walls
        low = jnp.where(jnp.stack([walls[y + 1, x], walls[y, x + 1]]), cell + self.radius, -jnp.inf)
        high = jnp.where(jnp.stack([walls[y + 1, x + 2], walls[y + 2, x + 1]]), cell + 1 - self.radius, jnp.inf)
        after = jnp.clip(wanted, low, high)
        # The nearest lattice point matters where a wall of other cells ends there.
        point = jnp.round(after).astype(int)
        away = after - point
        distance = jnp.linalg.norm(away)
        hit = walls[2 * point[1], 2 * point[0]] & (distance < self.radius)
        pushed = point + away * self.radius / jnp.maximum(distance, 1e-6)
        after = jnp.where(hit, pushed, after)
        return after, after - wanted

    def reached(self, position: Float[Array, "2"], goal: Float[Array, "2"]) -> Bool[Array, ""]:
        """Whether the body is at the goal."""
        return jnp.linalg.norm(position - goal) <= self.goal_radius

    # gymnax's interface ----------------------------------------------------------------------------------

    def params(
        self, levels: MazeLevel, *, progress: float | Float[Array, ""] = 0.0, max_steps: int = 1_000
    ) -> MazeParams:
        """Parameters of a run on levels (one, or a stack of them)."""
        levels = jax.tree.map(lambda leaf: leaf[None], levels) if levels.walls.ndim == 2 else levels
        return MazeParams(levels, jax.vmap(self.distances)(levels), progress, max_steps)

    @property
    def default_params(self) -> MazeParams:
        """64 training mazes."""
        return self.params(self.levels(jax.random.key(0), 64))

    def reset_env(self, key: Key[Array, ""], params: MazeParams) -> tuple[Float[Array, " obs"], MazeState]:
        """A new episode in one of the mazes."""
        state = self.first(params, jax.random.randint(key, (), 0, params.levels.walls.shape[0]))
        return self.get_obs(state, params), state

    def first(self, params: MazeParams, which: Int[Array, ""]) -> MazeState:
        """The first state in a maze."""
        start = params.levels.start[which]
        traces = jnp.broadcast_to(start, (len(self.traces), 2))
        return MazeState(which, start, jnp.zeros(2), traces, jnp.zeros((), int))

    def step_env(self, key: Key[Array, ""], state: MazeState, action: Any, params: MazeParams) -> tuple:
        """One step of the body."""
        level = jax.tree.map(lambda leaf: leaf[state.which], params.levels)
        position, push = self.move(level, state.position, jnp.asarray(action))
        rate = 1 / jnp.array(self.traces)[:, None] if self.traces else jnp.zeros((0, 1))
        traces = state.traces + rate * (position - state.traces)
        after = MazeState(state.which, position, push, traces, state.time + 1)
        before, now = _entry(state.position), _entry(position)
        far = params.far[state.which]
        nearer = (far[before[0], before[1]] - far[now[0], now[1]]) / 2
        terminated = self.is_terminated(after, params)
        return self.get_obs(after, params), after, terminated + params.progress * nearer, terminated, {}

    def get_obs(self, state: MazeState, params: MazeParams, key: Any = None) -> Float[Array, " obs"]:
        """Position, goal, way to the goal, push, and where the traces are, seen from the body."""
        goal, half = params.levels.goal[state.which], self.cells / 2
        near = (state.traces - state.position).ravel()
        return jnp.concatenate(
            [
                state.position / half - 1,
                goal / half - 1,
                (goal - state.position) / half,
                state.push / self.speed,
                near,
            ]
        )

    def is_terminated(self, state: MazeState, params: MazeParams) -> Bool[Array, ""]:
        """At the goal."""
        return self.reached(state.position, params.levels.goal[state.which])

    @property
    def name(self) -> str:
        """ContinuousMaze."""
        return "ContinuousMaze"

    @property
    def num_actions(self) -> int:
        """Numbers in an action."""
        return 2

    def action_space(self, params: MazeParams | None = None) -> spaces.Box:
        """Velocities."""
        return spaces.Box(-1.0, 1.0, (2,), jnp.float32)

    def observation_space(self, params: MazeParams | None = None) -> spaces.Box:
        """A vector of 8 numbers and two for each trace."""
        return spaces.Box(-jnp.inf, jnp.inf, (8 + 2 * len(self.traces),), jnp.float32)


def maze_keys(key: Key[Array, ""], count: int, split: str = "train") -> Key[Array, " levels"]:
    """Keys of mazes. Ids of training mazes lie below `TEST_LEVELS`, those of test mazes from there on, and `fold_in` is
    one-to-one, so that no maze key of a split is in the other.

    Raises:
        UserError: on an unknown split, or if there are not so many ids.
    """
    if split not in ("train", "test"):
        raise UserError(f"split takes train or test, got {split!r}.")
    if not 1 <= count <= TEST_LEVELS:
        raise UserError(f"count takes 1 to {TEST_LEVELS} mazes, got {count}.")
    ids = jnp.arange(count, dtype=jnp.uint32) + (TEST_LEVELS if split == "test" else 0)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def _entry(position: Float[Array, "2"]) -> Int[Array, "2"]:
    """Row and column of the position's cell on the map `walls`."""
    cell = jnp.floor(position).astype(int)
    return 2 * cell[::-1] + 1


def _with_posts(walls: Bool[Array, "rows columns"]) -> Bool[Array, "rows columns"]:
    """The map with lattice points true only where a wall ends."""
    wide = jnp.pad(walls, 1)
    ends = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    rows, columns = (np.arange(n) % 2 == 0 for n in walls.shape)
    return jnp.where(rows[:, None] & columns, ends, walls)
