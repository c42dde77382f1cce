"""Levels with a coin to reach and hazards that end the episode."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError
from unseen.worlds.control.grid_levels import GridLevel, distances
from unseen.worlds.control.shift_kinds import CellTable, Elements, ShiftedLevels, exact_return

VIEW = 5  # side of the window around the player in which walls and hazards are seen
TRIES = 16  # layouts drawn for one level, of which the first that can be won is taken


@dataclasses.dataclass(frozen=True)
class Hazards:
    """A room with a few walls, a coin (colour 0, reward 1) and hazards (colour 1, no reward): each of them ends the
    episode. A way around the hazards leads from the start to the coin, which is at least `away` moves off.

    Hazards are objects, not lava, so that `ShiftedLevels.cells` and `exact_return` take the levels.

    Attributes:
        side: rows and columns, border included.
        walls, hazards: how many there are.
        away: least number of moves to the coin.
    """

    side: int = 7
    walls: int = 3
    hazards: int = 3
    away: int = 3

    def __post_init__(self) -> None:
        if min(self.walls, self.hazards) < 0 or self.walls + self.hazards + 2 > (self.side - 2) ** 2 // 2:
            raise UserError(
                f"Hazards takes walls and hazards on at most half of the inner cells, with a start and a coin; got "
                f"{self.walls} and {self.hazards} with side {self.side}."
            )
        if not 1 <= self.away <= self.side - 3:
            raise UserError(f"away takes 1 to {self.side - 3} moves with side {self.side}, got {self.away}.")

    def __call__(self, key: Key[Array, ""]) -> GridLevel:
        """One level."""
        drawn, won = jax.vmap(self._draw)(jax.random.split(key, TRIES))
        return jax.tree.map(lambda leaf: leaf[won.argmax()], drawn)

    def _draw(self, key: Key[Array, ""]) -> tuple[GridLevel, Bool[Array, ""]]:
        inner = self.side - 2
        order = jax.random.permutation(key, inner**2)[: self.walls + self.hazards + 2]
        cells = jnp.stack([order // inner, order % inner], -1) + 1
        blocks, start, objects = jnp.split(cells, [self.walls, self.walls + 1])
        rim = jnp.ones((self.side, self.side), bool).at[1:-1, 1:-1].set(False)
        walls = rim.at[blocks[:, 0], blocks[:, 1]].set(True)
        safe = walls.at[objects[1:, 0], objects[1:, 1]].set(True)
        moves = distances(safe, objects[0])[start[0, 0], start[0, 1]]
        first = jnp.arange(1 + self.hazards) == 0
        level = GridLevel.of(walls, start, objects, colour=1 - first.astype(int), reward=first.astype(float))
        return level, jnp.isfinite(moves) & (moves >= self.away)


class Log(NamedTuple):
    """Streams of episodes side by side; a state is `level * cells + cell`.

    Attributes:
        state, after: before and after each step; where an episode ends, the next one begins in the next `state`.
        action, reward: of each step.
        ends: the coin or a hazard was stepped on.
        first: of an episode.
        late: cut off by the time limit.
    """

    state: Int[Array, "streams steps"]
    after: Int[Array, "streams steps"]
    action: Int[Array, "streams steps"]
    reward: Float[Array, "streams steps"]
    ends: Bool[Array, "streams steps"]
    first: Bool[Array, "streams steps"]
    late: Bool[Array, "streams steps"]


@dataclasses.dataclass(frozen=True)
class HazardTask:
    """Levels of `Hazards` as tables: a behaviour policy of known competence walks in them, and what any policy is worth
    is exact.

    Example:
        >>> task = HazardTask(Hazards())
        >>> table, far = task.tables(levels_of(task.kind, 8))
        >>> log = task.live(table, far, key, 20_000)
        >>> task.success(table, task.behaviour(table, far))

    Attributes:
        kind: of levels.
        horizon: steps of an episode.
        careless: share of random moves in the behaviour; the others take a shortest safe way.
        shaping: what dense reward adds for a move nearer to the coin; a hazard counts as far away.
    """

    kind: Hazards = Hazards()
    horizon: int = 20
    careless: float = 0.5
    shaping: float = 0.1

    def __post_init__(self) -> None:
        if self.horizon < 1 or not 0 <= self.careless <= 1:
            raise UserError(
                f"HazardTask takes a horizon from 1 on and a share careless from 0 to 1, got {self.horizon} and "
                f"{self.careless}."
            )

    @property
    def _elements(self) -> Elements:
        return Elements.usual((1.0, *[0.0] * self.kind.hazards))

    def tables(self, levels: GridLevel) -> tuple[CellTable, Float[Array, "levels cells"]]:
        """Levels cell by cell, and the number of safe moves from each cell to the coin, at most twice the side.

        An observation is a vector: walls and hazards (the last axis) in the window around the player, then how many
        rows and columns the coin is away, one-hot each; see `planes`.
        """
        return _tables(self, levels)

    def coin(self, observation: Float[Array, "*batch numbers"]) -> Int[Array, "*batch 2"]:
        """Rows and columns to the coin, as the observation says (a decoded one its most likely answer)."""
        reach = self.kind.side - 3
        offset = observation[..., 2 * VIEW**2 :].reshape(*observation.shape[:-1], 2, 2 * reach + 1)
        return offset.argmax(-1) - reach

    def planes(self, observation: Float[Array, "*batch numbers"]) -> Float[Array, "*batch rows columns 4"]:
        """A picture with the player in the middle, wide enough for the coin anywhere: planes of walls, hazards, the
        coin and the player."""
        reach, batch = self.kind.side - 3, observation.shape[:-1]
        size = 2 * reach + 1
        window = observation[..., : 2 * VIEW**2].reshape(*batch, VIEW, VIEW, 2)
        margin = (max(reach - VIEW // 2, 0),) * 2
        window = jnp.pad(window, [(0, 0)] * len(batch) + [margin, margin, (0, 0)])
        cut = (window.shape[-3] - size) // 2
        window = window[..., cut : cut + size, cut : cut + size, :]
        row, column = jnp.moveaxis(observation[..., 2 * VIEW**2 :].reshape(*batch, 2, size), -2, 0)
        coin = (row[..., :, None] * column[..., None, :])[..., None]
        player = jnp.broadcast_to(jnp.zeros((size, size, 1)).at[reach, reach].set(1.0), coin.shape)
        return jnp.concatenate([window, coin, player], -1)

    def success(self, table: CellTable, chances: Float[Array, "levels cells 4"]) -> Float[Array, ""]:
        """Chance of collecting the coin within an episode, exact, mean over levels.

        Args:
            chances: of each move in each cell.
        """

        def one(table: CellTable, chances: Array) -> Array:
            return exact_return(table, self._elements, chances, discount=1.0, horizon=self.horizon)

        return jax.vmap(one)(table, chances).mean()

    def behaviour(self, table: CellTable, far: Float[Array, "levels cells"]) -> Float[Array, "levels cells 4"]:
        """Chances of each move: one of those that come nearest to the coin, or any."""
        ahead = jax.vmap(lambda far, following: far[following])(far, table.following)
        best = ahead == ahead.min(-1, keepdims=True)
        return (1 - self.careless) * best / best.sum(-1, keepdims=True) + self.careless / 4

    def live(
        self,
        table: CellTable,
        far: Float[Array, "levels cells"],
        key: Key[Array, ""],
        transitions: int,
        streams: int = 32,
        dense: float | Float[Array, ""] = 0.0,
    ) -> Log:
        """Experience of the behaviour policy, every episode on one of the levels.

        Args:
            transitions: in all, a multiple of `streams`.
            dense: weight of the shaping beside the coin's reward of 1.
        """
        levels, cells = far.shape
        log_chances = jnp.log(self.behaviour(table, far))

        def step(carry: tuple[Array, ...], key: Array) -> tuple[tuple[Array, ...], Any]:
            level, cell, time = carry
            act, draw = jax.random.split(key)
            action = jax.random.categorical(act, log_chances[level, cell])
            after = table.following[level, cell, action]
            nearer = far[level, cell] - far[level, after]
            ends = table.ends[level, after]
            late = (time + 1 >= self.horizon) & ~ends
            reward = table.reward[level, after] + dense * self.shaping * nearer
            lived = Log(level * cells + cell, level * cells + after, action, reward, ends, time == 0, late)
            over = ends | late
            level = jnp.where(over, jax.random.randint(draw, (streams,), 0, levels), level)
            return (level, jnp.where(over, table.start[level], after), jnp.where(over, 0, time + 1)), lived

        begin, key = jax.random.split(key)
        level = jax.random.randint(begin, (streams,), 0, levels)
        carry = level, table.start[level], jnp.zeros(streams, int)
        log = jax.lax.scan(step, carry, jax.random.split(key, transitions // streams))[1]
        return jax.tree.map(lambda leaf: leaf.T, log)


@functools.partial(jax.jit, static_argnums=0)
def _tables(task: HazardTask, levels: GridLevel) -> tuple[CellTable, Array]:
    world = ShiftedLevels(task.kind, noisy=False)
    inner = np.stack(np.meshgrid(*[np.arange(1, task.kind.side - 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    reach = task.kind.side - 3

    def one(level: GridLevel) -> tuple[CellTable, Array]:
        coin, hazards = level.object_cell[0], level.object_cell[1:]
        danger = jnp.zeros(level.walls.shape, bool).at[hazards[:, 0], hazards[:, 1]].set(True)
        planes = jnp.stack([level.walls, danger], -1).astype(float)
        wide = jnp.pad(planes, [(VIEW // 2, VIEW // 2)] * 2 + [(0, 0)])
        window = jax.vmap(lambda cell: jax.lax.dynamic_slice(wide, (*cell, 0), (VIEW, VIEW, 2)))(jnp.asarray(inner))
        offset = jax.nn.one_hot(coin - inner + reach, 2 * reach + 1)
        seen = jnp.concatenate([window.reshape(len(inner), -1), offset.reshape(len(inner), -1)], 1)
        far = distances(level.walls | danger, coin)[1:-1, 1:-1].ravel()
        table = world.cells(level, task._elements)
        return table._replace(observation=seen), jnp.minimum(far, 2.0 * task.kind.side)

    return jax.vmap(one)(levels)
