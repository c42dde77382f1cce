"""Contact sheets: a picture of each world with its axes dialled, one axis a row.

`unseen worlds --pictures DIRECTORY` draws them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from unseen.lab import figures
from unseen.worlds.control import swimmer
from unseen.worlds.control.context import ContextCartPole, ContextMDP, ContextPendulum, Region
from unseen.worlds.control.continuous_maze import ContinuousMaze, MazeLevel
from unseen.worlds.control.embodiments import find_gaits, random_swimmers
from unseen.worlds.control.gaits import Bodies
from unseen.worlds.control.grid_levels import (
    GridLevel,
    GridLevels,
    Lava,
    Maze,
    Playroom,
    RewardObjects,
    Rooms,
    TwoPlayerGoals,
)
from unseen.worlds.control.maze import LAYOUTS, MazeOracle, PointMaze
from unseen.worlds.control.pixels import PixelControl, visuals
from unseen.worlds.control.revaluation import four_rooms_changes
from unseen.worlds.control.skill_grid import SyntheticLearner
from unseen.worlds.control.tabular import TabularMDPs, free_cells
from unseen.worlds.control.task_suite import TEST_TASKS, TRAIN_POSITIONS, TRAIN_TASKS, TaskState, TaskSuite

BLUE, ORANGE, GREEN, PINK = figures.COLORS[:4]
WALL, FLOOR = "#9b938e", "#f4f2ef"
Draw = Callable[[Axes], None]


@dataclasses.dataclass(frozen=True)
class Row:
    """One axis of a world: what it is called, and pictures with their captions."""

    axis: str
    pictures: Sequence[tuple[str, Draw]]


def sheet(rows: Sequence[Row], *, size: float = 2.1) -> Figure:
    """All rows on one page; `size` of a picture in inches."""
    columns = max(len(row.pictures) for row in rows)
    figure, axes = figures.panels(columns, len(rows), width=size, height=size + 0.25, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[:].set_visible(False)
        for ax, (caption, draw) in zip(line, row.pictures, strict=False):
            draw(ax)
            ax.set_title(caption, fontsize=11)
        line[0].set_ylabel(row.axis, fontsize=12)
    return figure


# Grids -----------------------------------------------------------------------------------------------------


def grid_level(ax: Axes, level: GridLevel) -> None:
    """Walls grey, lava orange, squares players, stars goals, discs objects (filled: they pay, hollow: they cost), and
    K, D, B, T for key, door, box and switch."""
    shown = np.where(np.asarray(level.walls), 1, np.where(np.asarray(level.lava), 2, 0))
    colours = np.array([to_rgb(FLOOR), to_rgb(WALL), to_rgb("#E69F00")])
    ax.imshow(colours[shown], interpolation="nearest")
    rows, columns = level.size
    mark = 170 / max(rows, columns)
    for i, (r, c) in enumerate(np.asarray(level.start)):
        ax.plot(c, r, "s", color=(BLUE, "black")[i % 2], ms=0.5 * mark)
    paying = level.objects > 1 or float(level.ends[0]) < 1
    for (r, c), colour, reward in zip(level.object_cell, level.colour, level.reward, strict=True):
        if paying:
            tint = figures.COLORS[int(colour) % len(figures.COLORS)]
            ax.plot(c, r, "o", mec=tint, mfc=tint if reward >= 0 else "none", mew=1.5, ms=0.5 * mark)
        else:
            ax.plot(c, r, "*", color=GREEN, ms=0.8 * mark)
    for letter, cell in zip("KDBT", (level.key, level.door, level.box, level.switch), strict=True):
        if int(cell[0]) >= 0:
            ax.text(int(cell[1]), int(cell[0]), letter, ha="center", va="center", fontsize=max(7, 0.55 * mark))


def _levels(axis: str, kinds: Sequence[tuple[str, Any]], seed: int | None = 0) -> Row:
    def draw(kind: Any, key: int) -> Draw:
        return lambda ax: grid_level(ax, kind(jax.random.key(key)))

    return Row(axis, [(c, draw(kind, i if seed is None else seed)) for i, (c, kind) in enumerate(kinds)])


def _layouts(kind: Any) -> Row:
    return _levels("layout", [(f"key {i}", kind) for i in range(5)], None)


def mazes() -> list[Row]:
    """`Maze`: layout, side, loops."""
    return [
        _layouts(Maze()),
        _levels("side", [(f"{n}", Maze(n)) for n in (5, 9, 13, 17, 21)]),
        _levels("loops", [(f"{x:g}", Maze(13, x)) for x in (0.0, 0.1, 0.25, 0.5, 1.0)]),
    ]


def rooms() -> list[Row]:
    """`Rooms`: layout, side, coins."""
    return [
        _layouts(Rooms()),
        _levels("side", [(f"{n}", Rooms(n)) for n in (7, 9, 11, 13, 17)]),
        _levels("coins", [(f"{n}", Rooms(13, coins=n)) for n in (0, 1, 2, 4, 6)]),
    ]


def lava() -> list[Row]:
    """`Lava`: layout, difficulty, side."""
    return [
        _layouts(Lava()),
        _levels("difficulty", [(f"{x:g}", Lava(10, x)) for x in (0.0, 0.25, 0.4, 0.55, 0.8)]),
        _levels("side", [(f"{n}", Lava(n)) for n in (6, 8, 10, 12, 16)]),
    ]


def reward_objects() -> list[Row]:
    """`RewardObjects`: layout and rewards, side, objects, walls, reward."""
    return [
        _layouts(RewardObjects()),
        _levels("side", [(f"{n}", RewardObjects(n)) for n in (5, 6, 7, 9, 12)]),
        _levels("objects", [(f"{n}", RewardObjects(9, n)) for n in (1, 2, 3, 5, 8)]),
        _levels("walls", [(f"{x:g}", RewardObjects(9, walls=x)) for x in (0.0, 0.1, 0.2, 0.3, 0.4)]),
        _levels(
            "reward",
            [
                (f"{a:g} to {b:g}", RewardObjects(9, 5, reward=(a, b)))
                for a, b in ((-1.0, 0.0), (-1.0, 1.0), (0.0, 1.0))
            ],
        ),
    ]


def playroom() -> list[Row]:
    """`Playroom`: layout, side."""
    return [_layouts(Playroom()), _levels("side", [(f"{n}", Playroom(n)) for n in (4, 5, 6, 7, 8)])]


def two_player_goals() -> list[Row]:
    """`TwoPlayerGoals`: layout, side, shapes and colours."""
    return [
        _layouts(TwoPlayerGoals()),
        _levels("side", [(f"{n}", TwoPlayerGoals(n)) for n in (6, 7, 9, 11, 13)]),
        _levels(
            "objects",
            [(f"{s} x {c}", TwoPlayerGoals(9, s, c)) for s, c in ((1, 1), (1, 3), (2, 2), (2, 3), (3, 3))],
        ),
    ]


def grid_levels() -> list[Row]:
    """`GridLevels`: kinds, where four steps to the right lead under `slip`, and what `recolour` and `distractors` do to
    the planes that are observed."""
    kinds = {kind.__name__: kind() for kind in (Maze, Rooms, Lava, RewardObjects, Playroom, TwoPlayerGoals)}
    field = GridLevel.from_text(
        "\n".join(["#########", *["#.......#"] * 3, "#.S....G#", *["#.......#"] * 3, "#########"])
    )

    def slipping(slip: float) -> Draw:
        def draw(ax: Axes) -> None:
            world = GridLevels(lambda key: field)
            params = world.params(field, slip=slip)

            def end(key: Any) -> Any:
                state = world.first(params, 0, key)
                for step in jax.random.split(key, 4):
                    state = world.step_env(step, state, 1, params)[1]
                return state.player[0]

            ends = np.asarray(jax.jit(jax.vmap(end))(jax.random.split(jax.random.key(0), 500)))
            grid_level(ax, field)
            cells, count = np.unique(ends, axis=0, return_counts=True)
            ax.scatter(cells[:, 1], cells[:, 0], s=0.4 * count + 4, color=ORANGE, alpha=0.8)

        return draw

    def planes(distractors: int, recolour: tuple[int, ...]) -> Draw:
        def draw(ax: Axes) -> None:
            world = GridLevels(RewardObjects(), distractors=distractors)
            params = world.params(RewardObjects()(jax.random.key(0)), recolour=jnp.array(recolour))
            seen = np.asarray(world.reset_env(jax.random.key(0), params)[0])
            named = world.channels()
            shown = [i for i, name in enumerate(named) if name.startswith(("wall", "player", "colour", "distractor"))]
            framed = np.full((9, seen.shape[0] + 2, seen.shape[1] + 2), 0.5)
            for place, plane in zip(framed, shown, strict=False):
                place[1:-1, 1:-1] = seen[..., plane]
            ax.imshow(np.vstack([np.hstack(list(framed[i : i + 3])) for i in (0, 3, 6)]), cmap=figures.SEQUENTIAL)

        return draw

    return [
        _levels("kind", list(kinds.items())),
        Row("slip", [(f"{x:g}", slipping(x)) for x in (0.0, 0.1, 0.25, 0.5, 1.0)]),
        Row("recolour", [(str(order), planes(0, order)) for order in ((0, 1, 2), (1, 2, 0), (2, 1, 0))]),
        Row("distractors", [(f"{n}", planes(n, (0, 1, 2))) for n in (0, 1, 2, 4)]),
    ]  # fmt: skip


def xminigrid_levels() -> list[Row]:
    """`XMiniGridLevels`, drawn by xminigrid: task, level."""
    from unseen.worlds.control.xminigrid_levels import XMiniGridLevels

    def draw(name: str, level: int) -> Draw:
        def on(ax: Axes) -> None:
            from xminigrid.rendering.rgb_render import render

            world = XMiniGridLevels(name)
            _, state = world.reset_env(jax.random.key(0), world.params(jax.random.split(jax.random.key(level), 1)))
            step = next(x for x in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "state")) if hasattr(x, "state"))
            ax.imshow(render(np.asarray(step.state.grid), step.state.agent, 5, tile_size=16))

        return on

    names = ("FourRooms", "Empty-8x8", "DoorKey-8x8", "Unlock", "LockedRoom")
    return [
        Row("task", [(name, draw(f"MiniGrid-{name}", 0)) for name in names]),
        Row("level", [(f"key {i}", draw("MiniGrid-FourRooms", i)) for i in range(5)]),
    ]


# Points in mazes -------------------------------------------------------------------------------------------


def _maze(ax: Axes, maze: PointMaze, begin: Any, goal: Any, steps: int = 90) -> None:
    """The way of a controller that knows the maze's walls and believes that actions do what they say."""
    walls = np.asarray(maze.walls)
    colours = np.array([to_rgb(FLOOR), to_rgb(WALL)])
    ax.imshow(colours[walls.astype(int)], extent=(0, walls.shape[1], walls.shape[0], 0), interpolation="nearest")
    plain = dataclasses.replace(maze, gain=jnp.ones(()), angle=jnp.zeros(()), wind=jnp.zeros(2))
    oracle, goal = MazeOracle.of(plain), jnp.asarray(goal)

    def step(state: Any, _: None) -> Any:
        near = maze.reached(state[:2], goal)
        after = jnp.where(near, state, maze.step(state, oracle(state, goal)))
        return after, after

    first = maze.start(jnp.asarray(begin))
    _, path = jax.lax.scan(step, first, length=steps)
    path = np.concatenate([np.asarray(first)[None], np.asarray(path)])
    ax.plot(path[:, 0], path[:, 1], color=BLUE, lw=1.5)
    ax.plot(*np.asarray(begin), "s", color=BLUE, ms=5)
    ax.plot(*np.asarray(goal), "*", color=GREEN, ms=10)


