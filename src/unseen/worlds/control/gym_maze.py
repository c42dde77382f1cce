"""Adapter: logs of gymnasium-robotics PointMaze (MuJoCo), joined only within listed groups of cells."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from unseen.lab import UserError
from unseen.worlds.control.dataset import OfflineDataset

Cell = tuple[int, int]  # (row, column)


def _cells(text: str) -> tuple[Cell, ...]:
    return tuple((int(row), int(column)) for row, column in (cell.split(",") for cell in text.split()))


@dataclasses.dataclass(frozen=True)
class GymMaze:
    """A PointMaze of gymnasium-robotics whose log joins cells only within groups.

    The observation is (x, y, vx, vy), the achieved goal (x, y), the action a force; a goal is reached at 0.45.
    Trajectories start and end in cells of one group and take the groups in turn; `tests` are pairs of cells
    that no group holds together, so that their solutions cross groups.

    Source: the groups and tests of the collection and evaluation scripts of Ghugare et al. (2024),
    RajGhugare19/stitching-is-combinatorial-generalisation.

    Axes: start and goal cell; seen pairs (`seen`) and unseen pairs (`tests`).

    Attributes:
        name: id of the environment in gymnasium.
        groups: cells (row, column) between which the log's trajectories run.
        tests: pairs (start cell, goal cell) that the log never joins.
    """

    name: str
    groups: tuple[tuple[Cell, ...], ...]
    tests: tuple[tuple[Cell, Cell], ...]

    @classmethod
    def preset(cls, layout: str) -> GymMaze:
        """u-maze, medium or large.

        Raises:
            UserError: on an unknown layout.
        """
        if layout not in GYM_MAZES:
            raise UserError(f"layout takes one of {', '.join(GYM_MAZES)}, got {layout!r}.")
        return GYM_MAZES[layout]

    @property
    def seen(self) -> tuple[tuple[Cell, Cell], ...]:
        """One pair of each group: its first and its last cell."""
        return tuple((group[0], group[-1]) for group in self.groups)

    def make(self, horizon: int) -> Any:
        """The environment.

        Raises:
            UserError: if gymnasium-robotics is not installed.
        """
        try:
            import gymnasium
            import gymnasium_robotics
        except ImportError:
            raise UserError(
                "PointMaze in MuJoCo takes gymnasium-robotics; install it with pip install 'unseen[mujoco]'."
            ) from None
        gymnasium.register_envs(gymnasium_robotics)
        return gymnasium.make(self.name, continuing_task=False, max_episode_steps=horizon)

    def collect(self, transitions: int, *, noise: float = 0.5, horizon: int = 1_000, seed: int = 0) -> OfflineDataset:
        """A log of exactly `transitions` transitions by a waypoint controller with Gaussian action noise.

        Episodes that miss their goal are dropped; `task` is the group's number, reward 1 comes at the goal.
        """
        rng = np.random.default_rng(seed)
        env = self.make(horizon)
        episodes: list[dict[str, Any]] = []
        total = 0
        while total < transitions:
            group = len(episodes) % len(self.groups)
            start, goal = (self.groups[group][i] for i in rng.integers(len(self.groups[group]), size=2))
            observations, actions, reached = play(
                env, start, goal, waypoint_controller(env, rng), seed=int(rng.integers(2**31)), noise=noise, rng=rng
            )
            if not reached or not len(actions):
                continue
            total += len(actions)
            episodes.append(
                {
                    "observation": observations,
                    "action": actions,
                    "achieved": observations[:, :2],
                    "reward": (np.arange(len(actions)) == len(actions) - 1).astype(np.float32),
                    "terminated": True,
                    "task": group,
                }
            )
        env.close()
        return OfflineDataset.from_episodes(episodes).cut(transitions)

    def success(
        self,
        act: Callable[[Float[np.ndarray, "4"], Float[np.ndarray, "2"]], Any],
        pairs: Sequence[tuple[Cell, Cell]],
        *,
        episodes: int,
        horizon: int = 300,
        seed: int = 0,
    ) -> Float[np.ndarray, " pair"]:
        """Success rates of a policy (observation, goal) -> action for pairs of cells.

        300 steps is gymnasium's own limit for the u-maze; medium and large take 600 and 800.
        """
        env = self.make(horizon)
        rates = [
            np.mean([play(env, start, goal, act, seed=seed + i)[2] for i in range(episodes)]) for start, goal in pairs
        ]
        env.close()
        return np.array(rates, np.float32)


def play(
    env: Any,
    start: Cell,
    goal: Cell,
    act: Callable[[Any, Any], Any],
    *,
    seed: int,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """One episode: observations [T+1, 4], actions [T, 2], and whether the goal was reached."""
    seen, _ = env.reset(seed=seed, options={"reset_cell": np.array(start), "goal_cell": np.array(goal)})
    observations, actions = [seen["observation"]], []
    reached = bool(np.linalg.norm(seen["achieved_goal"] - seen["desired_goal"]) <= 0.45)
    over = reached
    while not over:
        action = np.asarray(act(seen["observation"], seen["desired_goal"]), float)
        if rng is not None:
            action = action + noise * rng.normal(size=2)
        action = np.clip(action, -1, 1).astype(np.float32)
        seen, _, terminated, truncated, info = env.step(action)
        observations.append(seen["observation"])
        actions.append(action)
        reached, over = bool(info["success"]), bool(terminated or truncated)
    return np.array(observations, np.float32), np.array(actions, np.float32).reshape(-1, 2), reached


def waypoint_controller(env: Any, rng: np.random.Generator) -> Callable[[Any, Any], np.ndarray]:
    """A policy for one episode: a proportional-derivative controller (gains 10 and 1) through the centres of
    the cells on a shortest path, each off centre by up to 0.2, that moves on when it comes within 0.1."""
    maze = env.unwrapped.maze
    left: list[np.ndarray] = []
    planned = False

    def act(observation: Any, goal: Any) -> np.ndarray:
        nonlocal left, planned
        if not planned:
            start = tuple(int(i) for i in maze.cell_xy_to_rowcol(observation[:2]))
            end = tuple(int(i) for i in maze.cell_xy_to_rowcol(goal))
            path = shortest_path(maze.maze_map, start, end)
            left = [maze.cell_rowcol_to_xy(np.array(cell)) - 0.2 * rng.random(2) for cell in path[1:-1]]
            planned = True
        while left and np.linalg.norm(left[0] - observation[:2]) <= 0.1:
            left.pop(0)
        target = left[0] if left else goal
        return np.clip(10 * (target - observation[:2]) - observation[2:], -1, 1)

    return act


def shortest_path(walls: Sequence[Sequence[Any]], start: Cell, goal: Cell) -> list[Cell]:
    """Cells from start to goal by breadth-first search over the four neighbours; 1 is wall.

    Raises:
        UserError: if no path leads there.
    """
    before: dict[Cell, Cell | None] = {start: None}
    queue = deque([start])
    while queue:
        row, column = queue.popleft()
        if (row, column) == goal:
            path: list[Cell] = [goal]
            while (step := before[path[-1]]) is not None:
                path.append(step)
            return path[::-1]
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if cell not in before and walls[cell[0]][cell[1]] != 1:
                before[cell] = (row, column)
                queue.append(cell)
    raise UserError(f"goal takes a cell that can be reached from {start}, got {goal}.")


def collect_gym_maze(layout: str, transitions: int, noise: float, seed: int) -> dict[str, np.ndarray]:
    """The arrays of the log of a preset `GymMaze`: an artifact's function."""
    return GymMaze.preset(layout).collect(transitions, noise=noise, seed=seed).to_arrays()


