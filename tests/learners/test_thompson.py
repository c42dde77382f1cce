import jax
import jax.numpy as jnp
import numpy as np

from unseen.learners.thompson import GaussianBelief, TypeBelief, regret_ratio, thompson_regret

MEANS = jnp.array([0.0, 1.0, 0.3])


def draws(belief, pulls, sums, count=4_000):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.vmap(lambda k: belief.draw(k, jnp.asarray(pulls), jnp.asarray(sums)))(keys))


def test_the_gaussian_posterior_is_the_textbooks():
    # Prior N(1, 1/4), noise 2: after 4 pulls that sum to 12, precision 4 + 1 and mean (4 * 1 + 12 / 4) / 5.
    belief = GaussianBelief(jnp.ones(3), jnp.full(3, 4.0), noise=2.0)
    found = draws(belief, [4.0, 0.0, 0.0], [12.0, 0.0, 0.0])
    assert np.allclose(found.mean(0), [1.4, 1, 1], atol=0.03)
    assert np.allclose(found.std(0), [0.2**0.5, 0.5, 0.5], atol=0.02)


def test_flat_priors_pull_every_arm_first():
    assert np.isinf(draws(GaussianBelief.flat(3), [2.0, 1.0, 0.0], [0.0, 0.0, 0.0], 5)[:, 2]).all()


def test_fitted_priors_are_the_training_tasks_moments():
    tasks = jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 2.0]])
    belief = GaussianBelief.fitted(tasks)
    assert np.allclose(belief.mean, [2, 2]) and np.allclose(1 / belief.precision, [4, 1])


def test_types_are_told_apart_by_bayes_rule():
    types, share = jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([0.25, 0.75])
    found = draws(TypeBelief(types, share), [1.0, 0.0], [0.2, 0.0])[:, 0]  # share of the second type
    odds = 3 * np.exp(-((0.2 - 1) ** 2) / 2 + 0.2**2 / 2)
    assert np.isclose(found.mean(), odds / (1 + odds), atol=0.02)


def test_regret_is_the_pulled_gaps_and_knowing_the_type_costs_nothing():
    known = TypeBelief(MEANS[None], jnp.ones(1))
    assert np.allclose(thompson_regret(known, MEANS, jax.random.key(0), blocks=3, pulls=10), 0)
    flat = thompson_regret(GaussianBelief.flat(3), MEANS, jax.random.key(0), blocks=4, pulls=100)
    assert flat[0] >= 1.7 - 1e-5  # every arm once
    assert np.all(np.diff(flat) >= 0) and flat[-1] - flat[-2] < flat[0]
    assert np.allclose(regret_ratio(jnp.array([[2.0, 4.0], [2.0, 8.0]]), jnp.array([[1.0, 1.0], [3.0, 2.0]])), [1, 4])
