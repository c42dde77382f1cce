"""One task, and changes of one element of it at a time: what is seen, how moves end, what is paid, which level."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from gymnax.environments import spaces
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError
from unseen.worlds.control.grid_levels import GridLevel, GridLevels, GridParams, GridState, Rooms


@dataclasses.dataclass(frozen=True)
class TwoCoins:
    """Four rooms with two coins of different colours, each of which ends the episode.

    Attributes:
        side: rows and columns, border included.
    """

    side: int = 7

    def __call__(self, key: Key[Array, ""]) -> GridLevel:
        """One level."""
        level = Rooms(self.side, coins=1)(key)
        return eqx.tree_at(lambda level: level.ends, level, jnp.ones(2))


class Elements(eqx.Module):
    """The elements of a grid task that may change while the level stays.

    Attributes:
        intensity: factor on the plane of the walls, of the player and of each colour.
        noise: standard deviation of Gaussian noise on every number that is seen, fresh at every step.
        sticky: probability that the last move is carried out again instead of the chosen one (Machado et al. 2018).
        wind: towards higher rows, towards higher columns; its sizes are probabilities of being blown one cell further
            that way after a move, together at most 1, its signs reverse the directions.
        values: reward for an object of each colour; they are seen, as a number in the object's cell.
    """

    intensity: Float[Array, " planes"]
    noise: Float[Array, ""]
    sticky: Float[Array, ""]
    wind: Float[Array, "2"]
    values: Float[Array, " colours"]

    @classmethod
    def usual(cls, values: tuple[float, ...] = (1.0, -1.0)) -> Elements:
        """Clear sight, moves that never fail, and objects of given values."""
        zero = jnp.zeros(())
        return cls(jnp.ones(2 + len(values)), zero, zero, jnp.zeros(2), jnp.array(values))

    def between(self, *, sticky: float = 0.0, wind: float = 0.0, values: float = 0.0) -> tuple[Elements, Elements]:
        """Bounds to draw randomised episodes between: stickiness more by up to `sticky`, both parts of the wind by up
        to `wind` in either direction, values anywhere within `values` of 0 if that is not 0."""
        low = dataclasses.replace(self, wind=self.wind - wind)
        high = dataclasses.replace(self, wind=self.wind + wind, sticky=self.sticky + sticky)
        if values:
            bound = jnp.full_like(self.values, values)
            low, high = dataclasses.replace(low, values=-bound), dataclasses.replace(high, values=bound)
        return low, high


class Shift(NamedTuple):
    """Where a policy is tested: under which elements, and on levels that it was trained on or others."""

    elements: Elements
    unseen: bool


class ShiftKinds(NamedTuple):
    """A test for each element of a decision problem, in which that element and nothing else has changed.

    Attributes:
        observation: other intensities, and noise; the levels of training.
        transition: sticky moves and wind; the levels of training.
        reward: other values of the objects, which are seen; the levels of training.
        level: levels that were not trained on; everything else as usual.

    Source: after the elements that Korkmaz (2024, "A survey analyzing generalization in deep reinforcement learning")
    sorts generalization by: state, transition and reward transforming, with unseen levels beside them.
    """

    observation: Shift
    transition: Shift
    reward: Shift
    level: Shift

    @classmethod
    def of(
        cls,
        usual: Elements,
        *,
        intensity: tuple[float, ...] = (0.5, 1.5, 0.5, 1.5),
        noise: float = 0.3,
        sticky: float = 0.3,
        wind: tuple[float, float] = (0.0, 0.3),
        values: tuple[float, ...] = (-1.0, 1.0),
    ) -> ShiftKinds:
        """The four shifts away from `usual`.

        Raises:
            UserError: if there are not as many intensities or values as planes or colours, or a probability is none.
        """
        for name, given, own in (("intensity", intensity, usual.intensity), ("values", values, usual.values)):
            if len(given) != len(own):
                raise UserError(f"{name} takes {len(own)} numbers, got {len(given)}.")
        if not 0 <= sticky <= 1 or sum(map(abs, wind)) > 1 or noise < 0:
            raise UserError(
                f"sticky takes a probability, wind two of sizes that add to at most 1 and noise a number from 0 on, "
                f"got {sticky}, {wind} and {noise}."
            )

        def change(**elements: Any) -> Shift:
            return Shift(dataclasses.replace(usual, **{k: jnp.asarray(v, float) for k, v in elements.items()}), False)

        return cls(
            change(intensity=intensity, noise=noise), change(sticky=sticky, wind=wind), change(values=values),
            Shift(usual, True),
        )  # fmt: skip


class ShiftedParams(eqx.Module):
    """What may vary inside one compiled program.

    Attributes:
        grid: levels (every episode takes one at random), and the time limit.
        count: how many of the levels, from the first on, are in use.
        low, high: every episode draws its elements uniformly and independently between these.
    """

    grid: GridParams
    count: int | Int[Array, ""]
    low: Elements
    high: Elements

    @property
    def max_steps_in_episode(self) -> int:
        """The episode's time limit."""
        return self.grid.max_steps_in_episode


