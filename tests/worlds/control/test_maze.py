import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.control import LAYOUTS, MazeOracle, PointMaze, shortest_steps

OPEN = PointMaze.preset("open")


def roll(maze, state, actions):
    return jax.lax.scan(lambda s, a: (maze.step(s, a),) * 2, state, actions)[1]


def test_without_walls_the_path_has_a_closed_form():
    maze = PointMaze.preset("open", gain=0.7, angle=0.6, wind=(0.01, -0.02))
    actions = jax.random.uniform(jax.random.key(0), (12, 2), minval=-1, maxval=1)
    turn = np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
    moves = 0.25 * 0.7 * np.asarray(actions) @ turn.T + np.array([0.01, -0.02])
    expected = np.array([5.0, 5.0]) + np.cumsum(moves, axis=0)
    np.testing.assert_allclose(roll(maze, jnp.array([5.0, 5.0]), actions), expected, atol=1e-5)


def test_force_mode_approaches_the_terminal_speed_geometrically():
    maze = PointMaze.preset("open", mode="force")
    path = roll(maze, maze.start(jnp.array([1.5, 5.0])), jnp.tile(jnp.array([1.0, 0.0]), (10, 1)))
    speed = 0.25 * (1 - 0.8 ** np.arange(1, 11))
    np.testing.assert_allclose(path[:, 2], speed, rtol=1e-5)
    np.testing.assert_allclose(path[:, 0], 1.5 + np.cumsum(speed), rtol=1e-5)


def test_a_wall_stops_one_component_and_lets_the_other_slide():
    state = OPEN.step(jnp.array([1.1, 5.0]), jnp.array([-1.0, 1.0]))
    np.testing.assert_allclose(state, [1.0, 5.25], atol=2e-3)
    force = PointMaze.preset("open", mode="force")
    state = force.step(jnp.array([1.1, 5.0, -0.25, 0.0]), jnp.array([-1.0, 0.0]))
    assert state[2] == 0 and state[0] >= 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_path_enters_a_wall(layout):
    maze = PointMaze.preset(layout)
    starts = jax.vmap(maze.sample)(jax.random.split(jax.random.key(1), 64))
    actions = jax.random.choice(jax.random.key(2), jnp.array([-1.0, 1.0]), (64, 10, 1, 2)).repeat(12, axis=2)
    paths = jax.vmap(lambda s, a: roll(maze, s, a))(starts, actions.reshape(64, 120, 2))
    cells = np.floor(np.asarray(paths)).astype(int)
    assert not np.asarray(maze.walls)[cells[..., 1], cells[..., 0]].any()
    assert len(np.unique(cells.reshape(-1, 2), axis=0)) > 5  # and they do move


def test_dijkstra_gives_true_step_counts_in_the_open():
    # In the open the least number of steps is the larger coordinate difference over the speed.
    goals = np.array([[2.3, 7.1], [8.5, 1.5]])
    steps = shortest_steps(OPEN, goals)
    centres = (np.arange(steps.shape[1]) + 0.5) * 0.05
    x, y = np.meshgrid(centres, centres)
    for goal, found in zip(goals, steps, strict=True):
        exact = np.maximum(abs(x - goal[0]), abs(y - goal[1])) / 0.25
        inside = np.isfinite(found)
        assert inside.sum() == 160**2
        assert abs(found - exact)[inside].max() < 1


def test_dijkstra_gives_true_step_counts_around_walls():
    # u-maze, end to end: 2 cells right, 2 down, 2 left, corners cut by half a cell's width each.
    goal = np.array([[1.5, 3.5]])
    steps = shortest_steps(PointMaze.preset("u-maze"), goal)
    # Exact in the larger-coordinate metric: to (3, y <= 2), straight down to y >= 3, back.
    exact = (1.5 + 1.0 + 1.5) / 0.25
    assert abs(steps[0, 30, 30] - exact) <= 1