GYM_MAZES: Mapping[str, GymMaze] = {
    "u-maze": GymMaze(
        "PointMaze_UMaze-v3",
        (_cells("1,1 1,2 1,3"), _cells("3,1 3,2 3,3"), _cells("1,3 2,3"), _cells("3,3 2,3")),
        (((3, 1), (1, 1)), ((1, 1), (3, 1))),
    ),
    "medium": GymMaze(
        "PointMaze_Medium-v3",
        (
            _cells("6,5 6,6 5,6 4,6"),
            _cells("4,1 4,2 5,1 6,1 6,2 6,3 5,3"),
            _cells("1,5 1,6 2,4 2,5 2,6"),
            _cells("1,1 1,2 2,1 2,2"),
            _cells("5,3 5,4 4,2 4,4 4,5 4,6 3,2 3,3 3,4 2,2 2,4"),
        ),
        (
            ((6, 6), (6, 3)),
            ((6, 6), (6, 1)),
            ((6, 5), (6, 3)),
            ((6, 5), (6, 1)),
            ((1, 1), (6, 5)),
            ((1, 6), (6, 6)),
        ),
    ),
    "large": GymMaze(
        "PointMaze_Large-v3",
        (
            _cells("1,1 1,2 1,3 1,4 2,1 2,4 3,1 3,2 3,3 3,4 4,1 5,1 5,2 6,2 7,1 7,2"),
            _cells("3,4 3,5 1,6 2,6 3,6 4,6 5,6 6,6 7,6 7,5 7,4 6,4 5,4"),
            _cells("1,6 1,7 1,8 1,9 1,10 2,10 3,10 3,9 3,8 2,8 4,10 5,10 5,9 5,8 5,7 5,6 6,8 7,8 7,9 7,10"),
        ),
        (
            ((7, 1), (7, 4)),
            ((7, 1), (7, 10)),
            ((7, 1), (1, 10)),
            ((7, 4), (7, 1)),
            ((7, 4), (7, 10)),
            ((7, 4), (1, 1)),
            ((7, 10), (7, 1)),
        ),
    ),
}
