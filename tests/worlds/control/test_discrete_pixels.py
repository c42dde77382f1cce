import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax")
pytest.importorskip("sklearn")

from unseen.worlds.control.discrete_pixels import FIVE, DiscretePixels
from unseen.worlds.control.pixels import PixelControl, visuals


def test_is_the_continuous_task_with_its_moves():
    plain, ours = PixelControl("push"), DiscretePixels("push")
    params = plain.params(visuals(background="texture", drift=1.0), max_steps=30)
    image, state = plain.reset(jax.random.key(0), params)
    seen, same = ours.reset(jax.random.key(0), params)
    for number in (1, 3, 3, 0, 2, 4):
        np.testing.assert_allclose(seen / 255, image, atol=0.5 / 255 + 1e-6)
        np.testing.assert_array_equal(same.physical, state.physical)
        key = jax.random.key(number)
        image, state, reward, *_ = plain.step(key, state, jnp.array(FIVE[number]), params)
        seen, same, paid, *_, info = ours.step(key, same, jnp.array(number), params)
        assert float(paid) == float(reward)
        np.testing.assert_array_equal(info["final_observation"], seen)
    assert seen.dtype == jnp.uint8


def test_spaces_and_moves_of_one_s_own():
    world = DiscretePixels("catch", actions=((1.0, 0.0), (-1.0, 0.0)))
    assert world.num_actions == 2 == world.action_space().n
    assert world.observation_space().contains(world.reset(jax.random.key(0), world.default_params)[0])
    np.testing.assert_array_equal(world.move(jnp.array(1)), [-1.0, 0.0])
    assert world != DiscretePixels("catch") and world == DiscretePixels("catch", actions=world.actions)
    assert world != PixelControl("catch") and hash(world) != hash(DiscretePixels("catch"))
