import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.csgraph import breadth_first_order

from unseen.lab import UserError
from unseen.worlds.control.continuous_maze import ContinuousMaze, maze_keys

WORLD = ContinuousMaze()
LEVELS = jax.jit(WORLD.levels, static_argnums=(1, 2))(jax.random.key(0), 32)


def segments(walls):
    """Ends ((x, y), (x, y)) of all walls of a map."""
    rows, columns = np.nonzero(np.asarray(walls))
    for row, column in zip(rows, columns, strict=True):
        if row % 2 and column % 2 == 0:
            yield (column / 2, (row - 1) / 2), (column / 2, (row + 1) / 2)
        elif row % 2 == 0 and column % 2:
            yield ((column - 1) / 2, row / 2), ((column + 1) / 2, row / 2)


def clearance(walls, positions):
    """Distances from positions to the nearest wall."""
    a, b = (np.array(ends) for ends in zip(*segments(walls), strict=True))
    share = np.clip(((positions[:, None] - a) * (b - a)).sum(-1), 0, 1)
    return np.linalg.norm(a + share[..., None] * (b - a) - positions[:, None], axis=-1).min(-1)


def test_every_maze_is_solvable_has_a_closed_border_and_about_the_loops_asked_for():
    assert bool(jnp.isfinite(jax.vmap(WORLD.shortest)(LEVELS)).all())
    walls = np.asarray(LEVELS.walls)
    assert walls[:, [0, -1]].all() and walls[:, :, [0, -1]].all()
    inner = np.concatenate(
        [walls[:, 1::2, 2:-1:2].reshape(len(walls), -1), walls[:, 2:-1:2, 1::2].reshape(len(walls), -1)], 1
    )
    # 112 inner walls; a spanning tree of 64 cells opens 63, and 15% of the other 49 are removed.
    assert np.mean(inner.sum(1)) == pytest.approx(0.85 * 49, abs=2)
    tree = ContinuousMaze(loops=0.0).level(jax.random.key(3)).walls
    assert int(tree[1::2, 2:-1:2].sum() + tree[2:-1:2, 1::2].sum()) == 49
    assert bool((jnp.linalg.norm(jnp.floor(LEVELS.start) - jnp.floor(LEVELS.goal), axis=-1) >= 4).all())


def test_shortest_agrees_with_scipy():
    for i in range(4):
        walls = np.asarray(LEVELS.walls[i])
        graph = np.zeros((64, 64))
        for cell in range(64):
            row, column = divmod(cell, 8)
            if column < 7 and not walls[2 * row + 1, 2 * column + 2]:
                graph[cell, cell + 1] = graph[cell + 1, cell] = 1
            if row < 7 and not walls[2 * row + 2, 2 * column + 1]:
                graph[cell, cell + 8] = graph[cell + 8, cell] = 1
        start, goal = (int(np.floor(p[1]) * 8 + np.floor(p[0])) for p in (LEVELS.start[i], LEVELS.goal[i]))
        _, before = breadth_first_order(graph, start)
        hops = 0
        while goal != start:
            goal, hops = before[goal], hops + 1
        assert float(WORLD.shortest(jax.tree.map(lambda leaf: leaf[i], LEVELS))) == hops  # noqa: B023


def test_the_body_never_overlaps_a_wall_and_slides_without_loss_along_it():
    def walk(level, key):
        def step(position, key):
            after, push = WORLD.move(level, position, jax.random.normal(key, (2,)) * 2)
            return after, (after, push)

        return jax.lax.scan(step, level.start, jax.random.split(key, 500))[1]

    paths, pushes = jax.jit(jax.vmap(walk))(LEVELS, jax.random.split(jax.random.key(1), 32))
    gaps = np.array([clearance(w, np.asarray(path)) for w, path in zip(LEVELS.walls, paths[:, ::5], strict=True)])
    assert gaps.min() > WORLD.radius - 1e-4 and gaps.min() < WORLD.radius + 1e-3
    assert 0.05 < float((pushes != 0).any(-1).mean()) < 0.95
    # A free step is the velocity, cut at length 1; against a wall only the component along it is left.
    room = WORLD.close(WORLD.level(jax.random.key(0)), 1, 2)  # the corner cell (0, 0) and a wall to its right
    free, push = WORLD.move(room, jnp.array([0.5, 0.5]), jnp.array([0.0, 3.0]))
    assert np.allclose(free, [0.5, 0.6]) and np.allclose(push, 0)
    slid, push = WORLD.move(room, jnp.array([0.8, 0.4]), jnp.array([0.6, 0.8]))
    assert np.allclose(slid, [0.8, 0.48], atol=1e-6) and np.allclose(push, [-0.06, 0], atol=1e-6)


