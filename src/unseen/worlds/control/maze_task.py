"""One goal in a walled plane, as a gymnax environment; and what a path still is when walls are added."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.worlds.control.maze import PointMaze


class MazeTaskParams(eqx.Module):
    """What may vary inside one compiled program: everything about the maze that is an array, and where to go.

    Attributes:
        maze: its walls, wind, gain and angle; a changed environment is another maze here.
        start, goal: positions.
        price: what the whole time limit costs, where the way from start to goal is worth 1.
        max_steps_in_episode: the time limit.
    """

    maze: PointMaze
    start: Float[Array, "2"]
    goal: Float[Array, "2"]
    price: Float[Array, ""]
    max_steps_in_episode: int = eqx.field(static=True)


class MazeTaskState(NamedTuple):
    """The point's state and the number of steps."""

    point: Float[Array, " state"]
    time: Int[Array, ""]


class MazeTask(Environment):
    """A `PointMaze` with one goal, as a gymnax environment.

    A step pays by how much it shortens the straight distance to the goal, as a share of that at the start, minus
    `price / max_steps`: a whole way is worth 1 minus the time it took. The goal ends the episode. An action longer than
    1 is cut to this length, so that no direction is faster than another. Observed are the position from the goal and,
    in force mode, the velocity: neither walls nor wind.

    Example:
        >>> params = MazeTask().params(PointMaze.preset("open", mode="force"), (1.5, 5.0), (8.5, 5.0))
        >>> observation, state = MazeTask().reset(jax.random.key(0), params)
    """

    def params(
        self, maze: PointMaze, start: Any, goal: Any, *, price: float | Array = 0.5, max_steps: int = 40
    ) -> MazeTaskParams:
        """Parameters of a run."""
        start, goal = jnp.asarray(start, jnp.float32), jnp.asarray(goal, jnp.float32)
        return MazeTaskParams(maze, start, goal, jnp.asarray(price, jnp.float32), max_steps)

    @property
    def default_params(self) -> MazeTaskParams:
        """From one side of the open room to the other."""
        return self.params(PointMaze.preset("open", mode="force"), (1.5, 5.0), (8.5, 5.0))

    def reset_env(self, key: Key[Array, ""], params: MazeTaskParams) -> tuple[Float[Array, " obs"], MazeTaskState]:
        """At rest at the start."""
        state = MazeTaskState(params.maze.start(params.start), jnp.zeros((), jnp.int32))
        return self.get_obs(state, params), state

    def step_env(self, key: Any, state: MazeTaskState, action: Any, params: MazeTaskParams) -> tuple:
        """One step of the point."""
        push = jnp.asarray(action) / jnp.maximum(jnp.sqrt(jnp.square(action).sum()), 1.0)
        after = MazeTaskState(params.maze.step(state.point, push), state.time + 1)
        whole = jnp.linalg.norm(params.start - params.goal)
        nearer = jnp.linalg.norm(state.point[:2] - params.goal) - jnp.linalg.norm(after.point[:2] - params.goal)
        reward = nearer / whole - params.price / params.max_steps_in_episode
        return self.get_obs(after, params), after, reward, self.is_terminated(after, params), {}

    def get_obs(self, state: MazeTaskState, params: MazeTaskParams, key: Any = None) -> Float[Array, " obs"]:
        """Position from the goal in units of half the way, velocity in units of the top speed."""
        half = jnp.linalg.norm(params.start - params.goal) / 2
        return jnp.concatenate([(state.point[:2] - params.goal) / half, state.point[2:] / params.maze.speed])

    def position(self, observation: Float[Array, "*batch obs"], params: MazeTaskParams) -> Float[Array, "*batch 2"]:
        """The position that an observation tells of, in cells."""
        half = jnp.linalg.norm(params.start - params.goal) / 2
        return observation[..., :2] * half + params.goal

    def is_terminated(self, state: MazeTaskState, params: MazeTaskParams) -> Bool[Array, ""]:
        """At the goal."""
        return params.maze.reached(state.point[:2], params.goal)

    @property
    def name(self) -> str:
        """MazeTask."""
        return "MazeTask"

    @property
    def num_actions(self) -> int:
        """Numbers in an action."""
        return 2

    def action_space(self, params: MazeTaskParams | None = None) -> spaces.Box:
        """The push in both directions."""
        return spaces.Box(-1.0, 1.0, (2,), jnp.float32)

    def observation_space(self, params: MazeTaskParams | None = None) -> spaces.Box:
        """Two numbers, in force mode four."""
        params = self.default_params if params is None else params
        return spaces.Box(-jnp.inf, jnp.inf, (params.maze.state_size,), jnp.float32)


def clears(maze: PointMaze, path: Float[Array, "time 2"]) -> Bool[Array, ""]:
    """Whether no step of a path would have been stopped by a wall of this maze.

    Walls stop each component by itself, x first, so a step is free if the cell of (x', y) and that of (x', y') are: a
    path of `PointMaze.step` clears other walls exactly if the same actions make the same path there.
    """
    before, after = path[:-1], path[1:]

    def blocked(x: Array, y: Array) -> Array:
        return maze.walls[jnp.floor(y).astype(int), jnp.floor(x).astype(int)]

    return ~(blocked(after[:, 0], before[:, 1]) | blocked(after[:, 0], after[:, 1])).any()
