"""A corridor in which the larger reward and the start never share a trajectory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.worlds.control.dataset import OfflineDataset
from unseen.worlds.control.maze import PointMaze

NEAR, FAR = 1.0, 2.0  # rewards at the left and at the right end


@dataclasses.dataclass(frozen=True)
class TwoRewardCorridor:
    """A corridor eleven cells long with a small reward near the start and a large one far from it.

    Entering the left end (x < 2) pays 1, entering the right end (x > 11) pays 2, and both end the episode.
    The log holds four kinds of trajectories in turn: from the start zone (4 <= x <= 5) to the left end; from
    it to the middle zone (8 <= x <= 9), where they are cut off without reward; from the middle to the right
    end; and from the middle back to the start zone, cut off without reward. So no trajectory from the start
    is ever paid 2, although each half of the way to it is in the log: a policy conditioned on a return of 2
    meets there a (state, return) pair that the log does not hold.

    Source: the return-conditioned case of stitching in Ghugare et al. (2024, arXiv 2401.11237), section 4;
    the world is ours.

    Attributes:
        noise: standard deviation of the noise on each action component of the log.
        horizon: longest episode, in steps.
    """

    noise: float = 0.5
    horizon: int = 80

    @property
    def maze(self) -> PointMaze:
        """The world's dynamics."""
        return PointMaze.preset("corridor")

    @staticmethod
    def reward(state: Float[Array, "... 2"]) -> Float[Array, "..."]:
        """What entering a state pays; the episode ends where it is not 0."""
        return jnp.where(state[..., 0] < 2, NEAR, jnp.where(state[..., 0] > 11, FAR, 0.0))

    def collect(self, transitions: int, *, seed: int = 0) -> OfflineDataset:
        """A log of exactly `transitions` transitions; `task` is the kind of trajectory, 0 to 3."""
        maze = self.maze
        first = jnp.array([4.0, 4.0, 8.0, 8.0])
        ways = jnp.array([-1.0, 1.0, 1.0, -1.0])
        until = jnp.array([2.0, 8.0, 11.0, 5.0])

        def episode(number: Array) -> dict[str, Array]:
            of_start, of_noise = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
            kind = number % 4
            start = jnp.array([first[kind], 1.0]) + jax.random.uniform(of_start, (2,), minval=0.01, maxval=0.99)

            def act(state: Array, noise: Array) -> tuple[Array, tuple[Array, Array]]:
                action = jnp.clip(jnp.stack([ways[kind], 0.0]) + self.noise * noise, -1, 1)
                after = maze.step(state, action)
                return after, (after, action)

            _, (after, action) = jax.lax.scan(act, start, jax.random.normal(of_noise, (self.horizon, 2)))
            there = (after[:, 0] - until[kind]) * ways[kind] > 0
            length = jnp.where(there.any(), jnp.argmax(there) + 1, self.horizon)
            reward = self.reward(after)
            return {
                "observation": jnp.concatenate([start[None], after]),
                "action": action,
                "reward": jnp.where(jnp.arange(self.horizon) < length, reward, 0.0),
                "length": length,
                "terminated": reward[length - 1] > 0,
                "task": kind,
            }

        # Every kind needs 8 steps or more, so this many episodes are enough.
        made = jax.jit(jax.vmap(episode))(jnp.arange(transitions // 8 + 4))
        return OfflineDataset.from_arrays(jax.tree.map(np.asarray, made)).cut(transitions)

    def returns(
        self, act: Callable[[Float[Array, "2"]], Float[Array, "2"]], key: PRNGKeyArray, *, episodes: int
    ) -> Float[Array, " episodes"]:
        """The returns of a policy from the start zone; 2 is the best."""
        maze = self.maze

        def episode(key: PRNGKeyArray) -> Array:
            start = jnp.array([4.0, 1.0]) + jax.random.uniform(key, (2,), minval=0.01, maxval=0.99)

            def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
                state, paid = carry
                after = maze.step(state, act(state))
                paid = jnp.where(paid > 0, paid, self.reward(after))
                return (after, paid), None

            return jax.lax.scan(step, (start, jnp.zeros(())), None, self.horizon)[0][1]

        return jax.vmap(episode)(jax.random.split(key, episodes))


def collect_corridor(transitions: int, noise: float, seed: int) -> dict[str, np.ndarray]:
    """The arrays of the log of `TwoRewardCorridor`: an artifact's function."""
    return TwoRewardCorridor(noise).collect(transitions, seed=seed).to_arrays()