class ShiftedState(NamedTuple):
    """A running episode: of the grid, with its elements and the last move that was carried out (-1: none yet)."""

    grid: GridState
    elements: Elements
    last: Int[Array, ""]

    @property
    def time(self) -> Int[Array, ""]:
        """Steps so far."""
        return self.grid.time


class CellTable(NamedTuple):
    """A level whose objects all end the episode, cell by cell: the cells within its border, row by row.

    Attributes:
        observation: what a player in each cell sees, without noise.
        following: cell after each move from each cell.
        free: no wall and no object, so that an episode may be there.
        ends: there is an object.
        reward: for entering the cell.
        start: number of the first cell.
    """

    observation: Float[Array, "cells rows columns planes"]
    following: Int[Array, "cells 4"]
    free: Bool[Array, " cells"]
    ends: Bool[Array, " cells"]
    reward: Float[Array, " cells"]
    start: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class ShiftedLevels(GridLevels):
    """`GridLevels` for one player whose observation, transitions and rewards can be changed one by one (`Elements`) or
    drawn anew for every episode.

    The observation is (rows - 2, columns - 2, 3 + colours): walls, player, the objects of each colour, and the value
    of each object in its cell, without the border. So whatever is paid can be seen before it is paid.

    Example:
        >>> world, usual = ShiftedLevels(TwoCoins()), Elements.usual()
        >>> params = world.shifted(levels_of(world.kind, 16), usual)
        >>> shifts = ShiftKinds.of(usual)

    Attributes:
        noisy: False leaves noise out whatever the elements say, and saves drawing it.
    """

    noisy: bool = True

    def shifted(
        self,
        levels: GridLevel,
        low: Elements,
        high: Elements | None = None,
        *,
        count: int | Int[Array, ""] | None = None,
        max_steps: int = 30,
    ) -> ShiftedParams:
        """Parameters of a run on levels.

        Args:
            low, high: bounds of each episode's elements; `high` is `low` by default.
            count: of the levels that are in use; all by default.
        """
        count = levels.walls.shape[0] if count is None else count
        return ShiftedParams(self.params(levels, max_steps=max_steps), count, low, low if high is None else high)

    # gymnax's interface ----------------------------------------------------------------------------------

    def reset_env(self, key: Key[Array, ""], params: Any) -> tuple[Array, Any]:
        """A new episode: its level and its elements."""
        which, noise, elements = jax.random.split(key, 3)
        grid = self.first(params.grid, jax.random.randint(which, (), 0, params.count), noise)
        low, elements_of = jax.flatten_util.ravel_pytree(params.low)
        high, _ = jax.flatten_util.ravel_pytree(params.high)
        drawn = elements_of(low + (high - low) * jax.random.uniform(elements, low.shape))
        state = ShiftedState(grid, drawn, jnp.array(-1))
        return self.get_obs(state, params), state

    def step_env(self, key: Key[Array, ""], state: Any, action: Any, params: Any) -> tuple:
        """One step: the chosen or the last move, the wind, and the object that is there then."""
        chances, noise = jax.random.split(key)
        stick, blow = jax.random.uniform(chances, (2,))
        levels, elements, grid = params.grid.levels, state.elements, state.grid
        move = jnp.where((stick < elements.sticky) & (state.last >= 0), state.last, action)
        moved = self._moved(levels, grid, move[None])
        cells = levels.object_cell[grid.which]
        down, right = jnp.abs(elements.wind)
        gust = jnp.where(blow < down, *_gusts(elements.wind))
        pushed = self._moved(levels, moved, gust[None])
        # Who has reached an object is not blown away from it.
        still = (moved.player[0] == cells).all(-1).any() | (blow >= down + right)
        player = jnp.where(still, moved.player, pushed.player)
        on = (player[0] == cells).all(-1)
        reward = on @ elements.values[levels.colour[grid.which]]
        after = ShiftedState(grid._replace(player=player, time=grid.time + 1, noise=noise), elements, move)
        ended = (on & (levels.ends[grid.which] > 0)).any()
        return self.get_obs(after, params), after, reward, ended, {"level": grid.which}

    def get_obs(self, state: Any, params: Any, key: Any = None) -> Float[Array, "rows columns planes"]:
        """The planes under the episode's intensities, with its noise."""
        seen = self._planes(params.grid.levels, state.grid.which, state.grid.player[0], state.elements)
        if not self.noisy:
            return seen
        return seen + state.elements.noise * jax.random.normal(state.grid.noise, seen.shape)

    def is_terminated(self, state: Any, params: Any) -> Bool[Array, ""]:
        """Whether the player stands on an object that ends the episode."""
        levels, which = params.grid.levels, state.grid.which
        return ((state.grid.player[0] == levels.object_cell[which]).all(-1) & (levels.ends[which] > 0)).any()

    def observation_space(self, params: Any = None) -> spaces.Box:
        """Planes of any numbers."""
        rows, columns = self._example.size
        return spaces.Box(-jnp.inf, jnp.inf, (rows - 2, columns - 2, 3 + self._colours), jnp.float32)

    def _planes(
        self, levels: GridLevel, which: Int[Array, ""], player: Int[Array, "2"], elements: Elements
    ) -> Float[Array, "rows columns planes"]:
        rows, columns = levels.size
        cells = jnp.concatenate([player[None], levels.object_cell[which]])
        row, column = (jax.nn.one_hot(cells[:, i], n) for i, n in enumerate((rows, columns)))
        each = row[:, :, None] * column[:, None]  # (1 + objects, rows, columns)
        colour = jax.nn.one_hot(levels.colour[which], self._colours)  # (objects, colours)
        coloured = jnp.einsum("orc,ok->rck", each[1:], colour)
        value = jnp.einsum("orc,o->rc", each[1:], colour @ elements.values)
        picture = jnp.concatenate([levels.walls[which][..., None], each[0][..., None], coloured], -1)
        seen = jnp.concatenate([picture * elements.intensity, value[..., None]], -1)
        return seen[1:-1, 1:-1]

    # Exact answers ---------------------------------------------------------------------------------------

    def cells(self, level: GridLevel, elements: Elements) -> CellTable:
        """One level as a table, if its objects end episodes."""
        one = jax.tree.map(lambda leaf: leaf[None], level)
        zero, (rows, columns) = jnp.array(0), self._example.size
        inner = jnp.stack(jnp.meshgrid(jnp.arange(1, rows - 1), jnp.arange(1, columns - 1), indexing="ij"), -1)
        inner = inner.reshape(-1, 2)
        grid = self.first(self.params(level), 0, jax.random.key(0))

        def number(cell: Int[Array, "2"]) -> Int[Array, ""]:
            return (cell[0] - 1) * (columns - 2) + cell[1] - 1

        def after(cell: Int[Array, "2"], move: Int[Array, ""]) -> Int[Array, ""]:
            return number(self._moved(one, grid._replace(player=cell[None]), move[None]).player[0])

        following = jax.vmap(jax.vmap(after, (None, 0)), (0, None))(inner, jnp.arange(4))
        on = (inner[:, None] == level.object_cell).all(-1)
        wall = level.walls[inner[:, 0], inner[:, 1]]
        return CellTable(
            jax.vmap(lambda cell: self._planes(one, zero, cell, elements))(inner), following,
            ~wall & ~on.any(-1), on.any(-1), on @ elements.values[level.colour], number(level.start[0]),
        )  # fmt: skip


