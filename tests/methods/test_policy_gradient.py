import jax
import jax.numpy as jnp
import numpy as np
import rejax
from rejax.algos.ppo import Trajectory

from unseen.methods import advantages, clipped_loss


def test_advantages_of_three_steps_by_hand():
    reward, value = jnp.array([1.0, 0.0, 2.0]), jnp.array([0.5, 1.0, 0.25])
    found = advantages(reward, value, jnp.array([False, False, True]), jnp.array(9.0), 0.5, 0.5)
    last = 2.0 - 0.25
    middle = 0.5 * 0.25 - 1.0 + 0.25 * last
    np.testing.assert_allclose(found, [1.0 + 0.5 * 1.0 - 0.5 + 0.25 * middle, middle, last], rtol=1e-6)
    # lambda 1: the discounted return (here to the value after the last step) minus the value
    to_end = advantages(reward, value, jnp.zeros(3, bool), jnp.array(4.0), 0.5, 1.0)
    np.testing.assert_allclose(to_end[0], 1 + 0.25 * 2 + 0.125 * 4 - 0.5, rtol=1e-6)


def test_advantages_and_loss_are_rejax_s():
    keys = jax.random.split(jax.random.key(0), 6)
    reward, value, log_prob = (jax.random.normal(k, (20, 4)) for k in keys[:3])
    ends, last = jax.random.bernoulli(keys[3], 0.2, (20, 4)), jax.random.normal(keys[4], (4,))
    algorithm = rejax.PPO.create(env="CartPole-v1").replace(gamma=0.9, gae_lambda=0.7, clip_eps=0.1, ent_coef=0.0)
    played = Trajectory(reward, reward, log_prob, reward, value, ends)
    theirs, returns = algorithm.calculate_gae(played, last)
    ours = advantages(reward, value, ends, last, 0.9, 0.7)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours + value, returns, rtol=1e-5, atol=1e-6)


def test_clipping_stops_what_pays_already():
    def slope(log_ratio, advantage):
        return float(
            jax.grad(lambda x: clipped_loss(x, jnp.zeros(()), jnp.array(advantage), 0.2))(jnp.array(log_ratio))
        )

    assert np.isclose(slope(0.0, 2.0), -2.0) and np.isclose(slope(0.1, 2.0), -2 * np.exp(0.1))
    assert slope(0.3, 2.0) == 0 and slope(-0.3, -2.0) == 0  # moved far enough to the good side
    assert slope(-0.3, 2.0) < 0 < slope(0.3, -2.0)  # but not back from the bad one
