import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.measures import coupled_stability
from unseen.methods import AlphaStableNoise

KEY = jax.random.key(0)


def loss(w, data):
    return 0.5 * jnp.mean(jnp.sum((w - data) ** 2, -1))


@pytest.mark.parametrize("alpha", [1.2, 2.0])
def test_on_a_bowl_the_noise_cancels(alpha):
    """Means of 10 points of which one differs by d: the distance is (1 - (1 - rate)^t) |d|/10, whatever the noise."""
    data = jax.random.normal(KEY, (10, 3))
    moved = jnp.array([3.0, 0.0, 4.0])
    neighbour = data.at[0].add(moved)
    optimizer = optax.chain(optax.sgd(0.1), AlphaStableNoise(alpha, 0.1))
    runs = coupled_stability(loss, jnp.zeros(3), data, neighbour, optimizer, steps=40, every=10)
    expected = (1 - 0.9 ** np.arange(0, 41, 10)) * 5 / 10
    np.testing.assert_allclose(runs.distance, expected, rtol=1e-3)
    assert jnp.linalg.norm(runs.first - data.mean(0)) > 0.01  # there is noise
    np.testing.assert_allclose(runs.second - runs.first, expected[-1] / 5 * moved, atol=1e-4)


def test_no_difference_no_distance():
    data = jax.random.normal(KEY, (10, 3))
    runs = coupled_stability(loss, jnp.zeros(3), data, data, optax.sgd(0.1), steps=4, every=2)
    np.testing.assert_array_equal(runs.distance, 0)
