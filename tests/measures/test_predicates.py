import jax
import jax.numpy as jnp
import numpy as np

from unseen.measures import predicate_profile
from unseen.worlds.control import GridLevel, GridLevels
from unseen.worlds.control.grid_levels import Playroom

RIGHT, LEFT = 1, 3
LEVEL = GridLevel.from_text("######\n#.SKG#\n######")
WORLD = GridLevels(lambda key: LEVEL)


def holds(state):
    return jnp.stack([state.has_key, state.player[0, 1] == 1, state.player[0, 1] == 2])


def profile(act, steps=6, episodes=8):
    return np.asarray(
        predicate_profile(act, WORLD, WORLD.params(LEVEL), holds, jax.random.key(0), steps=steps, episodes=episodes)
    )


def test_certain_behaviours_have_certain_profiles():
    np.testing.assert_array_equal(profile(lambda key, seen: jnp.array(RIGHT)), [1, 0, 0])
    np.testing.assert_array_equal(profile(lambda key, seen: jnp.array(LEFT)), [0, 1, 0])
    np.testing.assert_array_equal(profile(lambda key, seen: jnp.array(0)), [0, 0, 1])  # bumps into the wall
    np.testing.assert_array_equal(profile(lambda key, seen: jnp.array(RIGHT), steps=0), [0, 0, 0])


def test_what_comes_after_the_end_does_not_count():
    # Two steps to the right end the episode at the goal; a walk back to the first column would come later.
    def there_and_back(key, seen):
        return jnp.where(seen[1, 3, 3] + seen[1, 2, 2] > 0, RIGHT, LEFT)

    assert profile(there_and_back, steps=8)[1] == 0


def test_a_random_policy_has_its_share():
    # Within two steps the key is reached by the first one (of 4 moves) or after a bump (2 of 4).
    share = profile(lambda key, seen: jax.random.randint(key, (), 0, 4), steps=2, episodes=4000)[0]
    assert abs(share - (1 / 4 + 2 / 4 * 1 / 4)) < 0.025


def test_by_default_an_episode_has_the_time_limit():
    world = GridLevels(Playroom(4))
    level = world.kind(jax.random.key(0))

    def late(state):
        return (state.time >= 7)[None]

    for limit, expected in ((6, 0), (7, 1)):
        params = world.params(level, max_steps=limit)
        share = predicate_profile(lambda key, seen: jnp.array(0), world, params, late, jax.random.key(0), episodes=2)
        assert float(share[0]) == expected
