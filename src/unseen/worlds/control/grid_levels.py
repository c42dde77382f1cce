"""Gridworlds whose levels are data: every level a pytree made from one key, thousands of them in one program."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError
from unseen.worlds.control.tabular import TabularMDPs

MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])  # up, right, down, left: rows grow downwards
TEST_LEVELS = 2**30  # ids of test levels start here, those of training levels end here
NOWHERE = (-1, -1)


class GridLevel(eqx.Module):
    """One level, or with a leading axis on every array many of one size.

    Attributes:
        walls: impassable; the border is.
        lava: ends the episode of who steps on it.
        start: first cell (row, column) of each player.
        object_cell: of each object.
        colour: of each object, a small number: which plane shows it.
        reward: for stepping on each object.
        ends: probability that this ends the episode.
        respawn: probability, in each step, that a collected object is back.
        key, door, box, switch: cells, (-1, -1) where the level has none. The door lets through who has stepped on the
            key, the box can be pushed, the switch is flipped by stepping on it.
    """

    walls: Bool[Array, "*levels rows columns"]
    lava: Bool[Array, "*levels rows columns"]
    start: Int[Array, "*levels players 2"]
    object_cell: Int[Array, "*levels objects 2"]
    colour: Int[Array, "*levels objects"]
    reward: Float[Array, "*levels objects"]
    ends: Float[Array, "*levels objects"]
    respawn: Float[Array, "*levels objects"]
    key: Int[Array, "*levels 2"]
    door: Int[Array, "*levels 2"]
    box: Int[Array, "*levels 2"]
    switch: Int[Array, "*levels 2"]

    @classmethod
    def of(
        cls,
        walls: Bool[Array, "rows columns"],
        start: Int[Array, "players 2"],
        object_cell: Int[Array, "objects 2"],
        **others: Any,
    ) -> GridLevel:
        """A level; by default its objects are goals (reward 1, end of the episode) and it has nothing else."""
        count = object_cell.shape[0]
        nowhere = jnp.array(NOWHERE)
        settings = dict(
            lava=jnp.zeros(walls.shape, bool), colour=jnp.zeros(count, int), reward=jnp.ones(count),
            ends=jnp.ones(count), respawn=jnp.zeros(count), key=nowhere, door=nowhere, box=nowhere, switch=nowhere,
        )  # fmt: skip
        return cls(walls=walls, start=start, object_cell=object_cell, **(settings | others))

    @classmethod
    def from_text(cls, text: str) -> GridLevel:
        """The level that a map draws: one line a row, `#` wall, `.` or space floor, `L` lava, `S` start (several for
        several players), `G` goal, digits coins of that colour with reward 1, `K` key, `D` door, `B` box, `T` switch.

        Raises:
            UserError: if the map does not parse, with the line and the column.
        """
        lines = text.strip("\n").splitlines()
        if not lines or not lines[0]:
            raise UserError("A level's map takes one line a row, got an empty text.")
        for i, line in enumerate(lines):
            if len(line) != len(lines[0]):
                raise UserError(
                    f"A level's map takes lines of one length, got {len(line)} characters in line {i + 1} and "
                    f"{len(lines[0])} in line 1."
                )
            for j, mark in enumerate(line):
                if mark not in "#. LSGKDBT0123456789":
                    raise UserError(
                        f"A level's map takes the marks # . L S G K D B T and digits, got {mark!r} in line {i + 1}, "
                        f"column {j + 1}."
                    )
        marks = np.array([list(line) for line in lines])
        rim = np.concatenate([marks[0], marks[-1], marks[:, 0], marks[:, -1]])
        if not (rim == "#").all():
            raise UserError("A level's map takes a closed border of #, got an opening in it.")
        once: dict[str, Any] = {}
        for name, mark in (("key", "K"), ("door", "D"), ("box", "B"), ("switch", "T")):
            found = np.argwhere(marks == mark)
            if len(found) > 1:
                raise UserError(f"A level's map takes at most one {mark} ({name}), got {len(found)}.")
            once[name] = jnp.asarray(found[0] if len(found) else NOWHERE)
        start = np.argwhere(marks == "S")
        if not len(start):
            raise UserError("A level's map takes an S where the player starts, got none.")
        goals, coins = np.argwhere(marks == "G"), np.argwhere(np.char.isdigit(marks))
        if not len(goals) + len(coins):
            raise UserError("A level's map takes a G or a digit where there is something to collect, got none.")
        colours = [0] * len(goals) + [int(marks[r, c]) for r, c in coins]
        return cls.of(
            jnp.asarray(marks == "#"), jnp.asarray(start), jnp.asarray(np.concatenate([goals, coins])),
            lava=jnp.asarray(marks == "L"), colour=jnp.asarray(colours),
            ends=jnp.asarray([1.0] * len(goals) + [0.0] * len(coins)), **once,
        )  # fmt: skip

    @classmethod
    def load(cls, path: str | Path) -> GridLevel:
        """The level of a text file, see `from_text`.

        Raises:
            UserError: if the file cannot be read or does not parse; it names the file.
        """
        try:
            return cls.from_text(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The level file {path} cannot be read: {error}.") from error
        except UserError as error:
            raise UserError(f"The level file {path} does not parse: {error}") from error

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.walls.shape[-2], self.walls.shape[-1]

    @property
    def players(self) -> int:
        """How many move."""
        return self.start.shape[-2]

    @property
    def objects(self) -> int:
        """How many can be collected."""
        return self.object_cell.shape[-2]


def stack_levels(levels: list[GridLevel]) -> GridLevel:
    """Levels of one size and number of players and objects as one pytree.

    Raises:
        UserError: if they differ in these.
    """
    shapes = {(*level.size, level.players, level.objects) for level in levels}
    if len(shapes) != 1:
        raise UserError(
            f"levels takes levels of one size with as many players and objects each, got {len(shapes)} sorts."
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *levels)


# Searching ------------------------------------------------------------------------------------------------------


def distances(blocked: Bool[Array, "rows columns"], source: Int[Array, "2"]) -> Float[Array, "rows columns"]:
    """Least number of moves from every cell to `source`, breadth first; infinite where no path leads."""
    inside = jnp.zeros(blocked.shape, bool).at[source[0], source[1]].set((source >= 0).all())
    far = jnp.where(inside & ~blocked, 0.0, jnp.inf)

    def spread(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        far, _ = carry
        wide = jnp.pad(far, 1, constant_values=jnp.inf)
        near = jnp.minimum(jnp.minimum(wide[:-2, 1:-1], wide[2:, 1:-1]), jnp.minimum(wide[1:-1, :-2], wide[1:-1, 2:]))
        after = jnp.where(blocked, jnp.inf, jnp.minimum(far, near + 1))
        return after, (after != far).any()

    return jax.lax.while_loop(lambda carry: carry[1], spread, (far, jnp.array(True)))[0]


def shortest_path(level: GridLevel) -> Float[Array, ""]:
    """Least number of moves of the first player to an object of positive reward, by way of the key where the door is in
    between; lava and the box are walls here. Infinite if there is no such path."""
    row, column = level.start[0, 0], level.start[0, 1]
    cells = jnp.stack(jnp.meshgrid(*map(jnp.arange, level.size), indexing="ij"), -1)
    closed = (cells == level.door).all(-1)
    blocked = level.walls | level.lava | (cells == level.box).all(-1)

    def to_objects(blocked: Array, row: Array, column: Array) -> Array:
        each = jax.vmap(lambda cell: distances(blocked, cell)[row, column])(level.object_cell)
        return jnp.where(level.reward > 0, each, jnp.inf).min()

    straight = to_objects(blocked | closed, row, column)
    key_row, key_column = jnp.maximum(level.key[0], 0), jnp.maximum(level.key[1], 0)
    fetch = distances(blocked | closed, level.key)[row, column]
    return jnp.minimum(straight, fetch + to_objects(blocked, key_row, key_column))


def solvable(level: GridLevel) -> Bool[Array, ""]:
    """Whether a path leads to an object of positive reward, see `shortest_path`."""
    return jnp.isfinite(shortest_path(level))


# Level kinds ----------------------------------------------------------------------------------------------------


# A distribution of levels: key -> level. Hashable, since it fixes the compiled program.
LevelKind = Callable[[Key[Array, ""]], GridLevel]


def levels_of(
    kind: LevelKind, count: int, split: Literal["train", "test"] = "train", seed: int = 0, first: int = 0
) -> GridLevel:
    """Levels of a kind, stacked.

    Ids of training levels lie below `TEST_LEVELS`, those of test levels from there on, and different ids have
    different keys (`fold_in` is a bijection), so no key is in both.

    Args:
        count: of levels.
        seed: of the whole family; `first`: the first id.

    Raises:
        UserError: if there are not so many ids.
    """
    if count < 1 or first < 0 or first + count > TEST_LEVELS:
        raise UserError(f"count takes 1 to {TEST_LEVELS - first} levels, got {count}.")
    return jax.jit(jax.vmap(kind))(level_keys(count, split, seed, first))


def level_keys(
    count: int, split: Literal["train", "test"] = "train", seed: int = 0, first: int = 0
) -> Key[Array, " levels"]:
    """The keys that `levels_of` makes levels from."""
    ids = jnp.arange(count, dtype=jnp.uint32) + first + (TEST_LEVELS if split == "test" else 0)
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(ids)


def _border(rows: int, columns: int) -> Bool[Array, "rows columns"]:
    return jnp.ones((rows, columns), bool).at[1:-1, 1:-1].set(False)


def _cells(key: Key[Array, ""], free: Bool[Array, "rows columns"], count: int) -> Int[Array, "count 2"]:
    """Different cells, uniform among the free ones (Gumbel's top k)."""
    rank = jnp.where(free.ravel(), jax.random.uniform(key, (free.size,)), -1.0)
    _, chosen = jax.lax.top_k(rank, count)
    return jnp.stack([chosen // free.shape[1], chosen % free.shape[1]], -1)


@dataclasses.dataclass(frozen=True)
class Maze:
    """A maze of corridors one cell wide: a random spanning tree of `(side // 2) ** 2` cells, with loops; start and goal
    anywhere.

    Axes: layout (the key), `side`, `loops`.

    Attributes:
        side: rows and columns, border included; odd, 5 or more.
        loops: share of the walls between neighbouring cells that are opened besides the tree.
    """

    side: int = 13
    loops: float = 0.0

    def __post_init__(self) -> None:
        if self.side < 5 or self.side % 2 == 0:
            raise UserError(f"side takes an odd number from 5 on, got {self.side}.")

    def __call__(self, key: Key[Array, ""]) -> GridLevel:
        """One maze."""
        rooms = self.side // 2
        ends = [(i, i + 1) for i in range(rooms**2) if i % rooms < rooms - 1]
        ends += [(i, i + rooms) for i in range(rooms * (rooms - 1))]
        edge = jnp.array(ends)
        order, extra, place = jax.random.split(key, 3)
        weight = jax.random.uniform(order, (len(ends),))

        def grow(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            # Prim's algorithm: the lightest edge out of the tree; random weights make a random tree.
            tree, used = carry
            out = tree[edge[:, 0]] != tree[edge[:, 1]]
            best = jnp.argmin(jnp.where(out, weight, jnp.inf))
            return tree.at[edge[best]].set(True), used.at[best].set(True)

        tree = jnp.zeros(rooms**2, bool).at[0].set(True)
        _, used = jax.lax.fori_loop(0, rooms**2 - 1, grow, (tree, jnp.zeros(len(ends), bool)))
        used = used | (jax.random.uniform(extra, (len(ends),)) < self.loops)
        cell = np.array([[i // rooms * 2 + 1, i % rooms * 2 + 1] for i in range(rooms**2)])
        between = (cell[[a for a, _ in ends]] + cell[[b for _, b in ends]]) // 2
        walls = jnp.ones((self.side, self.side), bool).at[cell[:, 0], cell[:, 1]].set(False)
        walls = walls.at[between[:, 0], between[:, 1]].set(~used)
        start, goal = _cells(place, ~walls, 2)
        return GridLevel.of(walls, start[None], goal[None])


@dataclasses.dataclass(frozen=True)
class Rooms:
    """Four rooms with a door in each inner wall, start and goal or coins anywhere.

    Axes: layout (the key), `side`, number and colours of coins.

    Attributes:
        side: rows and columns, border included.
        coins: number of objects besides the goal, colours 1, 2, ...; reward 1 each, they do not end the episode.
    """

    side: int = 9
    coins: int = 0

    def __post_init__(self) -> None:
        if self.side < 7 or self.coins < 0:
            raise UserError(f"Rooms takes side 7 or more and coins 0 or more, got {self.side} and {self.coins}.")

    def __call__(self, key: Key[Array, ""]) -> GridLevel:
        """One level."""
        middle = self.side // 2
        doors, place = jax.random.split(key)
        walls = _border(self.side, self.side).at[middle].set(True).at[:, middle].set(True)
        spans = [(1, middle), (middle + 1, self.side - 1)]
        for i, ((low, high), line) in enumerate(itertools.product(spans, (0, 1))):
            door = jax.random.randint(jax.random.fold_in(doors, i), (), low, high)
            walls = walls.at[(door, middle) if line else (middle, door)].set(False)
        start, *objects = _cells(place, ~walls, 2 + self.coins)
        ends = jnp.array([1.0] + [0.0] * self.coins)
        return GridLevel.of(walls, start[None], jnp.stack(objects), colour=jnp.arange(1 + self.coins), ends=ends)


@dataclasses.dataclass(frozen=True)
class Lava:
    """An open field with lava: start at one side, goal at the other, one safe path at least.

    Axes: layout (the key), `difficulty`, `side`.

    Attributes:
        side: rows and columns, border included.
        difficulty: share of lava among the cells off the safe path; may be a traced number by `Lava.at`.

    Source: after the lava crossings of Zhao et al., "Consciousness-inspired spatio-temporal abstractions" (2024).
    """

    side: int = 10
    difficulty: float = 0.4

    def __post_init__(self) -> None:
        if self.side < 5 or not 0 <= self.difficulty <= 1:
            raise UserError(
                f"Lava takes side 5 or more and a difficulty from 0 to 1, got {self.side} and {self.difficulty}."
            )

    def __call__(self, key: Key[Array, ""]) -> GridLevel:
        """One level of this difficulty."""
        return self.at(key, self.difficulty)

    def at(self, key: Key[Array, ""], difficulty: float | Float[Array, ""]) -> GridLevel:
        """One level of any difficulty (harder levels of one key contain the lava of the easier ones)."""
        inner = self.side - 2
        ends, turns, where, flip = jax.random.split(key, 4)
        rows = jax.random.randint(ends, (2,), 0, inner)
        across, down = inner - 1, jnp.abs(rows[1] - rows[0])
        # A monotone path: `across` moves sideways and `down` moves along the column in random order.
        order = jnp.argsort(
            jnp.where(jnp.arange(2 * inner) < across + down, jax.random.uniform(turns, (2 * inner,)), 2)
        )
        sideways = order < across
        live = jnp.arange(2 * inner) < across + down
        column = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(sideways & live)])
        row = rows[0] + jnp.sign(rows[1] - rows[0]) * jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(~sideways & live)])
        path = jnp.zeros((self.side, self.side), bool).at[row + 1, column + 1].set(True)
        walls = _border(self.side, self.side)
        lava = (jax.random.uniform(where, walls.shape) < difficulty) & ~path & ~walls
        start = jnp.stack([rows[0] + 1, jnp.array(1)])
        goal = jnp.stack([rows[1] + 1, jnp.array(inner)])
        turn = jax.random.bernoulli(flip)  # half of the levels run from the right to the left
        start, goal = jnp.where(turn, goal, start), jnp.where(turn, start, goal)
        return GridLevel.of(walls, start[None], goal[None], lava=lava)


@dataclasses.dataclass(frozen=True)
class RewardObjects:
    """A room with a few walls and objects of random reward, termination and respawn probability: the level space in
    which update rules are meta-learned.

    Axes: layout and rewards (the key), `side`, `objects`, `walls`, `reward`.

    Attributes:
        side: rows and columns, border included.
        objects: number of them, each of its own colour.
        walls: share of inner cells that are wall.
        reward, ends, respawn: bounds of the uniform distributions of each object's numbers.

    Source: Oh et al., "Discovering Reinforcement Learning Algorithms" (2020), appendix on training environments, and
    Jackson et al. (2023): levels of their kind, not their numbers.
    """

    side: int = 7
    objects: int = 3
    walls: float = 0.1
    reward: tuple[float, float] = (-1.0, 1.0)
    ends: tuple[float, float] = (0.0, 1.0)
    respawn: tuple[float, float] = (0.0, 0.2)

    def __post_init__(self) -> None:
        if self.objects < 1 or not 0 <= self.walls < 1 or (1 - self.walls) * (self.side - 2) ** 2 < self.objects + 1:
            raise UserError(
                f"RewardObjects takes room for {self.objects} objects and a start, got side {self.side} with a share "
                f"{self.walls} of walls."
            )

    def __call__(self, key: Key[Array, ""]) -> GridLevel:
        """One level."""
        build, place, pay, end, back = jax.random.split(key, 5)
        inner = (self.side - 2) ** 2
        most = min(round(self.walls * inner), inner - self.objects - 1)
        rim = _border(self.side, self.side)
        walls = rim
        if most:
            blocks = _cells(build, ~rim, most)
            walls = rim.at[blocks[:, 0], blocks[:, 1]].set(True)
        start, *objects = _cells(place, ~walls, 1 + self.objects)

        def numbers(key: Key[Array, ""], bounds: tuple[float, float]) -> Float[Array, " objects"]:
            return jax.random.uniform(key, (self.objects,), minval=bounds[0], maxval=bounds[1])

        return GridLevel.of(
            walls, start[None], jnp.stack(objects), colour=jnp.arange(self.objects), reward=numbers(pay, self.reward),
            ends=numbers(end, self.ends), respawn=numbers(back, self.respawn),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Playroom:
    """Three rooms in a row: a key and a box to push in the first, a switch in the second, and a goal in the third
    behind a door that the key opens.

    Axes: layout (the key), `side`.

    Attributes:
        side: columns of a room, and rows of all; 4 or more.
    """

    side: int = 5

    def __post_init__(self) -> None:
        if self.side < 4:
            raise UserError(f"side takes 4 or more, got {self.side}.")

    def __call__(self, key: Key[Array, ""]) -> GridLevel:
        """One level."""
        side, gap, door, first, second, third = self.side, *jax.random.split(key, 5)
        rows, columns = side + 2, 3 * side + 4
        walls = _border(rows, columns).at[:, side + 1].set(True).at[:, 2 * side + 2].set(True)
        gap_row, door_row = (jax.random.randint(k, (), 1, side + 1) for k in (gap, door))
        walls = walls.at[gap_row, side + 1].set(False).at[door_row, 2 * side + 2].set(False)
        column = jnp.broadcast_to(jnp.arange(columns), walls.shape)
        # The box keeps off the walls (it could not be pushed from there) and so leaves a way around it.
        row = jnp.broadcast_to(jnp.arange(rows)[:, None], walls.shape)
        centre = (row > 1) & (row < rows - 2) & (column > 1) & (column < side)
        box = _cells(first, centre, 1)[0]
        free = ~walls & (column <= side) & ~((row == box[0]) & (column == box[1]))
        start, found = _cells(jax.random.fold_in(first, 1), free, 2)
        switch = _cells(second, ~walls & (column > side + 1) & (column < 2 * side + 2), 1)[0]
        goal = _cells(third, ~walls & (column > 2 * side + 2), 1)
        shut = jnp.stack([door_row, jnp.array(2 * side + 2)])
        return GridLevel.of(walls, start[None], goal, key=found, door=shut, box=box, switch=switch)


@dataclasses.dataclass(frozen=True)
class TwoPlayerGoals:
    """A room with a few walls, two players, and objects of several shapes and colours to stand on.

    Axes: layout (the key), `side`, `shapes`, `colours`. Colour number `shape * colours + colour`; objects stay
    where they are and pay nothing of their own: goals are what the environment's `reward` says.

    Attributes:
        side: rows and columns, border included.
        shapes, colours: of the objects, one of each pair.
        walls: share of inner cells that are wall.
    """

    side: int = 9
    shapes: int = 2
    colours: int = 3
    walls: float = 0.1

    def __call__(self, key: Key[Array, ""]) -> GridLevel:
        """One level."""
        count = self.shapes * self.colours
        build, place = jax.random.split(key)
        rim = _border(self.side, self.side)
        blocks = _cells(build, ~rim, max(1, round(self.walls * (self.side - 2) ** 2)))
        walls = rim.at[blocks[:, 0], blocks[:, 1]].set(True)
        cells = _cells(place, ~walls, 2 + count)
        none = jnp.zeros(count)
        return GridLevel.of(
            walls, cells[:2], cells[2:], colour=jnp.arange(count), reward=none, ends=none, respawn=jnp.ones(count)
        )


# The environment ------------------------------------------------------------------------------------------------


class GridState(NamedTuple):
    """A running episode.

    Attributes:
        which: number of the level among the parameters'.
        player: cell of each player.
        present: which objects are there.
        has_key: whether someone has stepped on the key.
        box: its cell.
        flipped: whether the switch is on.
        time: steps so far.
        noise: for the distractor planes.
    """

    which: Int[Array, ""]
    player: Int[Array, "players 2"]
    present: Bool[Array, " objects"]
    has_key: Bool[Array, ""]
    box: Int[Array, "2"]
    flipped: Bool[Array, ""]
    time: Int[Array, ""]
    noise: Key[Array, ""]


class GridParams(eqx.Module):
    """What may vary inside one compiled program.

    Attributes:
        levels: each episode takes one of them at random.
        slip: probability that a player's move is a random one instead.
        lava_reward: for stepping on lava.
        step_reward: at every step.
        recolour: which plane shows objects of each colour.
        max_steps_in_episode: the episode's time limit.
    """

    levels: GridLevel
    slip: float | Float[Array, ""]
    lava_reward: float | Float[Array, ""]
    step_reward: float | Float[Array, ""]
    recolour: Int[Array, " colours"]
    max_steps_in_episode: int = eqx.field(static=True)


@dataclasses.dataclass(frozen=True)
class GridLevels(Environment):
    """Gridworld levels as a gymnax environment: four moves a player, no turning.

    Whatever learns on gymnax learns on it. Two players act by one number, `4 * first + second`, one after the other,
    and cannot share a cell; the reward is the first player's, both are in `info["rewards"]`.

    Axes: `kind` (and its own), levels and split (`params`), `slip`, `recolour`, `distractors`.

    Example:
        >>> world = GridLevels(Maze(13))
        >>> params = world.params(levels_of(world.kind, 200))
        >>> learner = ppo(world, params, total_steps=100_000)

    Attributes:
        kind: the distribution that levels come from (only `default_params` and shapes ask it).
        observation: "planes": one-hot (rows, columns, channels), see `channels`; "flat": the planes as one vector;
            "index": the number of the tabular state, see `index`.
        distractors: further planes of coin flips, fresh at every step.
        reward: (level, state before, state after) -> reward of each player, instead of the objects'.
    """

    kind: LevelKind
    observation: Literal["planes", "flat", "index"] = "planes"
    distractors: int = 0
    reward: Callable[[GridLevel, GridState, GridState], Float[Array, " players"]] | None = None

    def __post_init__(self) -> None:
        if self.observation not in ("planes", "flat", "index"):
            raise UserError(f"observation takes planes, flat or index, got {self.observation!r}.")
        if self.distractors < 0:
            raise UserError(f"distractors takes a whole number from 0 on, got {self.distractors}.")

    # Parameters ------------------------------------------------------------------------------------------

    def params(
        self,
        levels: GridLevel,
        *,
        slip: float | Float[Array, ""] = 0.0,
        lava_reward: float | Float[Array, ""] = 0.0,
        step_reward: float | Float[Array, ""] = 0.0,
        recolour: Int[Array, " colours"] | None = None,
        max_steps: int = 100,
    ) -> GridParams:
        """Parameters of a run on levels (one, or a stack of them).

        Raises:
            UserError: if the levels are of another size, or have other numbers of players and objects, than the kind's.
        """
        levels = jax.tree.map(lambda leaf: leaf[None], levels) if levels.walls.ndim == 2 else levels
        own, given = self._example, levels
        if (own.size, own.players, own.objects) != (given.size, given.players, given.objects):
            raise UserError(
                f"levels takes {own.size[0]}x{own.size[1]} levels with {own.players} players and {own.objects} "
                f"objects, got {given.size[0]}x{given.size[1]} with {given.players} and {given.objects}."
            )
        recolour = jnp.arange(self._colours) if recolour is None else recolour
        return GridParams(levels, slip, lava_reward, step_reward, recolour, max_steps)

    @property
    def default_params(self) -> GridParams:
        """64 training levels."""
        return self.params(levels_of(self.kind, 64))

    @property
    def _example(self) -> GridLevel:
        return jax.eval_shape(self.kind, jax.random.key(0))

    @property
    def _colours(self) -> int:
        # The kinds number their objects' colours from 0, at most one each.
        return self._example.objects

    def channels(self) -> list[str]:
        """Names of the planes, in order."""
        players = [f"player {i}" for i in range(self._example.players)]
        objects = [f"colour {i}" for i in range(self._colours)]
        noise = [f"distractor {i}" for i in range(self.distractors)]
        return ["wall", "lava", *players, *objects, "key", "door", "box", "switch", *noise]

    # gymnax's interface ----------------------------------------------------------------------------------

    def reset_env(self, key: Key[Array, ""], params: GridParams) -> tuple[Array, GridState]:
        """A new episode on one of the levels."""
        draw, noise = jax.random.split(key)
        which = jax.random.randint(draw, (), 0, params.levels.walls.shape[0])
        state = self.first(params, which, noise)
        return self.get_obs(state, params), state

    def first(self, params: GridParams, which: Int[Array, ""] | int, noise: Key[Array, ""]) -> GridState:
        """The first state of a level."""
        levels, which, no = params.levels, jnp.asarray(which), jnp.array(False)
        present = jnp.ones(levels.objects, bool)
        return GridState(which, levels.start[which], present, no, levels.box[which], no, jnp.zeros((), int), noise)

    def step_env(self, key: Key[Array, ""], state: GridState, action: Any, params: GridParams) -> tuple:
        """One step of all players."""
        levels, which = params.levels, state.which
        players, objects = levels.players, levels.objects
        slips, ends, backs, noise = jax.random.split(key, 4)
        moves = self._split(action)
        chance = jax.random.uniform(slips, (2, players))
        moves = jnp.where(chance[0] < params.slip, jnp.floor(4 * chance[1]).astype(int), moves)
        after = self._moved(levels, state, moves)

        cells = levels.object_cell[which]
        on = (after.player[:, None] == cells).all(-1) & state.present  # (players, objects)
        collected = on.any(0)
        rewards = on @ levels.reward[which]
        finished = (collected & (jax.random.uniform(ends, (objects,)) < levels.ends[which])).any()
        back = jax.random.uniform(backs, (objects,)) < levels.respawn[which]
        burnt = levels.lava[which, after.player[:, 0], after.player[:, 1]]
        after = after._replace(present=(state.present & ~collected) | back, time=state.time + 1, noise=noise)
        if self.reward is not None:
            level = jax.tree.map(lambda leaf: leaf[which], levels)
            rewards = self.reward(level, state, after)
        rewards = rewards + burnt * params.lava_reward + params.step_reward
        terminated = finished | burnt.any()
        return self.get_obs(after, params), after, rewards[0], terminated, {"rewards": rewards, "level": which}

    def _split(self, action: Any) -> Int[Array, " players"]:
        players = self._example.players
        return jnp.asarray(action) // 4 ** jnp.arange(players)[::-1] % 4

    def _moved(self, levels: GridLevel, state: GridState, moves: Int[Array, " players"]) -> GridState:
        which, players = state.which, levels.players
        key, door, switch = levels.key[which], levels.door[which], levels.switch[which]
        player, box, has_key, flipped = state.player, state.box, state.has_key, state.flipped
        for i in range(players):
            step = jnp.asarray(MOVES)[moves[i]]
            target = player[i] + step
            pushed = target + step
            others = jnp.array([j != i for j in range(players)])

            def solid(cell: Array) -> Array:
                shut = (cell == door).all() & ~has_key  # noqa: B023
                taken = ((player == cell).all(-1) & others).any()  # noqa: B023
                return levels.walls[which, cell[0], cell[1]] | shut | taken

            pushes = (target == box).all()
            # A push off the grid cannot be: beyond the border there is nothing to read, so the border itself stops it.
            free = ~solid(target) & ~(pushes & solid(pushed))
            box = jnp.where(free & pushes, pushed, box)
            player = player.at[i].set(jnp.where(free, target, player[i]))
            has_key = has_key | (player[i] == key).all()
            flipped = flipped ^ (free & (player[i] == switch).all())
        return state._replace(player=player, box=box, has_key=has_key, flipped=flipped)

    def get_obs(self, state: GridState, params: GridParams, key: Any = None) -> Array:
        """Planes or the index of the state."""
        if self.observation == "index":
            return self.index(state)
        levels, which = params.levels, state.which
        rows, columns = levels.size
        nowhere = jnp.array(NOWHERE)
        door = jnp.where(state.has_key, nowhere, levels.door[which])
        found = jnp.where(state.has_key, nowhere, levels.key[which])
        switch = jnp.where(state.flipped, nowhere, levels.switch[which])

        def plane(cells: Int[Array, "n 2"]) -> Float[Array, "rows columns n"]:
            row = jnp.arange(rows)[:, None] == cells[:, 0]
            column = jnp.arange(columns)[:, None] == cells[:, 1]
            return (row[:, None] & column[None]).astype(jnp.float32)

        things = jnp.where(state.present[:, None], levels.object_cell[which], nowhere)
        shown = params.recolour[levels.colour[which]]
        coloured = plane(things) @ jax.nn.one_hot(shown, self._colours)
        ground = jnp.stack([levels.walls[which], levels.lava[which]], -1).astype(jnp.float32)
        items = plane(jnp.stack([found, door, state.box, switch]))
        planes = [ground, plane(state.player), coloured, items]
        if self.distractors:
            planes.append(jax.random.bernoulli(state.noise, 0.5, (rows, columns, self.distractors)).astype(jnp.float32))
        seen = jnp.concatenate(planes, -1)
        return seen.ravel() if self.observation == "flat" else seen

    def is_terminated(self, state: GridState, params: GridParams) -> Bool[Array, ""]:
        """Whether a player stands in lava (that an object ended the episode is known from `step_env` alone)."""
        return params.levels.lava[state.which, state.player[:, 0], state.player[:, 1]].any()

    @property
    def name(self) -> str:
        """The kind's name."""
        return f"GridLevels-{type(self.kind).__name__}"

    @property
    def num_actions(self) -> int:
        """Joint moves of all players."""
        return 4**self._example.players

    def action_space(self, params: GridParams | None = None) -> spaces.Discrete:
        """Joint moves: up, right, down, left a player."""
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: GridParams | None = None) -> spaces.Space:
        """Planes of zeros and ones, or the number of the state."""
        if self.observation == "index":
            return spaces.Discrete(int(np.prod(list(self._digits.values()))))
        shape = (*self._example.size, len(self.channels()))
        return spaces.Box(0, 1, (int(np.prod(shape)),) if self.observation == "flat" else shape, jnp.float32)

    # Exact answers ---------------------------------------------------------------------------------------

    @property
    def _digits(self) -> Mapping[str, int]:
        # The kind's level of key 0 says whether its levels have a key, a box and a switch.
        with jax.ensure_compile_time_eval():
            level = jax.tree.map(np.asarray, self.kind(jax.random.key(0)))
        cells = level.walls.size
        there = {name: bool((getattr(level, name) >= 0).all()) for name in ("key", "box", "switch")}
        sizes = {f"player {i}": cells for i in range(level.players)} | {f"object {i}": 2 for i in range(level.objects)}
        return sizes | {
            "key": 2 if there["key"] else 1, "box": cells if there["box"] else 1, "switch": 2 if there["switch"] else 1
        }  # fmt: skip

    def index(self, state: GridState) -> Int[Array, ""]:
        """The number of a state: players' cells, objects' presence, key, box and switch as digits of it."""
        columns = self._example.size[1]
        digits = [cell[0] * columns + cell[1] for cell in state.player]
        digits += [*state.present.astype(int), state.has_key.astype(int)]
        digits += [state.box[0] * columns + state.box[1], state.flipped.astype(int)]
        total = jnp.zeros((), int)
        for digit, size in zip(digits, self._digits.values(), strict=True):
            total = total * size + (digit if size > 1 else 0)
        return total

    def _state(self, number: Int[Array, ""], params: GridParams, which: Int[Array, ""]) -> GridState:
        columns = self._example.size[1]
        digits: dict[str, Array] = {}
        for name, size in reversed(self._digits.items()):
            digits[name], number = number % size, number // size
        first = self.first(params, which, jax.random.key(0))
        players = [digits[f"player {i}"] for i in range(self._example.players)]
        cell = jnp.stack(players)
        box = jnp.stack([digits["box"] // columns, digits["box"] % columns])
        return first._replace(
            player=jnp.stack([cell // columns, cell % columns], -1),
            present=jnp.stack([digits[f"object {i}"] for i in range(self._example.objects)]).astype(bool),
            has_key=digits["key"].astype(bool),
            box=box if self._digits["box"] > 1 else first.box,
            flipped=digits["switch"].astype(bool),
        )

    def tabular(self, params: GridParams, most: int = 2048) -> TabularMDPs:
        """The levels as finite MDPs, exactly (slip, ends and respawns as probabilities; no time limit).

        States are numbered by `index`; then come the end of the episode, which stays there for ever without
        reward, and the start, a copy of the level's first state (levels differ in it, `TabularMDPs.start` does not).

        Raises:
            UserError: if a level has more than `most` states, or rewards of its own (`reward`).
        """
        if self.reward is not None:
            raise UserError("tabular takes the objects' rewards, got an environment with a reward of its own.")
        states = int(np.prod(list(self._digits.values())))
        if states + 2 > most:
            raise UserError(f"tabular takes levels of at most {most} states, got {states + 2}.")
        count = params.levels.walls.shape[0]
        transition, reward = jax.lax.map(lambda which: self._one_tabular(params, which, states), jnp.arange(count))
        return TabularMDPs(transition, reward, jax.nn.one_hot(states + 1, states + 2))

    def _one_tabular(self, params: GridParams, which: Int[Array, ""], states: int) -> tuple[Array, Array]:
        levels, actions = params.levels, self.num_actions
        objects = levels.objects
        patterns = jnp.array(list(itertools.product((0, 1), repeat=objects)), bool)  # (patterns, objects)
        respawn, ends, pay = levels.respawn[which], levels.ends[which], levels.reward[which]

        def after(number: Array, action: Array) -> tuple[Array, Array]:
            """Distribution over next states and expected reward of moves that do not slip."""
            state = self._state(number, params, which)
            moved = self._moved(levels, state, self._split(action))
            on = (moved.player[:, None] == levels.object_cell[which]).all(-1) & state.present
            collected = on.any(0)
            burnt = levels.lava[which, moved.player[:, 0], moved.player[:, 1]]
            kept = jnp.where(state.present & ~collected, 1.0, respawn)
            chance = jnp.prod(jnp.where(patterns, kept, 1 - kept), axis=1)
            goes_on = jnp.where(burnt.any(), 0.0, jnp.prod(jnp.where(collected, 1 - ends, 1.0)))
            numbers = jax.vmap(lambda pattern: self.index(moved._replace(present=pattern)))(patterns)
            row = jnp.zeros(states + 2).at[numbers].add(goes_on * chance).at[states].add(1 - goes_on)
            return row, (on @ pay + burnt * params.lava_reward + params.step_reward)[0]

        each = jax.vmap(jax.vmap(after, (None, 0)), (0, None))
        row, gain = each(jnp.arange(states), jnp.arange(actions))
        slip = self._slipping(params.slip, actions)  # (actions, actions)
        row, gain = jnp.einsum("ab,sbt->sat", slip, row), jnp.einsum("ab,sb->sa", slip, gain)
        first = self.index(self.first(params, which, jax.random.key(0)))
        end = jnp.broadcast_to(jax.nn.one_hot(states, states + 2), (1, actions, states + 2))
        transition = jnp.concatenate([row, end, row[first][None]])
        return transition, jnp.concatenate([gain, jnp.zeros((1, actions)), gain[first][None]])

    def _slipping(self, slip: float | Float[Array, ""], actions: int) -> Float[Array, "actions actions"]:
        one = (1 - slip) * jnp.eye(4) + slip / 4
        both = one
        while both.shape[0] < actions:
            both = jnp.kron(both, one)
        return both
