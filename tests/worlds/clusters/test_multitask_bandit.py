import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from unseen.lab import UserError
from unseen.worlds.clusters.multitask_bandit import MultitaskBandit, random_maps

CONTEXTS = jax.random.normal(jax.random.key(0), (50, 6))
FEATURES = random_maps(jax.random.key(1), 8, CONTEXTS, dims=3)


def rank_of(values):
    return np.linalg.matrix_rank(np.asarray(values, float), tol=1e-3)


def test_shared_tasks_span_the_representation_and_unshared_ones_do_not():
    shared = MultitaskBandit.of_maps(jax.random.key(2), FEATURES, CONTEXTS, 7)
    own = MultitaskBandit.of_maps(jax.random.key(2), FEATURES, CONTEXTS, 7, shared=False)
    assert rank_of(shared.values) == 3 and rank_of(own.values) > 3
    # One task of both is the same.
    assert np.allclose(shared.values[0], own.values[0])


def test_maps_are_scaled_and_differ():
    assert np.allclose(FEATURES.std(1), 1, atol=1e-4) and np.allclose(FEATURES.mean(1), 0, atol=1e-4)
    assert not np.allclose(FEATURES[0], FEATURES[1])
    with pytest.raises(UserError, match="maps takes"):
        random_maps(jax.random.key(0), 1, CONTEXTS)


def test_rounds():
    bandit = MultitaskBandit.of_maps(jax.random.key(2), FEATURES, CONTEXTS, 7, candidates=4, noise=0.5)
    shown = bandit.show(jax.random.key(3))
    assert shown.shape == (7, 4)
    values = np.take_along_axis(np.asarray(bandit.values), np.asarray(shown), 1)
    best = jnp.asarray(np.take_along_axis(np.asarray(shown), values.argmax(1)[:, None], 1)[:, 0])
    assert np.allclose(bandit.loss(shown, best), 0)
    assert np.allclose(bandit.loss(shown, shown[:, 0]), values.max(1) - values[:, 0])
    paid = jax.vmap(lambda k: bandit.pay(k, best))(jax.random.split(jax.random.key(4), 3_000))
    assert np.allclose(paid.mean(0), values.max(1), atol=0.05) and np.allclose(paid.std(0), 0.5, atol=0.03)


def test_digits_are_the_real_ones_and_pay_by_class():
    bandit = MultitaskBandit.digits(jax.random.key(5), 3)
    bunch = load_digits()
    assert np.allclose(bandit.contexts * 16, bunch.data)
    for task in range(3):
        by_class = [np.unique(np.asarray(bandit.values)[task, bunch.target == c].round(5)) for c in range(10)]
        assert all(len(v) == 1 for v in by_class) and len(np.unique(by_class)) == 10