def test_descending_the_distances_takes_as_many_steps_as_they_say():
    maze = PointMaze.preset("four-rooms")
    goal = np.array([[8.2, 7.7]])
    steps = shortest_steps(maze, goal)[0]
    moves = jnp.stack(jnp.meshgrid(jnp.linspace(-1, 1, 41), jnp.linspace(-1, 1, 41)), -1).reshape(-1, 2)

    def left(position):
        cell = np.floor(np.asarray(position) / 0.05).astype(int)
        return steps[cell[..., 1], cell[..., 0]]

    for start in ([1.2, 1.3], [3.7, 9.1], [9.3, 1.4]):
        state, taken, promised = jnp.array(start), 0, left(start)
        while left(state) > 0.9:
            after = jax.vmap(lambda a, state=state: maze.step(state, a))(moves)
            state, taken = after[np.argmin(left(after))], taken + 1
            assert taken < 100
        assert abs(taken + left(state) - promised) <= 1


def test_the_oracle_reaches_every_goal_nearly_as_fast_as_possible():
    for settings in (
        dict(),
        dict(gain=0.8, angle=0.5, wind=(0.02, 0.01)),
        dict(mode="force"),
    ):
        maze = PointMaze.preset("four-rooms", **settings)
        oracle = MazeOracle.of(maze)

        def episode(key, maze=maze, oracle=oracle):
            of_start, of_goal = jax.random.split(key)
            start, goal = maze.sample(of_start), maze.sample(of_goal)

            def step(state, _):
                state = maze.step(state, oracle(state, goal))
                return state, maze.reached(state[:2], goal)

            return start, goal, jax.lax.scan(step, maze.start(start), None, 150)[1]

        start, goal, reached = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), 100))
        assert np.asarray(reached).any(axis=1).mean() >= 0.99, settings
        if not settings:
            cells = np.floor(np.asarray(start) / 0.05).astype(int)
            best = shortest_steps(maze, np.asarray(goal))[np.arange(100), cells[:, 1], cells[:, 0]]
            taken = np.argmax(np.asarray(reached), axis=1) + 1
            assert (taken <= np.maximum(best, 1) + 4).all()


def test_random_layouts_are_connected_and_differ_by_seed():
    mazes = [PointMaze.random(jax.random.key(seed), 4) for seed in range(3)]
    for maze in mazes:
        free = np.argwhere(~np.asarray(maze.walls))
        steps = shortest_steps(maze, np.array([[1.5, 1.5]]), resolution=0.5)[0]
        assert np.isfinite(steps[free[:, 0] * 2, free[:, 1] * 2]).all()
    assert not np.array_equal(mazes[0].walls, mazes[1].walls)
    assert np.array_equal(mazes[0].walls, PointMaze.random(jax.random.key(0), 4).walls)


def test_observations():
    assert PointMaze.preset("open").observe(jnp.array([2.0, 3.0])).tolist() == [2.0, 3.0]
    walls = PointMaze.preset("u-maze", observation="state+walls").observe(jnp.array([1.5, 1.5]))
    assert walls.shape == (27,) and walls[2:].sum() == 18
    pixels = PointMaze.preset("u-maze", observation="pixels").observe(jnp.array([1.5, 3.5]))
    row, column = np.unravel_index(np.argmax(pixels[..., 1]), (24, 24))
    assert pixels.shape == (24, 24, 2)
    assert abs(row - 3.5 / 5 * 24) <= 1 and abs(column - 1.5 / 5 * 24) <= 1


def test_samples_are_uniform_over_their_region():
    maze = PointMaze.preset("four-rooms")
    points = np.asarray(jax.vmap(lambda k: maze.sample(k, 2))(jax.random.split(jax.random.key(0), 4000)))
    assert set(np.asarray(maze.region(jnp.asarray(points)))) == {2}
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=4, range=[[6, 10], [6, 10]])[0]
    assert counts.sum() == 4000 and abs(counts - 250).max() < 5 * np.sqrt(250)


@pytest.mark.parametrize("text", ["###\n#.#\n##", "###\n..#\n###", ""])
def test_a_broken_map_is_refused(text):
    with pytest.raises(UserError):
        PointMaze.from_text(text)


def test_an_unknown_layout_is_refused():
    with pytest.raises(UserError, match=r"four-rooms.*'maze'"):
        PointMaze.preset("maze")
