"""Logs that hold only some pairs of regions, and the split of tasks into seen and unseen pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.lab import UserError
from unseen.worlds.control.dataset import OfflineDataset
from unseen.worlds.control.maze import MazeOracle, PointMaze


@dataclasses.dataclass(frozen=True)
class StitchingSplit:
    """Which (start region, goal region) pairs occur together in a trajectory of the log.

    Every region is a start and a goal somewhere, but `unseen` pairs never occur in one trajectory: to solve
    them, pieces of different trajectories must be combined. Pairs of a region with itself belong to neither
    side.

    Source: Ghugare et al. (2024, arXiv 2401.11237), section 4.

    Example:
        >>> split = StitchingSplit.of(("A", "B", "C"), ("AB", "BC"))
        >>> split.rates(success)          # success: [start, goal]
        {'seen': ..., 'unseen': ...}

    Attributes:
        names: the regions' names.
        seen: `[start, goal]`, true for pairs of the log.
    """

    names: tuple[str, ...]
    seen: Bool[np.ndarray, "start goal"]

    @classmethod
    def of(cls, names: Sequence[str], pairs: Sequence[str]) -> StitchingSplit:
        """The split that lists of two-letter pairs make; each pair is crossed in both directions.

        Raises:
            UserError: if a pair is not made of two different regions' names.
        """
        names = tuple(names)
        seen = np.zeros((len(names), len(names)), bool)
        for pair in pairs:
            if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(names):
                raise UserError(f"pairs takes two different letters of {''.join(names)} each, got {pair!r}.")
            one, other = (names.index(letter) for letter in pair)
            seen[one, other] = seen[other, one] = True
        return cls(names, seen)

    @classmethod
    def in_log(cls, maze: PointMaze, log: OfflineDataset) -> StitchingSplit:
        """The pairs that occur in the log in fact: the second region is visited after the first one in some
        episode."""
        inside = np.arange(log.achieved.shape[1]) <= np.asarray(log.length)[:, None]
        region = np.where(inside, np.asarray(maze.region(log.achieved)), -1)
        count = len(maze.names)
        seen = np.zeros((count, count), bool)
        for one in range(count):
            visited = np.maximum.accumulate(region == one, axis=1)
            for other in range(count):
                seen[one, other] = one != other and bool((visited & (region == other)).any())
        return cls(maze.names, seen)

    @property
    def unseen(self) -> Bool[np.ndarray, "start goal"]:
        """`[start, goal]`, true for pairs of different regions that the log does not hold."""
        return ~self.seen & ~np.eye(len(self.names), dtype=bool)

    def rates(self, success: Float[Array, "*batch start goal"]) -> dict[str, Float[Array, "*batch"]]:
        """Mean success over the seen and over the unseen pairs, each pair with the same weight."""
        return {
            name: jnp.sum(jnp.where(mask, success, 0.0), axis=(-2, -1)) / mask.sum()
            for name, mask in (("seen", self.seen), ("unseen", self.unseen))
        }


@dataclasses.dataclass(frozen=True)
class CrossedRegions:
    """A maze whose log crosses only listed pairs of regions.

    The behaviour is the maze's oracle with Gaussian noise on its actions; start and goal are uniform over the
    two regions of a pair, the ordered pairs take turns, an episode ends when its goal is reached. Episodes
    that miss the goal within the horizon, or stray into a third region, are not kept: so no unlisted pair
    occurs in a trajectory.

    Source: Ghugare et al. (2024), section 6 and the collection script of their repository (noise 0.5, failed
    episodes dropped, pairs in turn).

    Attributes:
        maze: a maze with named regions.
        pairs: two letters each, crossed in both directions.
        noise: standard deviation of the noise on each action component, clipped to [-1, 1] with the action.
        horizon: longest episode, in steps.
    """

    maze: PointMaze
    pairs: tuple[str, ...]
    noise: float = 0.5
    horizon: int = 100

    @property
    def split(self) -> StitchingSplit:
        """Seen and unseen pairs."""
        return StitchingSplit.of(self.maze.names, self.pairs)

    def task(
        self, key: PRNGKeyArray, start: int | Int[Array, ""], goal: int | Int[Array, ""]
    ) -> tuple[Float[Array, " state"], Float[Array, "2"]]:
        """A start state and a goal position, uniform over two regions."""
        of_start, of_goal = jax.random.split(key)
        return self.maze.start(self.maze.sample(of_start, start)), self.maze.sample(of_goal, goal)

    def success(
        self,
        act: Callable[[Any, Float[Array, " state"], Float[Array, "2"]], tuple[Any, Float[Array, "2"]]],
        key: PRNGKeyArray,
        *,
        episodes: int,
        horizon: int,
        memory: Any = None,
    ) -> Float[Array, "start goal"]:
        """Success rates of a policy for every pair of regions, of a region with itself as well.

        Args:
            act: (memory, state, goal) -> (memory, action).
            episodes: number of episodes a pair.
            horizon: steps in which the goal must be reached.
            memory: what `act` gets at an episode's first step.
        """
        count = len(self.maze.names)

        def episode(key: PRNGKeyArray, start: Int[Array, ""], goal: Int[Array, ""]) -> Bool[Array, ""]:
            state, target = self.task(key, start, goal)

            def step(carry: tuple[Any, Array, Array], _: None) -> tuple[tuple[Any, Array, Array], None]:
                memory, state, reached = carry
                memory, action = act(memory, state, target)
                state = self.maze.step(state, action)
                return (memory, state, reached | self.maze.reached(state[:2], target)), None

            begun = self.maze.reached(state[:2], target)
            return jax.lax.scan(step, (memory, state, begun), None, horizon)[0][2]

        starts, goals = jnp.divmod(jnp.repeat(jnp.arange(count**2), episodes), count)
        reached = jax.vmap(episode)(jax.random.split(key, len(starts)), starts, goals)
        return reached.reshape(count, count, episodes).astype(float).mean(axis=-1)

    def collect(self, transitions: int, *, seed: int = 0, chunk: int = 1024) -> OfflineDataset:
        """A log of exactly `transitions` transitions (the last episode is cut off).

        A shorter log with the same seed is a prefix of a longer one. Reward is 1 on reaching the goal; `task`
        numbers the ordered pairs.
        """
        starts, goals = np.nonzero(self.split.seen)
        oracle = MazeOracle.of(self.maze)

        def episode(number: Int[Array, ""]) -> dict[str, Array]:
            of_task, of_noise = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
            turn = number % len(starts)
            state, goal = self.task(of_task, jnp.asarray(starts)[turn], jnp.asarray(goals)[turn])

            def act(state: Array, noise: Array) -> tuple[Array, tuple[Array, Array]]:
                action = jnp.clip(oracle(state, goal) + self.noise * noise, -1, 1)
                after = self.maze.step(state, action)
                return after, (after, action)

            _, (after, action) = jax.lax.scan(act, state, jax.random.normal(of_noise, (self.horizon, 2)))
            states = jnp.concatenate([state[None], after])
            done = self.maze.reached(after[:, :2], goal)
            length = jnp.argmax(done) + 1
            region = jnp.where(jnp.arange(self.horizon + 1) <= length, self.maze.region(states[:, :2]), -1)
            stray = (region >= 0) & (region != jnp.asarray(starts)[turn]) & (region != jnp.asarray(goals)[turn])
            return {
                "observation": states,
                "action": action,
                "length": length,
                "task": turn,
                "kept": done.any() & ~stray.any(),
            }

        run = jax.jit(jax.vmap(episode))
        chunks: list[dict[str, np.ndarray]] = []
        total = done = 0
        while total < transitions:
            made = jax.tree.map(np.asarray, run(jnp.arange(done, done + chunk)))
            if not made["kept"].any():
                raise UserError(f"horizon takes enough steps to cross a pair of regions, got {self.horizon}.")
            chunks.append({name: values[made["kept"]] for name, values in made.items()})
            total += int(chunks[-1]["length"].sum())
            done += chunk
        log = {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0] if name != "kept"}
        reward = np.arange(self.horizon) == log["length"][:, None] - 1
        terminated = np.ones(len(reward), bool)
        log |= {
            "achieved": log["observation"][..., :2],
            "reward": reward.astype(np.float32),
            "terminated": terminated,
        }
        return OfflineDataset.from_arrays(log).cut(transitions)


def collect_crossed(
    layout: str, pairs: Sequence[str], transitions: int, noise: float, seed: int
) -> dict[str, np.ndarray]:
    """The arrays of the log of `CrossedRegions` in a preset layout: an artifact's function."""
    return CrossedRegions(PointMaze.preset(layout), tuple(pairs), noise).collect(transitions, seed=seed).to_arrays()
