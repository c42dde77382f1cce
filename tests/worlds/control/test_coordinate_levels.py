import jax
import jax.numpy as jnp
import numpy as np

from unseen.worlds.control import PLAYROOM_EVENTS, CoordinateLevels, GridLevels, Playroom, playroom_events
from unseen.worlds.control.grid_levels import GridLevel

UP, RIGHT, DOWN, LEFT = range(4)
TEXT = """\
##########
#S.#..#..#
#.B...#..#
#K.#T.D.G#
##########"""


def test_the_vector_says_where_everything_is():
    world = CoordinateLevels(Playroom(4))
    level = world.kind(jax.random.key(3))
    params = world.params(level)
    rows, columns = level.size
    observation, state = world.reset(jax.random.key(0), params)
    assert observation.shape == world.observation_space(params).shape
    for i in range(30):
        action = jax.random.randint(jax.random.key(i), (), 0, 4)
        observation, state, *_ = world.step_env(jax.random.key(i), state, action, params)
        row, column = np.split(np.asarray(observation[: 2 * (rows + columns)]), [2 * rows])
        row, column = row.reshape(2, rows), column.reshape(2, columns)
        assert (row.sum(1) == 1).all() and (column.sum(1) == 1).all()
        cells = np.stack([row.argmax(1), column.argmax(1)], 1)
        np.testing.assert_array_equal(cells, [state.player[0], state.box])
        np.testing.assert_array_equal(observation[-3:], [state.present[0], state.has_key, state.flipped])


def test_the_world_is_grid_levels_own():
    level = Playroom(4)(jax.random.key(1))
    short, planes = CoordinateLevels(Playroom(4)), GridLevels(Playroom(4))
    _, one = short.reset(jax.random.key(0), short.params(level))
    _, other = planes.reset(jax.random.key(0), planes.params(level))
    for i in range(20):
        key = jax.random.key(i)
        action = jax.random.randint(key, (), 0, 4)
        _, one, *first = short.step_env(key, one, action, short.params(level))
        _, other, *second = planes.step_env(key, other, action, planes.params(level))
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one[:-1], other[:-1]))
        assert float(first[0]) == float(second[0]) and bool(first[1]) == bool(second[1])


def test_events_along_a_walk_by_hand():
    level = GridLevel.from_text(TEXT)
    world = CoordinateLevels(lambda key: level)
    params = world.params(level)
    _, state = world.reset(jax.random.key(0), params)
    assert not playroom_events(level, state).any()
    steps = {
        "key": [DOWN, DOWN],
        "box moved": [RIGHT, UP],  # from below, the box goes up
        "switch": [RIGHT, RIGHT, DOWN],
        "door": [RIGHT, RIGHT],
        "treasure": [RIGHT, RIGHT],
    }
    seen = set()
    for name, actions in steps.items():
        before = playroom_events(level, state)
        assert not before[PLAYROOM_EVENTS.index(name)]
        for action in actions:
            _, state, *_ = world.step_env(jax.random.key(0), state, jnp.array(action), params)
            seen |= {n for n, held in zip(PLAYROOM_EVENTS, playroom_events(level, state), strict=True) if held}
        assert bool(playroom_events(level, state)[PLAYROOM_EVENTS.index(name)]), name
        assert name in seen
    assert "box in corner" not in seen
    corner = state._replace(box=jnp.array([1, 1]))
    assert playroom_events(level, corner)[PLAYROOM_EVENTS.index("box in corner")]
