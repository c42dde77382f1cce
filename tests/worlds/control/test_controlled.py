import jax
import jax.numpy as jnp
import numpy as np

from unseen.worlds.control.controlled import controlled_cartpole, controlled_pendulum, frames


def test_the_pendulum_is_swung_up_and_held():
    seen, torque = controlled_pendulum(jax.random.key(0), episodes=20, steps=200)
    assert seen.shape == (4_000, 3) and torque.shape == (4_000, 1)
    assert float(jnp.abs(torque).max()) <= 1 and float(jnp.abs(seen).max()) <= 1
    upright = seen.reshape(20, 200, 3)[:, -1, 0]
    assert float((upright > 0.95).mean()) >= 0.8


def test_the_pole_is_balanced_by_what_the_states_say():
    seen, action = controlled_cartpole(jax.random.key(1), episodes=20, steps=100)
    assert seen.shape == (20, 100, 4) and set(np.unique(action)) == {0, 1}
    assert float(jnp.abs(seen[:, -1, 2]).max()) < 0.3
    # Positions are sums of velocities: the simulator's Euler step of 0.02 s.
    assert np.allclose(seen[:, 1:, 0] - seen[:, :-1, 0], 0.02 * seen[:, :-1, 1], atol=1e-5)


def test_frames_stand_side_by_side():
    x = jnp.arange(10.0).reshape(1, 5, 2)
    assert frames(x, 2).tolist()[0][0] == [0, 1, 2, 3] and frames(x, 2).shape == (1, 4, 4)
    assert np.array_equal(frames(x, 1), x)
