import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.control import FrameStack, PixelControl, visuals


def test_shows_what_the_environment_behind_showed_last():
    plain = PixelControl("reach", 8)
    world = FrameStack(plain, 3)
    params = plain.params(visuals(background="texture", drift=1.0))
    begin, *keys = jax.random.split(jax.random.key(0), 5)
    ahead, step = (jax.jit(one.step_env) for one in (plain, world))
    image, inner = plain.reset_env(begin, params)
    stacked, state = world.reset_env(begin, params)
    seen = [image] * 3
    for key in keys:
        np.testing.assert_array_equal(stacked, jnp.concatenate(seen[-3:], -1))
        np.testing.assert_array_equal(world.get_obs(state), stacked)
        image, inner, reward, *_ = ahead(key, inner, jnp.array([1.0, -0.5]), params)
        stacked, state, same, *_ = step(key, state, jnp.array([1.0, -0.5]), params)
        seen.append(image)
        assert float(reward) == float(same)
    assert int(state.time) == 4 and not bool(world.is_terminated(state, params))


def test_gymnax_starts_episodes_anew():
    world = FrameStack(PixelControl("pole", 8))
    params = world.environment.params(max_steps=2)
    space = world.observation_space(params)
    image, state = jax.jit(world.reset)(jax.random.key(0), params)
    assert space.shape == image.shape == (8, 8, 6)
    step = jax.jit(world.step)
    for _ in range(2):
        image, state, *_ = step(jax.random.key(1), state, jnp.ones(2), params)
    assert int(state.time) == 0
    np.testing.assert_array_equal(image[..., :3], image[..., 3:])


def test_names_and_bad_counts():
    world = FrameStack(PixelControl("reach", 8))
    assert world == FrameStack(PixelControl("reach", 8)) and hash(world) == hash(FrameStack(PixelControl("reach", 8)))
    assert world != FrameStack(PixelControl("reach", 8), 3) and world.name == "PixelControl-reach-x2"
    assert world.num_actions == 2 and world.action_space().shape == (2,)
    assert world.default_params.max_steps_in_episode == 100
    with pytest.raises(UserError, match="count"):
        FrameStack(PixelControl("reach", 8), 0)