def point_maze() -> list[Row]:
    """`PointMaze`: layout, wind, gain, angle."""
    ends = {"open": (1.5, 1.5, 8.5, 8.5), "u-maze": (1.5, 1.5, 1.5, 3.5), "four-rooms": (1.5, 1.5, 9.5, 9.5),
            "medium": (1.5, 1.5, 6.5, 6.5)}  # fmt: skip

    def draw(layout: str, **dialled: Any) -> Draw:
        begin, goal = ends[layout][:2], ends[layout][2:]
        return lambda ax: _maze(ax, PointMaze.preset(layout, **dialled), begin, goal)

    def drawn(ax: Axes) -> None:
        _maze(ax, PointMaze.random(jax.random.key(0), 5), (1.5, 1.5), (9.5, 9.5), 200)

    four = "four-rooms"
    winds = ((0.0, 0.0), (0.05, 0.0), (0.1, 0.0), (0.0, 0.1), (0.1, -0.1))
    return [
        Row("layout", [*((name, draw(name)) for name in ends), ("random", drawn)]),
        Row("wind", [(f"{x:g}, {y:g}", draw(four, wind=(x, y))) for x, y in winds]),
        Row("gain", [(f"{x:g}", draw(four, gain=x)) for x in (0.25, 0.5, 1.0, 1.5, 2.0)]),
        Row("angle", [(f"{x:g}°", draw(four, angle=float(np.deg2rad(x)))) for x in (0, 20, 40, 60, 80)]),
    ]


