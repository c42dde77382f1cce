"""A replay buffer inside the program, which remembers episodes, and hindsight relabelling of goals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

from unseen.lab import UserError


class Transition(NamedTuple):
    """One step; leading axes are batch axes.

    Attributes:
        observation, next_observation: any pytrees; the latter is what was seen before any reset.
        action: number of the action.
        reward: of the step.
        terminal: true where nothing follows; a time limit is no end.
    """

    observation: PyTree
    action: Int[Array, " *batch"]
    reward: Float[Array, " *batch"]
    terminal: Bool[Array, " *batch"]
    next_observation: PyTree


class GoalObservation(NamedTuple):
    """What a goal-conditioned learner sees: the observation and the goal, which need not be of one shape."""

    observation: Shaped[Array, "*batch obs"]
    goal: Shaped[Array, "*batch goal"]


class Rows(NamedTuple):
    """Which steps were drawn: the environment's lane and the step's number since the beginning."""

    lane: Int[Array, " batch"]
    number: Int[Array, " batch"]


class Replay(eqx.Module):
    """A ring of transitions for each of several environments that run side by side. Pure: `add` returns a new one
    (in place once compiled, if the old one is not used again).

    Attributes:
        data: transitions, leaves (lanes, capacity, ...).
        episode: number of each stored step's episode.
        last: number of the last step so far of each episode, by episode number modulo capacity.
        current: number of each lane's episode in progress.
        count: steps added so far, the same in all lanes.
    """

    data: Transition
    episode: Int[Array, "lanes capacity"]
    last: Int[Array, "lanes capacity"]
    current: Int[Array, " lanes"]
    count: Int[Array, ""]

    @classmethod
    def empty(cls, example: Transition, lanes: int, capacity: int) -> Replay:
        """Room for `capacity` transitions like `example` (one, without a batch axis) in each lane.

        Raises:
            UserError: on less than one lane or slot.
        """
        if lanes < 1 or capacity < 1:
            raise UserError(f"lanes and capacity take whole numbers from 1 on, got {lanes} and {capacity}.")
        data = jax.tree.map(lambda x: jnp.zeros((lanes, capacity, *jnp.shape(x)), jnp.asarray(x).dtype), example)
        numbers = jnp.zeros((lanes, capacity), int)
        return cls(data, numbers, numbers, jnp.zeros(lanes, int), jnp.zeros((), int))

    @property
    def capacity(self) -> int:
        """Slots in a lane."""
        return self.episode.shape[1]

    @property
    def size(self) -> Int[Array, ""]:
        """Steps in store, in each lane."""
        return jnp.minimum(self.count, self.capacity)

    def add(self, step: Transition, done: Bool[Array, " lanes"]) -> Replay:
        """One step of every lane; `done` where the episode ends with it, by its nature or by a time limit."""
        slot, lanes = self.count % self.capacity, jnp.arange(self.episode.shape[0])
        return Replay(
            jax.tree.map(lambda store, new: store.at[:, slot].set(new), self.data, step),
            self.episode.at[:, slot].set(self.current),
            self.last.at[lanes, self.current % self.capacity].set(self.count),
            self.current + done,
            self.count + 1,
        )

    def draw(self, key: Key[Array, ""], size: int) -> Rows:
        """Steps drawn uniformly, with replacement. There must be one in store."""
        lane_key, step_key = jax.random.split(key)
        lane = jax.random.randint(lane_key, (size,), 0, self.episode.shape[0])
        return Rows(lane, self.count - 1 - jax.random.randint(step_key, (size,), 0, self.size))

    def __getitem__(self, rows: Rows) -> Transition:
        """The transitions at rows."""
        return jax.tree.map(lambda store: store[rows.lane, rows.number % self.capacity], self.data)

    def future(self, key: Key[Array, ""], rows: Rows) -> Rows:
        """For each row a step drawn uniformly from itself and the later steps of the same episode."""
        episode = self.episode[rows.lane, rows.number % self.capacity]
        last = self.last[rows.lane, episode % self.capacity]
        share = jax.random.uniform(key, rows.number.shape)
        ahead = jnp.floor(share * (last - rows.number + 1)).astype(rows.number.dtype)
        return Rows(rows.lane, jnp.minimum(rows.number + ahead, last))


Relabel = Callable[[Key[Array, ""], Replay, Rows, Transition], Transition]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hindsight:
    """Relabels goals of stored steps, with rewards to match (Andrychowicz et al. 2017, strategy "future"; with
    `imagined` the mixture of Nair et al. 2018, section 4.3). Observations must be `GoalObservation`s.

    Attributes:
        achieved: observation without its goal -> the goal that it has reached; batched over the leading axis.
        reward: (reached goal, wanted goal) -> (reward, whether the goal ends the episode); batched.
        future: share of steps whose goal becomes what a later step of the same episode reached.
        imagined: key, number -> that many goals.
        imagination: share of steps whose goal becomes an imagined one.
    """

    achieved: Callable[[Array], Array]
    reward: Callable[[Array, Array], tuple[Float[Array, " batch"], Bool[Array, " batch"]]]
    future: float | Float[Array, ""] = 0.8
    imagined: Callable[[Key[Array, ""], int], Array] | None = None
    imagination: float | Float[Array, ""] = 0.0

    def __post_init__(self) -> None:
        shares = [s for s in (self.future, self.imagination) if isinstance(s, float | int)]
        if any(not 0 <= share <= 1 for share in shares) or (len(shares) == 2 and sum(shares) > 1 + 1e-6):
            raise UserError(f"future and imagination take shares of at most 1 together, got {shares}.")
        if self.imagined is None and isinstance(self.imagination, float | int) and self.imagination > 0:
            raise UserError(f"imagination takes 0 without imagined, got {self.imagination}.")

    def __call__(self, key: Key[Array, ""], replay: Replay, rows: Rows, batch: Transition) -> Transition:
        """The batch with some goals replaced."""
        which_key, future_key, imagined_key = jax.random.split(key, 3)
        later = replay[replay.future(future_key, rows)]
        goal, reached = batch.observation.goal, self.achieved(batch.next_observation.observation)
        draw = jax.random.uniform(which_key, rows.number.shape)
        take = draw < self.future
        changed = take
        goal = _where(take, self.achieved(later.next_observation.observation), goal)
        if self.imagined is not None:
            take = ~take & (draw < self.future + self.imagination)
            goal = _where(take, self.imagined(imagined_key, rows.number.shape[0]), goal)
            changed = changed | take
        reward, terminal = self.reward(reached, goal)
        return Transition(
            batch.observation._replace(goal=goal),
            batch.action,
            jnp.where(changed, reward, batch.reward),
            jnp.where(changed, terminal, batch.terminal),
            batch.next_observation._replace(goal=goal),
        )


def _where(take: Bool[Array, " batch"], new: Any, old: Array) -> Array:
    return jnp.where(take.reshape(-1, *[1] * (old.ndim - 1)), new, old)
