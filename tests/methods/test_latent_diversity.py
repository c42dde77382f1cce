import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.methods import best_of_k_adaptation, distinguishability, robustness_set, thresholded_diversity
from unseen.worlds.control import MazeTask


def test_distinguishability_is_zero_where_nothing_tells_and_at_most_log_k():
    latent = jnp.array([0, 1, 2])
    assert np.allclose(distinguishability(jnp.zeros((3, 4)), latent), 0, atol=1e-6)
    sure = 50.0 * jax.nn.one_hot(latent, 4)
    assert np.allclose(distinguishability(sure, latent), np.log(4), atol=1e-5)
    probability = np.array([0.5, 0.2, 0.2, 0.1])
    assert np.isclose(distinguishability(jnp.log(probability), jnp.array(1)), np.log(0.2 * 4), atol=1e-6)


def test_diversity_is_paid_only_where_an_episode_reached_the_target():
    reward = jnp.array([[0.5, 0.1], [0.4, 0.2]])  # returns 0.9 and 0.3
    diversity = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    paid = thresholded_diversity(reward, diversity, 0.9, 10.0)
    assert np.allclose(paid - reward, [[10, 0], [30, 0]], atol=1e-5)
    assert np.allclose(thresholded_diversity(reward, diversity, 0.91, 10.0), reward)
    free = thresholded_diversity(reward, diversity, 0.91, 10.0, thresholded=0.0)
    assert np.allclose(free - reward, 10 * diversity, atol=1e-5)


def test_best_of_k_finds_the_latent_that_goes_the_right_way():
    world = MazeTask()
    ways = jnp.array([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
    found = best_of_k_adaptation(
        lambda key, seen, latent: ways[latent], world, world.default_params, 4, jax.random.key(0)
    )
    # The way is 7 cells; whoever pushes forward arrives, the others stay or lose ground.
    assert found.best == 2 and found.returns[2] > 0 and (np.delete(found.returns, 2) < -0.4).all()
    with pytest.raises(UserError, match="k takes"):
        best_of_k_adaptation(lambda *_: jnp.zeros(2), world, world.default_params, 0, jax.random.key(0))


def test_robustness_set_is_the_union_over_trajectories():
    trajectories = jnp.array([[0.0, 1.0], [0.0, 3.0], [2.0, 2.0]])
    limits = jnp.array([0.5, 1.0, 2.5, 9.0])  # an environment lets pass what stays at or below its limit
    survives = robustness_set(trajectories, limits, lambda limit, path: (path <= limit).all())
    assert survives.tolist() == [False, True, True, True]