def test_the_end_of_a_wall_is_round():
    level = ContinuousMaze(cells=2, loops=1.0, apart=1.0)
    open_room = level.level(jax.random.key(0))
    one_wall = level.close(open_room, 1, 2)  # on x = 1 from y = 0 to its end at (1, 1)
    assert not bool(open_room.walls[2, 2]) and bool(one_wall.walls[2, 2])
    through, push = level.move(open_room, jnp.array([0.9, 1.05]), jnp.array([1.0, 0.0]))
    assert np.allclose(through, [1.0, 1.05]) and np.allclose(push, 0)
    after, _ = level.move(one_wall, jnp.array([0.82, 1.1]), jnp.array([1.0, 0.0]))
    assert np.linalg.norm(np.asarray(after) - 1) == pytest.approx(0.2, abs=1e-6)


def test_training_and_test_mazes_never_share_a_key_or_a_maze():
    train, test = (maze_keys(jax.random.key(5), 4_000, split) for split in ("train", "test"))
    seen = {tuple(row) for row in np.asarray(jax.random.key_data(train)).tolist()}
    new = {tuple(row) for row in np.asarray(jax.random.key_data(test)).tolist()}
    assert len(seen) == len(new) == 4_000 and not seen & new
    # More training mazes are a superset: what was test stays test whatever the number of either.
    assert seen >= {tuple(r) for r in np.asarray(jax.random.key_data(maze_keys(jax.random.key(5), 7))).tolist()}
    made = jax.jit(WORLD.levels, static_argnums=(1, 2))
    maps = [{w.tobytes() for w in np.asarray(made(jax.random.key(5), 32, s).walls)} for s in ("train", "test")]
    assert len(maps[0]) == len(maps[1]) == 32 and not maps[0] & maps[1]


def test_as_an_environment():
    world = ContinuousMaze(traces=(10.0,))
    params = world.params(LEVELS, progress=1.0, max_steps=50)
    seen, state = world.reset(jax.random.key(0), params)
    assert seen.shape == world.observation_space(params).shape == (10,)
    step = jax.jit(world.step_env)
    level = jax.tree.map(lambda leaf: leaf[state.which], LEVELS)
    total, position = 0.0, state.position
    for key in jax.random.split(jax.random.key(2), 30):
        action = jax.random.normal(key, (2,))
        seen, state, reward, over, _ = step(key, state, action, params)
        position, push = world.move(level, position, action)
        assert np.allclose(state.position, position) and np.allclose(seen[6:8], push / 0.1, atol=1e-5)
        total += float(reward)
    # Progress is what the way got shorter: the sum over a walk is the difference of its ends.
    there = jnp.array([2 * jnp.floor(state.position[1]) + 1, 2 * jnp.floor(state.position[0]) + 1]).astype(int)
    left = world.distances(level)[there[0], there[1]] / 2
    assert total == pytest.approx(float(world.shortest(level) - left)) and not bool(over)
    home = state._replace(position=level.goal + jnp.array([0.1, 0.0]))
    assert bool(world.is_terminated(home, params))


def test_bad_settings_are_named():
    bad = dict(cells=1, loops=1.5, radius=0.5, speed=0.3, goal_radius=0.4, apart=9.0)
    for name, value in bad.items():
        with pytest.raises(UserError, match=name):
            ContinuousMaze(**{name: value})
    with pytest.raises(UserError, match="split"):
        maze_keys(jax.random.key(0), 3, "valid")
