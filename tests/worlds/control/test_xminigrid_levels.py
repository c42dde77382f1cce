import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xminigrid

from unseen.lab import UserError
from unseen.worlds.control.grid_levels import level_keys
from unseen.worlds.control.xminigrid_levels import XMiniGridLevels


def test_it_steps_as_xminigrid_does():
    world = XMiniGridLevels("MiniGrid-Empty-5x5")
    keys = level_keys(3, "test")
    params = world.params(keys, max_steps=12)
    inner, settings = xminigrid.make("MiniGrid-Empty-5x5")
    settings = settings.replace(max_steps=12)

    @jax.jit
    def both(key, actions):
        observation, state = world.reset_env(key, params)

        def step(carry, action):
            state, own = carry
            observation, state, reward, done, _ = world.step_env(key, state, action, params)
            own = inner.step(settings, own, action)
            return (state, own), (observation, reward, done, own.observation, own.reward, own.discount == 0)

        _, out = jax.lax.scan(step, (state, inner.reset(settings, keys[state.which])), actions)
        return observation, out

    forward, right = 0, 1
    start, (seen, reward, done, theirs, their_reward, their_done) = both(
        jax.random.key(0), jnp.array([forward, forward, right, forward, forward])
    )
    assert start.shape == world.observation_space().shape == (7, 7, 25)
    np.testing.assert_array_equal(seen[..., :13].argmax(-1), theirs[..., 0])
    np.testing.assert_array_equal(seen[..., 13:].argmax(-1), theirs[..., 1])
    np.testing.assert_array_equal(reward, their_reward)
    np.testing.assert_array_equal(done, their_done)
    assert done[-1] and reward[-1] == pytest.approx(1 - 0.9 * 5 / 12)  # forward twice, around the corner, the goal


def test_levels_are_those_of_their_keys():
    world = XMiniGridLevels()
    params = world.params(level_keys(1))
    a, b = (jax.jit(world.reset_env)(jax.random.key(i), params)[1].inner.state.grid for i in (0, 1))
    np.testing.assert_array_equal(a, b)  # one level, whatever the episode's key
    other = jax.jit(world.reset_env)(jax.random.key(0), world.params(level_keys(1, "test")))[1].inner.state.grid
    assert (np.asarray(a) != np.asarray(other)).any()


def test_unknown_tasks():
    with pytest.raises(UserError, match="name_of_task takes one of"):
        XMiniGridLevels("MiniGrid-Nowhere")
