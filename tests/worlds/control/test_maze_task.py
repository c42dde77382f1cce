import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unseen.worlds.control import MazeTask, PointMaze, clears
from unseen.worlds.control.context import episode_return

WORLD = MazeTask()
TEXT = "\n".join(["#" * 12, *["#" + "." * 10 + "#"] * 10, "#" * 12])
MAZE = PointMaze.from_text(TEXT, mode="force", speed=0.5, drag=0.5)
PARAMS = WORLD.params(MAZE, (1.5, 6.0), (9.5, 6.0), price=0.4, max_steps=30)


def walk(maze, actions):
    state, path = maze.start(jnp.array([1.5, 6.0])), [jnp.array([1.5, 6.0])]
    for action in actions:
        state = maze.step(state, action)
        path.append(state[:2])
    return jnp.stack(path)


def test_a_whole_way_is_worth_one_minus_its_time():
    # From rest the speed after n steps is 0.5 (1 - 0.5^n): 8 cells minus the goal's radius take 17 steps.
    distance, steps = np.cumsum(0.5 * (1 - 0.5 ** np.arange(1, 31))), None
    steps = int(np.argmax(distance >= 8 - MAZE.goal_radius)) + 1
    nearer = (8 - abs(8 - distance[steps - 1])) / 8
    value = episode_return(WORLD, PARAMS, lambda key, seen: jnp.array([1.0, 0.0]), jax.random.key(0))
    assert steps == 17 and np.isclose(value, nearer - 0.4 * steps / 30, atol=1e-5)
    still = episode_return(WORLD, PARAMS, lambda key, seen: jnp.zeros(2), jax.random.key(0))
    assert np.isclose(still, -0.4, atol=1e-6)


def test_no_direction_is_faster_than_another():
    _, state = WORLD.reset_env(jax.random.key(0), PARAMS)
    moved = [
        WORLD.step_env(None, state, jnp.array(a), PARAMS)[1].point[:2] - state.point[:2]
        for a in ([1.0, 0.0], [1.0, 1.0])
    ]
    assert np.allclose([np.linalg.norm(m) for m in moved], 0.25, atol=1e-6)


def test_positions_can_be_read_from_observations_and_walls_cannot():
    _, state = WORLD.reset_env(jax.random.key(0), PARAMS)
    seen, state, *_ = WORLD.step_env(None, state, jnp.array([0.3, -0.8]), PARAMS)
    assert np.allclose(WORLD.position(seen, PARAMS), state.point[:2], atol=1e-5)
    walled = WORLD.params(eqx.tree_at(lambda m: m.walls, MAZE, jnp.ones_like(MAZE.walls)), PARAMS.start, PARAMS.goal)
    assert (WORLD.get_obs(state, walled) == seen).all() and WORLD.observation_space(PARAMS).shape == seen.shape


def test_a_path_clears_walls_exactly_if_the_same_actions_repeat_it():
    rng = np.random.default_rng(0)
    clear, agree = jax.jit(clears), []
    repeat = jax.jit(lambda maze, actions: walk(maze, actions))
    for _ in range(60):
        actions = jnp.asarray(np.clip(rng.normal(size=(12, 2)) * 0.7 + [0.7, 0], -1, 1), jnp.float32)
        walls = MAZE.walls.at[rng.integers(4, 8) : rng.integers(6, 9), rng.integers(3, 6)].set(True)
        other = eqx.tree_at(lambda m: m.walls, MAZE, walls)
        path = repeat(MAZE, actions)
        same = bool(jnp.allclose(path, repeat(other, actions), atol=1e-6))
        agree.append((bool(clear(other, path)), same))
    assert all(told == true for told, true in agree) and {told for told, _ in agree} == {True, False}
