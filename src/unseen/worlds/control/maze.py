"""A point in a walled plane, its exact oracle, and logs that cross only some pairs of its regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.lab import UserError

# '#' is wall, everything else is free; letters name regions. Row 0 is y = 0.
LAYOUTS: Mapping[str, str] = {
    "open": "\n".join(["#" * 10, *["#........#"] * 8, "#" * 10]),
    "u-maze": "#####\n#...#\n###.#\n#...#\n#####",
    "four-rooms": """\
###########
#AAAA#BBBB#
#AAAA.BBBB#
#AAAA#BBBB#
#AAAA#BBBB#
##.#####.##
#DDDD#CCCC#
#DDDD#CCCC#
#DDDD.CCCC#
#DDDD#CCCC#
###########""",
    "medium": """\
########
#..##..#
#..#...#
##...###
#..#...#
#.#..#.#
#...#..#
########""",
    "corridor": "#############\n#...........#\n#############",
}
_SKIN = 1e-3  # the point stops this far from a wall's face, so that it never lies in the wall's cell


class PointMaze(eqx.Module):
    """A point in a walled plane of unit cells.

    Velocity mode: the state is the position (x, y), the action lies in [-1, 1]^2 and
    next = state + speed * R(angle) * gain * action + wind. Force mode: the state is (x, y, vx, vy) and the
    action accelerates, v' = (1 - drag) v + speed * drag * R(angle) * gain * action, so that the terminal
    speed is that of velocity mode; wind drifts the position. Walls are resolved per axis, x first: a blocked
    component stops at the wall's face (and loses its velocity), the other one slides on. A displacement of a
    component is at most one cell a step, so that no wall is jumped.

    Axes: start and goal (whatever `start` and `goal` are given), layout (`walls`), `wind`, `gain`, `angle`,
    `observation`.

    Example:
        >>> maze = PointMaze.preset("four-rooms")
        >>> maze.step(jnp.array([1.5, 1.5]), jnp.array([1.0, 0.0]))
        Array([1.75, 1.5 ], dtype=float32)

    Attributes:
        walls: true where the cell of row floor(y) and column floor(x) is wall; the border must be.
        regions: number of the named region of a cell, -1 outside all of them.
        gain: factor on the action's displacement (no unit).
        angle: rotation of the action, in radians.
        wind: displacement a step, in cells.
        names: the regions' names, in alphabetical order.
        speed: displacement of a full action, in cells a step.
        drag: share of the velocity that force mode loses in a step.
        goal_radius: distance (Euclidean, in cells) at which a goal counts as reached.
        mode: "velocity" or "force".
        observation: "state", "state+walls" (the wall map appended, flattened) or "pixels" (24 x 24 x 2: walls,
            and the point as a bump of one pixel's width).
    """

    walls: Bool[Array, "rows columns"]
    regions: Int[Array, "rows columns"]
    gain: Float[Array, ""]
    angle: Float[Array, ""]
    wind: Float[Array, "2"]
    names: tuple[str, ...] = eqx.field(static=True, default=())
    speed: float = eqx.field(static=True, default=0.25)
    drag: float = eqx.field(static=True, default=0.2)
    goal_radius: float = eqx.field(static=True, default=0.45)
    mode: Literal["velocity", "force"] = eqx.field(static=True, default="velocity")
    observation: Literal["state", "state+walls", "pixels"] = eqx.field(static=True, default="state")

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        gain: float | Float[Array, ""] = 1.0,
        angle: float | Float[Array, ""] = 0.0,
        wind: Sequence[float] | Float[Array, "2"] = (0.0, 0.0),
        **settings: Any,
    ) -> PointMaze:
        """The maze that an ASCII map draws: '#' is wall, all else is free, letters name regions.

        Raises:
            UserError: if the lines differ in length or the border is not closed.
        """
        lines = text.strip("\n").splitlines()
        if not lines or len({len(line) for line in lines}) != 1:
            raise UserError(f"A maze's map takes lines of one length, got lengths {[len(line) for line in lines]}.")
        cells = np.array([list(line) for line in lines])
        walls = cells == "#"
        if not (walls[0].all() and walls[-1].all() and walls[:, 0].all() and walls[:, -1].all()):
            raise UserError("A maze's map takes a closed border of '#', got an opening in it.")
        names = tuple(sorted({str(c) for c in cells.ravel() if c.isalpha()}))
        regions = np.full(cells.shape, -1)
        for i, name in enumerate(names):
            regions[cells == name] = i
        return cls(
            jnp.asarray(walls), jnp.asarray(regions), jnp.asarray(gain, float), jnp.asarray(angle, float),
            jnp.asarray(wind, float), names, **settings,
        )  # fmt: skip

    @classmethod
    def preset(cls, layout: str, **settings: Any) -> PointMaze:
        """One of the layouts of `LAYOUTS`: open 10x10, u-maze 5x5, four-rooms 11x11, medium 8x8, corridor
        13x3.

        Raises:
            UserError: on an unknown layout.
        """
        if layout not in LAYOUTS:
            raise UserError(f"layout takes one of {', '.join(LAYOUTS)}, got {layout!r}.")
        return cls.from_text(LAYOUTS[layout], **settings)

    @classmethod
    def random(cls, key: PRNGKeyArray, rooms: int = 4, loops: float = 0.1, **settings: Any) -> PointMaze:
        """A maze drawn at random: `rooms` x `rooms` cells joined by a random spanning tree, so that every
        free cell can be reached, with a share `loops` of the remaining inner walls opened. The map has 2 *
        rooms + 1 cells a side."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint32))
        walls = np.ones((2 * rooms + 1, 2 * rooms + 1), bool)
        walls[1::2, 1::2] = False
        joined = np.arange(rooms * rooms)  # the component of each room (Kruskal's algorithm in random order)
        doors = [(i, i + 1, i // rooms * 2 + 1, i % rooms * 2 + 2) for i in range(rooms**2) if i % rooms < rooms - 1]
        doors += [(i, i + rooms, i // rooms * 2 + 2, i % rooms * 2 + 1) for i in range(rooms * (rooms - 1))]
        for index in rng.permutation(len(doors)):
            one, other, row, column = doors[index]
            if joined[one] != joined[other]:
                joined[joined == joined[other]] = joined[one]
                walls[row, column] = False
            elif rng.random() < loops:
                walls[row, column] = False
        return cls.from_text("\n".join("".join("#" if w else "." for w in row) for row in walls), **settings)

    # The world ----------------------------------------------------------------------------------------------

    @property
    def state_size(self) -> int:
        """Numbers in a state."""
        return 2 if self.mode == "velocity" else 4

    def start(self, position: Float[Array, "2"]) -> Float[Array, " state"]:
        """The state at rest at a position (in cells)."""
        return jnp.concatenate([position, jnp.zeros(self.state_size - 2)])

    def step(self, state: Float[Array, " state"], action: Float[Array, "2"]) -> Float[Array, " state"]:
        """One step of the dynamics; the action is clipped to [-1, 1]."""
        cos, sin = jnp.cos(self.angle), jnp.sin(self.angle)
        turned = jnp.array([[cos, -sin], [sin, cos]]) @ (self.gain * jnp.clip(action, -1, 1))
        position, push = state[:2], self.speed * turned
        velocity = push if self.mode == "velocity" else (1 - self.drag) * state[2:] + self.drag * push
        moved = jnp.clip(velocity + self.wind, -1, 1)
        x, stopped_x = self._slide(position, moved[0], 0)
        after, stopped_y = self._slide(jnp.stack([x, position[1]]), moved[1], 1)
        position = jnp.stack([x, after])
        if self.mode == "velocity":
            return position
        return jnp.concatenate([position, jnp.where(jnp.stack([stopped_x, stopped_y]), 0.0, velocity)])

    def _slide(
        self, position: Float[Array, "2"], move: Float[Array, ""], axis: int
    ) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        wanted = position[axis] + move
        cell = jnp.floor(position.at[axis].set(wanted)).astype(int)
        blocked = self.walls[cell[1], cell[0]]
        face = jnp.where(move > 0, cell[axis] - _SKIN, cell[axis] + 1 + _SKIN)
        return jnp.where(blocked, face, wanted), blocked

    def reached(self, position: Float[Array, "... 2"], goal: Float[Array, "... 2"]) -> Bool[Array, "..."]:
        """Whether positions lie within the goal radius of goals."""
        return jnp.linalg.norm(position - goal, axis=-1) <= self.goal_radius

    def observe(self, state: Float[Array, " state"]) -> Float[Array, "..."]:
        """What the axis `observation` shows of a state."""
        if self.observation == "state":
            return state
        if self.observation == "state+walls":
            return jnp.concatenate([state, self.walls.ravel().astype(state.dtype)])
        rows, columns = self.walls.shape
        centres = (jnp.arange(24) + 0.5) / 24
        x, y = centres * columns, centres * rows
        drawn = self.walls[jnp.floor(y).astype(int)][:, jnp.floor(x).astype(int)].astype(state.dtype)
        point = jnp.exp(-0.5 * (((x - state[0]) * 24 / columns) ** 2 + ((y[:, None] - state[1]) * 24 / rows) ** 2))
        return jnp.stack([drawn, point], axis=-1)

    def region(self, position: Float[Array, "... 2"]) -> Int[Array, "..."]:
        """The number of the region in which a position lies, -1 for none."""
        cell = jnp.floor(position).astype(int)
        return self.regions[cell[..., 1], cell[..., 0]]

    def sample(self, key: PRNGKeyArray, region: int | Int[Array, ""] | None = None) -> Float[Array, "2"]:
        """A position uniform over the free cells, or over those of one region (at least the skin's width from
        every wall)."""
        allowed = ~self.walls if region is None else self.regions == region
        of_cell, within = jax.random.split(key)
        cell = jax.random.categorical(of_cell, jnp.where(allowed.ravel(), 0.0, -jnp.inf))
        corner = jnp.stack([cell % self.walls.shape[1], cell // self.walls.shape[1]])
        return corner + jax.random.uniform(within, (2,), minval=_SKIN, maxval=1 - _SKIN)


# The oracle -------------------------------------------------------------------------------------------------


def _grid(maze: PointMaze, per_cell: int) -> tuple[np.ndarray, np.ndarray, Any]:
    # Nodes at the centres of a grid of `per_cell` squares a cell side; edges of one unit to the eight
    # neighbours, a diagonal only where both of its corners are free (walls are resolved per axis). Since an
    # action moves both axes at once, unit cost for diagonals is exact.
    from scipy import sparse

    free = np.kron(~np.asarray(maze.walls), np.ones((per_cell, per_cell), bool))
    number = np.full(free.shape, -1)
    number[free] = np.arange(free.sum())
    rows, columns = np.nonzero(free)
    sources, targets = [], []
    for down, right in [(0, 1), (1, 0), (1, 1), (1, -1)]:
        ok = free[rows + down, columns + right]
        if down and right:
            ok &= free[rows + down, columns] & free[rows, columns + right]
        sources.append(number[rows[ok], columns[ok]])
        targets.append(number[rows[ok] + down, columns[ok] + right])
    pairs = np.concatenate(sources), np.concatenate(targets)
    graph = sparse.csr_matrix((np.ones(len(pairs[0])), pairs), shape=(free.sum(), free.sum()))
    positions = np.stack([columns + 0.5, rows + 0.5], axis=1) / per_cell
    return number, positions, graph


def shortest_steps(
    maze: PointMaze, goals: Float[np.ndarray, "goal 2"], *, resolution: float = 0.05
) -> Float[np.ndarray, "goal rows columns"]:
    """Least number of full-speed steps from every point of a fine grid to each goal (Dijkstra).

    Counts are in steps of `maze.speed`, fractional, for gain 1 without wind; infinite in walls and where no
    path leads. `[g, i, j]` belongs to the point x = (j + 0.5) * resolution, y = (i + 0.5) * resolution.
    """
    from scipy.sparse.csgraph import dijkstra

    per_cell = round(1 / resolution)
    number, _, graph = _grid(maze, per_cell)
    index = np.floor(np.asarray(goals) * per_cell).astype(int)
    sources = number[index[:, 1], index[:, 0]]
    if (sources < 0).any():
        raise UserError(f"A goal takes a free position, got {np.asarray(goals)[sources < 0][0].tolist()} in a wall.")
    hops = dijkstra(graph, directed=False, indices=sources, unweighted=True)
    steps = np.full((len(sources), *number.shape), np.inf)
    steps[:, number >= 0] = hops / per_cell / maze.speed
    return steps


class MazeOracle(eqx.Module):
    """The shortest path to any goal, as a policy: Dijkstra between all pairs of a grid whose spacing is one
    full-speed step. Getting on and off the grid costs some steps (median 1.4, at most 4 in four-rooms) over
    `shortest_steps`.

    Example:
        >>> oracle = MazeOracle.of(PointMaze.preset("four-rooms"))
        >>> action = oracle(state, goal)

    Attributes:
        maze: its world; wind, gain and angle are compensated for.
        node: number of the grid node of each grid square, -1 in walls.
        position: the nodes' positions, in cells.
        towards: `[goal, node]`, the next node on a shortest path.
        steps: `[goal, node]`, the number of steps (large where no path leads).
    """

    maze: PointMaze
    node: Int[Array, "grid_rows grid_columns"]
    position: Float[Array, "nodes 2"]
    towards: Int[Array, "nodes nodes"]
    steps: Float[Array, "nodes nodes"]

    @classmethod
    def of(cls, maze: PointMaze) -> MazeOracle:
        """The oracle of a maze (a second or two for a thousand nodes)."""
        from scipy.sparse.csgraph import dijkstra

        node, position, graph = _grid(maze, round(1 / maze.speed))
        steps, towards = dijkstra(graph, directed=False, unweighted=True, return_predecessors=True)
        own = np.arange(len(position))
        towards = np.where(towards < 0, own[None, :], towards)  # at the goal, or without a path: stay
        return cls(
            maze, jnp.asarray(node, jnp.int32), jnp.asarray(position, jnp.float32),
            jnp.asarray(towards, jnp.int16 if len(own) < 2**15 else jnp.int32), jnp.asarray(steps, jnp.float32),
        )  # fmt: skip

    def _node(self, position: Float[Array, "2"]) -> Int[Array, ""]:
        square = jnp.floor(position / self.maze.speed).astype(int)
        return self.node[square[1], square[0]]

    def __call__(self, state: Float[Array, " state"], goal: Float[Array, "2"]) -> Float[Array, "2"]:
        """The action that leads along a shortest path."""
        here, there = self._node(state[:2]), self._node(goal)
        target = jnp.where(here == there, goal, self.position[self.towards[there, here]])
        move = target - state[:2] - self.maze.wind
        if self.maze.mode == "force":  # the acceleration after which this step's velocity is the wanted one
            move = (move - (1 - self.maze.drag) * state[2:]) / self.maze.drag
        cos, sin = jnp.cos(self.maze.angle), jnp.sin(self.maze.angle)
        back = jnp.array([[cos, sin], [-sin, cos]]) @ move
        return jnp.clip(back / (self.maze.speed * self.maze.gain), -1, 1)
