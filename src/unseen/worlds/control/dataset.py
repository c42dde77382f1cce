"""A log of episodes and the ways to sample from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from unseen.lab import UserError

Hindsight = Literal["geometric", "uniform", "final", "random"]
Count = int | Int[Array, ""]
_INFOS = ("action_kept", "reward_kept", "task", "behaviour")  # what Minari keeps beside the steps


class Transitions(NamedTuple):
    """A batch of steps, or of n steps at once; every array has the batch axis first.

    Attributes:
        observation, action: at the step.
        reward: of the step, or the discounted sum over the n steps.
        next_observation, next_achieved: after it (after n steps or at the episode's end).
        discount: what the value of the next observation is worth: discount ** steps, 0 after a terminal one.
        episode, time: where the step lies in the log.
    """

    observation: Shaped[Array, "batch ..."]
    action: Shaped[Array, "batch ..."]
    reward: Float[Array, " batch"]
    next_observation: Shaped[Array, "batch ..."]
    achieved: Float[Array, "batch goal"]
    next_achieved: Float[Array, "batch goal"]
    discount: Float[Array, " batch"]
    episode: Int[Array, " batch"]
    time: Int[Array, " batch"]


class Segments(NamedTuple):
    """A batch of consecutive steps.

    Attributes:
        valid: false past the episode's end, where the other arrays repeat its last step.
        time: the step of each entry in its episode.
    """

    observation: Shaped[Array, "batch length ..."]
    action: Shaped[Array, "batch length ..."]
    valid: Bool[Array, "batch length"]
    episode: Int[Array, " batch"]
    time: Int[Array, "batch length"]


class OfflineDataset(eqx.Module):
    """A log of episodes as arrays [episode, time, ...], padded to the longest one.

    Samplers are pure functions of a key. Each takes `limit`: only the first `limit` transitions of the log
    are used, and since it may be an array value, logs of several sizes that are prefixes of one another
    share one compiled program. Episodes are kept in order; `limit` may cut the last one, whose later states
    then still serve as hindsight goals.

    Example:
        >>> log = OfflineDataset.from_episodes([dict(observation=..., action=..., reward=..., terminated=True)])
        >>> batch = log.transitions(key, 128)
        >>> goals = log.at(*log.hindsight(key, batch.episode, batch.time, how="geometric", discount=0.98))

    Attributes:
        action: what was done.
        reward: what it paid.
        action_kept, reward_kept: whether a step's action and reward are in the log (a log may hide them).
        observation: one more than actions; `achieved` likewise, the part of the state that goals speak of.
        length: number of actions of each episode.
        terminated: whether the episode ended in a terminal state (not merely cut off).
        task, behaviour: numbers that say which task was posed and which behaviour acted.
        rows: (episode, time) of every transition, in the log's order.
    """

    action: Shaped[Array, "episode time ..."]
    reward: Float[Array, "episode time"]
    action_kept: Bool[Array, "episode time"]
    reward_kept: Bool[Array, "episode time"]
    observation: Shaped[Array, "episode time+1 ..."]
    achieved: Float[Array, "episode time+1 goal"]
    length: Int[Array, " episode"]
    terminated: Bool[Array, " episode"]
    task: Int[Array, " episode"]
    behaviour: Int[Array, " episode"]
    rows: Int[Array, "transition 2"]

    # Making, reading, writing -------------------------------------------------------------------------------

    @classmethod
    def from_episodes(cls, episodes: Sequence[Mapping[str, Any]]) -> OfflineDataset:
        """A log from a list of episodes of different lengths.

        Args:
            episodes: each with `observation` [T+1, ...], `action` [T, ...], and, where they differ from the
                default, `reward` [T] (0), `achieved` [T+1, goal] (the observation), `terminated` (false),
                `task` (0), `behaviour` (0), `action_kept` and `reward_kept` [T] (true).

        Raises:
            UserError: if there is no episode, an empty one, or one whose arrays do not fit together.
        """
        if not episodes:
            raise UserError("An offline dataset takes one episode or more, got none.")
        lengths = [len(e["action"]) for e in episodes]
        for i, (episode, length) in enumerate(zip(episodes, lengths, strict=True)):
            if length < 1 or len(episode["observation"]) != length + 1:
                raise UserError(
                    f"An episode takes at least one action and one observation more than actions, got {length} "
                    f"actions and {len(episode['observation'])} observations in episode {i}."
                )
        horizon = max(lengths)

        def padded(name: str, default: Any, extra: int) -> np.ndarray:
            values = [np.asarray(e.get(name, default(e))) for e in episodes]
            out = np.zeros((len(values), horizon + extra, *values[0].shape[1:]), values[0].dtype)
            for row, value in zip(out, values, strict=True):
                row[: len(value)] = value
                row[len(value) :] = value[-1]
            return out

        def each(name: str, default: Any) -> np.ndarray:
            return np.array([e.get(name, default) for e in episodes])

        return cls.from_arrays(
            {
                "action": padded("action", lambda e: e["action"], 0),
                "reward": padded("reward", lambda e: np.zeros(len(e["action"]), np.float32), 0),
                "action_kept": padded("action_kept", lambda e: np.ones(len(e["action"]), bool), 0),
                "reward_kept": padded("reward_kept", lambda e: np.ones(len(e["action"]), bool), 0),
                "observation": padded("observation", lambda e: e["observation"], 1),
                "achieved": padded("achieved", lambda e: e["observation"], 1),
                "length": np.array(lengths),
                "terminated": each("terminated", False),
                "task": each("task", 0),
                "behaviour": each("behaviour", 0),
            }
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> OfflineDataset:
        """The log that `arrays` describe (what `to_arrays` gives; the masks, tasks and behaviours may be
        absent)."""
        length = np.asarray(arrays["length"])
        shape = np.asarray(arrays["action"]).shape[:2]
        defaults = {
            "reward": np.zeros(shape, np.float32),
            "action_kept": np.ones(shape, bool),
            "reward_kept": np.ones(shape, bool),
            "achieved": arrays["observation"],
            "terminated": np.zeros(shape[0], bool),
            "task": np.zeros(shape[0], int),
            "behaviour": np.zeros(shape[0], int),
        }
        episode = np.repeat(np.arange(len(length)), length)
        time = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        values = {**defaults, **arrays, "rows": np.stack([episode, time], axis=1)}
        return cls(**{name: _as_jax(values[name]) for name in cls.__dataclass_fields__})

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Name -> array, everything that `from_arrays` needs."""
        return {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__ if name != "rows"}

    def cut(self, transitions: int) -> OfflineDataset:
        """The log's first `transitions` transitions (the last episode is cut off and not terminal then),
        padded to its longest episode with repetitions of each episode's last entries.

        Raises:
            UserError: if the log has fewer.
        """
        if not 1 <= transitions <= self.size:
            raise UserError(f"transitions takes a number from 1 to the log's {self.size}, got {transitions}.")
        arrays = self.to_arrays()
        ends = np.cumsum(arrays["length"])
        count = int(np.searchsorted(ends, transitions)) + 1
        arrays = {name: values[:count] for name, values in arrays.items()}
        excess = int(ends[count - 1]) - transitions
        arrays["length"] = arrays["length"] - np.where(np.arange(count) == count - 1, excess, 0)
        arrays["terminated"] = arrays["terminated"] & ((np.arange(count) < count - 1) | (excess == 0))
        rows, longest = np.arange(count)[:, None], int(arrays["length"].max())
        states = np.minimum(np.arange(longest + 1), arrays["length"][:, None])
        steps = np.minimum(np.arange(longest), arrays["length"][:, None] - 1)
        for name in ("observation", "achieved"):
            arrays[name] = arrays[name][rows, states]
        for name in ("action", "reward", "action_kept", "reward_kept"):
            arrays[name] = arrays[name][rows, steps]
        return self.from_arrays(arrays)

    def to_minari(self, dataset_id: str) -> Any:
        """The log as a Minari dataset under Minari's own data folder: observation and achieved goal as one
        dictionary, masks, task and behaviour in the infos.

        Raises:
            UserError: if `minari` is not installed.
        """
        minari = _minari()
        from gymnasium import spaces
        from minari.data_collector.episode_buffer import EpisodeBuffer

        arrays = self.to_arrays()
        buffers = []
        for i, length in enumerate(arrays["length"]):
            ended = np.arange(length) == length - 1
            buffers.append(
                EpisodeBuffer(
                    id=i,
                    observations={k: arrays[k][i, : length + 1] for k in ("observation", "achieved")},
                    actions=arrays["action"][i, :length],
                    rewards=list(arrays["reward"][i, :length]),
                    terminations=list(ended & arrays["terminated"][i]),
                    truncations=list(ended & ~arrays["terminated"][i]),
                    infos={name: np.resize(arrays[name][i], length + 1) for name in _INFOS},
                )
            )

        def box(values: np.ndarray) -> Any:
            return spaces.Box(-np.inf, np.inf, values.shape[2:], values.dtype)

        return minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            observation_space=spaces.Dict({k: box(arrays[k]) for k in ("observation", "achieved")}),
            action_space=box(arrays["action"]),
            author="unseen", author_email="", code_permalink="", algorithm_name="", description="",
        )  # fmt: skip

    @classmethod
    def from_minari(cls, dataset: Any, *, achieved: str = "achieved_goal") -> OfflineDataset:
        """The log of a Minari dataset (or of the one with this id, in Minari's data folder).

        Dictionary observations give `observation` and, as achieved goal, the entry `achieved` or "achieved".

        Raises:
            UserError: if `minari` is not installed.
        """
        if isinstance(dataset, str):
            dataset = _minari().load_dataset(dataset)
        episodes = []
        for episode in dataset.iterate_episodes():
            seen = episode.observations
            goal = (
                next((seen[k] for k in (achieved, "achieved") if k in seen), None) if isinstance(seen, dict) else None
            )
            observation = seen["observation"] if isinstance(seen, dict) else seen
            episodes.append(
                {
                    "observation": np.asarray(observation),
                    "action": np.asarray(episode.actions),
                    "reward": np.asarray(episode.rewards),
                    "achieved": np.asarray(observation if goal is None else goal),
                    "terminated": bool(episode.terminations[-1]),
                }
            )
            infos = episode.infos or {}
            episodes[-1] |= {name: infos[name][:-1] for name in ("action_kept", "reward_kept") if name in infos}
            episodes[-1] |= {name: int(infos[name][0]) for name in ("task", "behaviour") if name in infos}
        return cls.from_episodes(episodes)

    # Samplers -----------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of transitions."""
        return self.rows.shape[0]

    def _draw(self, key: PRNGKeyArray, batch: int, limit: Count | None) -> tuple[Array, Array]:
        row = self.rows[jax.random.randint(key, (batch,), 0, self.size if limit is None else limit)]
        return row[:, 0], row[:, 1]

    def transitions(
        self, key: PRNGKeyArray, batch: int, *, discount: float = 1.0, limit: Count | None = None
    ) -> Transitions:
        """Steps uniform over the log."""
        return self.n_step(key, batch, 1, discount=discount, limit=limit)

    def n_step(
        self, key: PRNGKeyArray, batch: int, n: int, *, discount: float = 0.99, limit: Count | None = None
    ) -> Transitions:
        """`n` steps from uniform places on, fewer where the episode ends before."""
        episode, time = self._draw(key, batch, limit)
        length = self.length[episode]
        ahead = time[:, None] + jnp.arange(n)
        inside = ahead < length[:, None]
        rewards = self.reward[episode[:, None], jnp.minimum(ahead, length[:, None] - 1)]
        after = jnp.minimum(time + n, length)
        ended = (after == length) & self.terminated[episode]
        return Transitions(
            self.observation[episode, time],
            self.action[episode, time],
            jnp.sum(jnp.where(inside, rewards * discount ** jnp.arange(n), 0.0), axis=1),
            self.observation[episode, after],
            self.achieved[episode, time],
            self.achieved[episode, after],
            jnp.where(ended, 0.0, discount ** (after - time).astype(float)),
            episode,
            time,
        )

    def segments(self, key: PRNGKeyArray, batch: int, length: int, *, limit: Count | None = None) -> Segments:
        """`length` consecutive steps from uniform places on; those past the end are not `valid`."""
        episode, start = self._draw(key, batch, limit)
        wanted = start[:, None] + jnp.arange(length)
        last = self.length[episode][:, None] - 1
        time = jnp.minimum(wanted, last)
        at = episode[:, None], time
        return Segments(self.observation[at], self.action[at], wanted <= last, episode, time)

    def returns_to_go(self, discount: float = 1.0) -> Float[Array, "episode time"]:
        """The discounted sum of rewards from each step to the end of its episode (0 after the end)."""
        inside = jnp.arange(self.reward.shape[1]) < self.length[:, None]

        def back(later: Array, reward: Array) -> tuple[Array, Array]:
            now = reward + discount * later
            return now, now

        rewards = jnp.where(inside, self.reward, 0.0).T
        _, sums = jax.lax.scan(back, jnp.zeros(rewards.shape[1]), rewards, reverse=True)
        return sums.T

    def hindsight(
        self,
        key: PRNGKeyArray,
        episode: Int[Array, " batch"],
        time: Int[Array, " batch"],
        *,
        how: Hindsight = "geometric",
        discount: float = 0.99,
        limit: Count | None = None,
    ) -> tuple[Int[Array, " batch"], Int[Array, " batch"]]:
        """Where in the log a goal for each step lies, as (episode, time) with time counted in states.

        `geometric`: the state k steps ahead with probability proportional to discount ** k, 1 <= k up to the
        episode's end. `uniform`: any later state of the episode. `final`: its last state. `random`: a next
        state uniform over the log.
        """
        if how == "random":
            other, before = self._draw(key, episode.shape[0], limit)
            return other, before + 1
        left = self.length[episode] - time
        if how == "final":
            return episode, time + left
        u = jax.random.uniform(key, episode.shape)
        if how == "uniform":
            ahead = 1 + jnp.floor(u * left).astype(int)
        else:  # inverse of the truncated geometric distribution function
            ahead = 1 + jnp.floor(jnp.log1p(-u * (1 - discount**left)) / jnp.log(discount)).astype(int)
        return episode, time + jnp.clip(ahead, 1, left)

    def at(self, episode: Int[Array, " batch"], time: Int[Array, " batch"]) -> Float[Array, "batch goal"]:
        """The achieved goal of states of the log."""
        return self.achieved[episode, time]


def _as_jax(value: Any) -> Array:
    value = np.asarray(value)
    if value.dtype == np.float64:
        value = value.astype(np.float32)
    if value.dtype == np.int64:
        value = value.astype(np.int32)
    return jnp.asarray(value)


def _minari() -> Any:
    try:
        import minari
    except ImportError:
        raise UserError(
            "Minari files take the package minari; install it with pip install 'unseen[offline]'."
        ) from None
    return minari