def _gusts(wind: Float[Array, "2"]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The moves that the two parts of a wind amount to: down or up, right or left."""
    return jnp.where(wind[0] > 0, 2, 0), jnp.where(wind[1] > 0, 1, 3)


def exact_return(
    table: CellTable,
    elements: Elements,
    policy: Float[Array, "cells 4"] | None,
    *,
    discount: float,
    horizon: int,
) -> Float[Array, ""]:
    """Expected discounted return from the start of a level, with nothing sampled: backward induction over the time
    limit, in which states are cells with the last move that was carried out.

    Args:
        policy: chances of each move in each cell; None for the optimum, which knows the last move and the time.
    """
    down, right = jnp.abs(elements.wind)
    vertical, horizontal = (table.following[:, gust] for gust in _gusts(elements.wind))
    moves = jnp.arange(4)

    def arrive(values: Float[Array, "cells 4"]) -> Float[Array, "cells 4"]:
        """Worth of having come to each cell by each move, before the wind."""
        entered = jnp.where(table.ends[:, None], table.reward[:, None], discount * values)
        blown = (1 - down - right) * entered + down * entered[vertical] + right * entered[horizontal]
        return jnp.where(table.ends[:, None], table.reward[:, None], blown)

    def choose(worth: Float[Array, "cells 4"]) -> Float[Array, " cells"]:
        return worth.max(1) if policy is None else (policy * worth).sum(1)

    def chosen(values: Float[Array, "cells 4"]) -> Float[Array, "cells 4"]:
        """Worth of each move that is carried out."""
        return arrive(values)[table.following, moves]

    def back(values: Float[Array, "cells 4"], _: None) -> tuple[Float[Array, "cells 4"], None]:
        worth = chosen(values)
        return (1 - elements.sticky) * choose(worth)[:, None] + elements.sticky * worth, None

    start = jnp.zeros_like(table.following, jnp.float32)
    values, _ = jax.lax.scan(back, start, length=horizon - 1)
    return choose(chosen(values))[table.start]