def continuous_maze() -> list[Row]:
    """`ContinuousMaze`: layout, cells, loops, radius (of the drawn disc), apart, and a passage that closes."""

    def drawn(ax: Axes, world: ContinuousMaze, level: MazeLevel) -> None:
        walls = np.asarray(level.walls)
        for row, column in np.argwhere(walls):
            if (row + column) % 2:  # a wall; where both are even is a wall's end
                along = np.array([-0.5, 0.5])
                x, y = (column / 2 + along, [row / 2] * 2) if column % 2 else ([column / 2] * 2, row / 2 + along)
                ax.plot(x, y, color="black", lw=1.2)
        ax.add_patch(Circle(tuple(np.asarray(level.start, float)), world.radius, color=BLUE))
        ax.plot(*np.asarray(level.goal), "*", color=GREEN, ms=9)
        ax.set(xlim=(-0.1, world.cells + 0.1), ylim=(world.cells + 0.1, -0.1), aspect="equal")

    def draw(key: int = 0, shut: bool = False, **dialled: Any) -> Draw:
        def on(ax: Axes) -> None:
            world = ContinuousMaze(**dialled)
            level = world.level(jax.random.key(key))
            if shut:
                walls = np.asarray(level.walls)
                inner = [(j, i) for j, i in np.argwhere(~walls) if (j + i) % 2]
                row, column = (int(x) for x in inner[len(inner) // 2])
                level = world.close(level, row, column)
                ax.plot(column / 2, row / 2, "o", mfc="none", mec=ORANGE, ms=14)
            drawn(ax, world, level)

        return on

    return [
        Row("layout", [(f"key {i}", draw(i)) for i in range(5)]),
        Row("cells", [(f"{n}", draw(cells=n, apart=n / 2)) for n in (4, 6, 8, 12, 16)]),
        Row("loops", [(f"{x:g}", draw(loops=x)) for x in (0.0, 0.15, 0.3, 0.6, 1.0)]),
        Row("radius", [(f"{x:g}", draw(radius=x)) for x in (0.16, 0.2, 0.25, 0.3, 0.35)]),
        Row("apart", [(f"{x:g}", draw(apart=x)) for x in (1.0, 2.0, 4.0, 6.0, 7.0)]),
        Row("passage", [("open", draw()), ("closed", draw(shut=True))]),
    ]


# Contexts --------------------------------------------------------------------------------------------------


def _episode(world: ContextMDP, context: dict[str, float], actions: Any, begin: Callable[[Any], Any]) -> list[Any]:
    """The simulator's states under fixed actions."""
    default = {name: feature.default for name, feature in world.available.items()}
    vector = [(default | context)[f.name] for f in world.features]
    params = world.params(Region.points(jnp.asarray([vector])))
    _, state = world.reset_env(jax.random.key(0), params)
    state = dataclasses.replace(state, simulator=begin(state.simulator))
    states = [state.simulator]
    step = jax.jit(lambda state, action: world.step_env(jax.random.key(0), state, action, params)[1])
    for action in actions:
        state = step(state, action)
        states.append(state.simulator)
    return states


def _pendulum(ax: Axes, **context: float) -> None:
    """The first 2 s from lying level under the largest torque upwards for half of it, then none."""
    world = ContextPendulum(("length", "gravity", "mass", "max_torque", "torque_sign"))
    actions = [jnp.full(1, 3.0 if i < 20 else 0.0) for i in range(40)]
    begin = lambda s: s.replace(theta=jnp.asarray(np.pi / 2), theta_dot=jnp.zeros(()))  # noqa: E731
    length = context.get("length", 1.0)
    states = _episode(world, context, actions, begin)[::4]
    for i, state in enumerate(states):
        angle = float(np.ravel(state.theta)[0])
        x, y = length * np.sin(angle), length * np.cos(angle)
        ax.plot([0, x], [0, y], color=BLUE, alpha=0.15 + 0.85 * i / len(states), lw=1.5)
        ax.plot(x, y, "o", color=BLUE, ms=3, alpha=0.15 + 0.85 * i / len(states))
    ax.set(xlim=(-1.9, 1.9), ylim=(-1.9, 1.9), aspect="equal")


def _cartpole(ax: Axes, **context: float) -> None:
    """The first 25 steps from upright under a push to the right."""
    world = ContextCartPole(("force", "length", "gravity", "cart_mass"))
    begin = lambda s: s.replace(  # noqa: E731
        x=jnp.zeros(()), x_dot=jnp.zeros(()), theta=jnp.asarray(0.05), theta_dot=jnp.zeros(())
    )
    length = 2 * context.get("length", 0.5)
    states = _episode(world, context, [jnp.asarray(1)] * 24, begin)[::6]
    for i, state in enumerate(states):
        shade = 0.2 + 0.8 * i / len(states)
        x, angle = float(state.x), float(state.theta)
        ax.plot([x - 0.15, x + 0.15], [0, 0], color="black", lw=4, alpha=shade)
        ax.plot([x, x + length * np.sin(angle)], [0, length * np.cos(angle)], color=ORANGE, lw=2, alpha=shade)
    ax.set(xlim=(-0.5, 2.6), ylim=(-1.0, 2.1), aspect="equal")


def _dialled(world: type[ContextMDP], draw: Callable[..., None]) -> list[Row]:
    def one(name: str, value: float) -> Draw:
        return lambda ax: draw(ax, **{name: value})

    rows = []
    for feature in world.available.values():
        values = np.linspace(feature.low, feature.high, 2 if feature.name.endswith("sign") else 5)
        pictures = [(f"{value:.3g} {feature.unit}", one(feature.name, float(value))) for value in values]
        rows.append(Row(feature.name, pictures))
    return rows


def context_pendulum() -> list[Row]:
    """`ContextPendulum`: each feature from its lowest to its highest value, the others at their default."""
    return _dialled(ContextPendulum, _pendulum)


def context_cart_pole() -> list[Row]:
    """`ContextCartPole`: each feature from its lowest to its highest value, the others at their default."""
    return _dialled(ContextCartPole, _cartpole)


# Pixels ----------------------------------------------------------------------------------------------------


def _image(task: str, steps: int = 6, **look: Any) -> Draw:
    def draw(ax: Axes) -> None:
        world = PixelControl(task, 28)
        params = world.params(visuals(**look))
        seen, state = world.reset_env(jax.random.key(3), params)
        for _ in range(steps):
            seen, state, *_ = world.step_env(jax.random.key(0), state, jnp.array([0.3, 0.3]), params)
        ax.imshow(np.asarray(seen), interpolation="nearest")

    return draw


def pixel_control() -> list[Row]:
    """`PixelControl` and `Visuals`: the tasks, then every field of the look."""
    mosaic = dict(background="digits", strength=0.6)
    dials: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "hue": [(f"{x:g}", dict(hue=x)) for x in (0.0, 0.2, 0.4, 0.6, 0.8)],
        "background": [(kind, dict(background=kind, strength=0.6)) for kind in ("plain", "texture", "digits")],
        "strength": [(f"{x:g}", dict(background="texture", strength=x)) for x in (0.0, 0.25, 0.5, 0.75, 1.0)],
        "drift": [
            (f"{x:g} px a step", dict(background="texture", strength=0.6, drift=x)) for x in (0.0, 0.5, 1.0, 2.0)
        ],
        "distractors": [(f"{n}", dict(distractors=n)) for n in range(5)],
        "shift": [(f"{x}, {y}", dict(shift=(x, y))) for x, y in ((0, 0), (2, 0), (4, 0), (0, 4), (-4, -4))],
        "brightness": [(f"{x:g}", dict(brightness=x)) for x in (0.4, 0.7, 1.0, 1.3, 1.6)],
        "style": [(f"{n}", dict(mosaic, style=n, distractors=2)) for n in range(5)],
    }
    tasks = Row("task", [(task, _image(task)) for task in ("reach", "push", "catch", "pole")])
    return [tasks, *(Row(axis, [(c, _image("reach", **look)) for c, look in looks]) for axis, looks in dials.items())]


# Bodies ----------------------------------------------------------------------------------------------------


def _swims(ax: Axes, body: swimmer.Swimmer, act: Any, steps: int = 120) -> None:
    """Outlines on the way of the body's centre."""
    state = swimmer.start(body, jnp.zeros(swimmer.JOINTS))
    step = jax.jit(lambda state: swimmer.step(body, state, act(body, state)))
    path = []
    for i in range(steps + 1):
        if i % 40 == 0:
            line = np.asarray(swimmer.outline(body, state)) / float(body.body_length)
            shade = 0.25 + 0.75 * i / steps
            ax.plot(line[:, 0], line[:, 1], "o-", color=BLUE, lw=1.5, ms=2, alpha=shade)
            ax.plot(*line[0], "o", color=ORANGE, ms=4, alpha=shade)
        path.append(np.asarray(state.position) / float(body.body_length))
        state = step(state)
    ax.plot(*np.array(path).T, color="black", lw=0.8)
    ax.set(xlim=(-0.9, 2.1), ylim=(-1.5, 1.5), aspect="equal")


def _bodies(bodies: Bodies, captions: Sequence[str]) -> list[tuple[str, Draw]]:
    def draw(i: int) -> Draw:
        return lambda ax: _swims(ax, bodies.swimmers[i], jax.tree.map(lambda x: x[i], bodies.experts))

    return [(f"{caption}: {float(bodies.distance[i]):.2f}", draw(i)) for i, caption in enumerate(captions)]


def embodiments() -> list[Row]:
    """`Embodiments` and `Swimmer`: each body with the best wave that a search finds for it, and how far that swims in
    120 steps, in body lengths; the last two rows change a body under one wave."""
    chain = lambda n: random_swimmers(jax.random.key(0), 1, n, ratios=(2.5, 2.5), inverse=0.0, reverse=0.0)  # noqa: E731
    stack = lambda parts: jax.tree.map(lambda *x: jnp.concatenate(x), *parts)  # noqa: E731
    links = _bodies(
        find_gaits(jax.random.key(1), stack([chain(n) for n in (3, 4, 5, 6, 7)])),
        [f"{n} links" for n in (3, 4, 5, 6, 7)],
    )
    lengths = random_swimmers(jax.random.key(5), 5, 5, ratios=(2.5, 2.5), inverse=0.0, reverse=0.0)
    whole = find_gaits(jax.random.key(1), chain(5))
    wave = jax.tree.map(lambda x: x[0], whole.experts)
    body = whole.swimmers[0]

    def under(caption: str, **changed: Any) -> tuple[str, Draw]:
        # The commands are those for the body before the change.
        return caption, lambda ax: _swims(ax, dataclasses.replace(body, **changed), lambda _, state: wave(body, state))

    def gears(turned: Sequence[int]) -> Any:
        return jnp.ones(swimmer.JOINTS).at[jnp.asarray(turned, int)].set(-1.0) if turned else jnp.ones(swimmer.JOINTS)

    ratios = (0.4, 1.0, 1.5, 2.5, 4.0)
    turned = ((), (0,), (1,), (0, 1), (0, 1, 2, 3))
    return [
        Row("links", links),
        Row("lengths", _bodies(find_gaits(jax.random.key(1), lengths), [f"draw {i}" for i in range(5)])),
        Row("drag ratio", [under(f"{x:g}", ratio=jnp.full(swimmer.LINKS, x)) for x in ratios]),
        Row("gears", [under(str(list(t)) if t else "none turned", gear=gears(t)) for t in turned]),
    ]


# Manipulation ----------------------------------------------------------------------------------------------


def _manipulation(ax: Axes, suite: TaskSuite, task: int, positions: Sequence[int]) -> None:
    """Obliquely from the front: the hand's way under the expert (blue), the object's (orange), and the goal."""

    def seen(place: Any) -> Any:
        x, y, z = np.asarray(place)
        return x + 0.45 * y, z + 0.35 * y

    params = suite.params(task)
    step = jax.jit(lambda s: suite.step_env(jax.random.key(0), s, suite.expert(s), params)[1])
    for position in positions:
        state: TaskState = suite.start(task, position)
        hands, points = [], []
        for _ in range(suite.max_steps):
            hands.append(seen(state.hand))
            points.append(seen(state.point))
            state = step(state)
        ax.plot(*np.array(hands).T, color=BLUE, lw=1)
        ax.plot(*np.array(points).T, color=ORANGE, lw=2.5)
        ax.plot(*points[0], "s", color=ORANGE, ms=5)
        ax.plot(*seen(state.goal), "*", color=GREEN, ms=9)
    ax.set(xlim=(-0.6, 0.6), ylim=(-0.3, 0.6))
    ax.set_facecolor(FLOOR)


def task_suite() -> list[Row]:
    """`TaskSuite`: each task at its first training position, then one task at training and at new positions."""
    suite = TaskSuite((*TRAIN_TASKS, *TEST_TASKS))

    def draw(task: int, *positions: int) -> Draw:
        return lambda ax: _manipulation(ax, suite, task, positions)

    numbered = list(enumerate(suite.tasks))
    lines = [numbered[i : i + 5] for i in range(0, len(TRAIN_TASKS), 5)]
    rows = [Row("training", [(name, draw(i, 0)) for i, name in line]) for line in lines]
    held_out = [(name, draw(i, 0)) for i, name in numbered[len(TRAIN_TASKS) :]]
    places: list[tuple[str, Draw]] = []
    for i, name in numbered[:2]:
        places += [(name, draw(i, *range(4))), (f"{name}: new", draw(i, *range(TRAIN_POSITIONS, TRAIN_POSITIONS + 4)))]
    return [*rows, Row("held out", held_out), Row("positions", places)]


# Finite MDPs -----------------------------------------------------------------------------------------------


def _transitions(mdps: TabularMDPs, which: int = 0) -> Draw:
    """Where a uniformly random action leads, from the row's state to the column's."""

    def draw(ax: Axes) -> None:
        matrix = np.asarray(mdps.transition[which].mean(1))
        ax.imshow(matrix, cmap=figures.SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")

    return draw


def tabular_mdps() -> list[Row]:
    """`TabularMDPs`: the constructors, then what dials them."""
    key = jax.random.key(0)
    kinds = {
        "garnet": TabularMDPs.garnet(key, states=12),
        "communicating": TabularMDPs.communicating(key, states=12),
        "chain": TabularMDPs.chain(states=12),
        "river swim": TabularMDPs.river_swim(states=12),
        "deep sea": TabularMDPs.deep_sea(key, size=4),
        "four rooms": TabularMDPs.four_rooms(),
    }
    contexts = (0.0, 0.25, 0.5, 0.75, 1.0)
    return [
        Row("kind", [(name, _transitions(mdps)) for name, mdps in kinds.items()]),
        Row("draw", [(f"{i}", _transitions(TabularMDPs.garnet(key, 5, 12), i)) for i in range(5)]),
        Row(
            "slip", [(f"{x:g}", _transitions(TabularMDPs.chain(states=12, slip=x))) for x in (0.0, 0.2, 0.4, 0.6, 0.8)]
        ),
        Row("states", [(f"{n}", _transitions(TabularMDPs.garnet(key, states=n))) for n in (4, 8, 16, 32, 64)]),
        Row(
            "similarity",
            [(f"{x:g}, second", _transitions(TabularMDPs.contexts(key, states=12, similarity=x), 1)) for x in contexts],
        ),
    ]


def changing_task() -> list[Row]:
    """`ChangingTask`: four rooms before and after each change; bright cells pay, hollow ones changed."""
    task = four_rooms_changes(jax.random.key(0))
    cells, layout = free_cells(LAYOUTS["four-rooms"]), LAYOUTS["four-rooms"].split("\n")

    def draw(shown: Any, sites: Any) -> Draw:
        def on(ax: Axes) -> None:
            picture = np.array([[to_rgb(WALL) if mark == "#" else to_rgb(FLOOR) for mark in line] for line in layout])
            ax.imshow(picture, interpolation="nearest")
            reward = np.asarray(shown.reward).max(1)
            for state in np.flatnonzero(reward > 0):
                ax.plot(cells[state][1], cells[state][0], "*", color=GREEN, ms=5 + 6 * reward[state])
            for state in np.flatnonzero(np.asarray(shown.start) > 0):
                ax.plot(cells[state][1], cells[state][0], ".", color=BLUE, ms=3)
            for state, _ in np.asarray(sites):
                ax.plot(cells[state][1], cells[state][0], "o", mfc="none", mec=ORANGE, ms=9)

        return on

    return [
        Row(
            "what changes",
            [
                ("before", draw(task.old, [])),
                ("reward", draw(task.reward.task, task.reward.sites)),
                ("transition", draw(task.transition.task, task.transition.sites)),
            ],
        )
    ]


def synthetic_learner() -> list[Row]:
    """`SyntheticLearner`: competence after 2,500 visits at the frontier of its skills, from different first skills."""

    def draw(start: tuple[int, int], side: int) -> Draw:
        def on(ax: Axes) -> None:
            learner = SyntheticLearner(jnp.array(start), side)

            def visit(competence: Any, key: Any) -> Any:
                return learner.episode(competence, learner.frontier(competence, key))[0], None

            found, _ = jax.lax.scan(visit, learner.init(), jax.random.split(jax.random.key(0), 2500))
            ax.imshow(np.asarray(found), cmap=figures.SEQUENTIAL, vmin=0, vmax=100, interpolation="nearest")
            ax.plot(start[1], start[0], "*", color=ORANGE, ms=10)

        return on

    starts = ((0, 0), (4, 4), (9, 0), (2, 7), (9, 9))
    sides = (4, 6, 8, 10, 14)
    return [
        Row("start", [(str(start), draw(start, 10)) for start in starts]),
        Row("side", [(f"{n}", draw((0, 0), n)) for n in sides]),
    ]


SHEETS: dict[str, Callable[[], list[Row]]] = {
    "GridLevels": grid_levels,
    "Maze": mazes,
    "Rooms": rooms,
    "Lava": lava,
    "RewardObjects": reward_objects,
    "Playroom": playroom,
    "TwoPlayerGoals": two_player_goals,
    "XMiniGridLevels": xminigrid_levels,
    "PointMaze": point_maze,
    "ContinuousMaze": continuous_maze,
    "ContextPendulum": context_pendulum,
    "ContextCartPole": context_cart_pole,
    "Visuals": pixel_control,
    "Embodiments": embodiments,
    "TaskSuite": task_suite,
    "TabularMDPs": tabular_mdps,
    "ChangingTask": changing_task,
    "SyntheticLearner": synthetic_learner,
}
