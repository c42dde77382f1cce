import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.measures import (
    BayesMixture,
    count_functions,
    flip_divergence,
    hypothesis_weight,
    label_divergence,
    label_probability,
    posterior_predictive,
    regret_bound,
)
from unseen.models import BooleanNets
from unseen.worlds.clusters import bit_strings, boolean_functions

KEY = jax.random.key(0)
TABLE = boolean_functions(2)
PRIOR = np.random.default_rng(0).dirichlet(np.ones(16)).astype(np.float32)
FLIP = 0.1
MIXTURE = BayesMixture(jnp.asarray(TABLE), jnp.log(jnp.asarray(PRIOR)), FLIP)


def by_hand(data, truth):
    """Sequential prediction in Python: posterior, regret and prediction after all labels."""
    posterior, loss = PRIOR.astype(float), 0.0
    for x, y in data:
        likelihood = np.where(TABLE[:, x] == y, 1 - FLIP, FLIP)
        loss -= np.log(posterior @ likelihood) - np.log(1 - FLIP if truth[x] == y else FLIP)
        posterior = posterior * likelihood / (posterior @ likelihood)
    return loss, posterior @ np.where(TABLE == 1, 1 - FLIP, FLIP)


def test_regret_and_prediction_by_hand():
    rng = np.random.default_rng(1)
    truth = TABLE[6]
    data = [(int(x), int(y)) for x, y in zip(rng.integers(4, size=30), rng.choice([-1, 1], size=30), strict=True)]
    tally = np.zeros(4, np.float32)
    for x, y in data:
        tally[x] += y
    loss, predicted = by_hand(data, truth)
    assert MIXTURE.regret(jnp.asarray(tally), jnp.asarray(truth)) == pytest.approx(loss, abs=1e-4)
    np.testing.assert_allclose(MIXTURE.predict(jnp.asarray(tally)), predicted, rtol=1e-4)


def test_regret_is_at_most_minus_log_weight():
    """The theorem, on every truth and random labels; and with many labels of the truth it is reached."""
    tallies = jax.random.randint(KEY, (500, 4), -9, 10).astype(float)
    for truth, weight in zip(TABLE, PRIOR, strict=True):
        assert (MIXTURE.regret(tallies, jnp.asarray(truth)) <= -np.log(weight) + 1e-4).all()
        assert MIXTURE.regret(jnp.asarray(50 * truth), jnp.asarray(truth)) == pytest.approx(-np.log(weight), abs=1e-3)
        assert MIXTURE.regret(jnp.zeros(4), jnp.asarray(truth)) == pytest.approx(0, abs=1e-5)


def test_functions_outside_the_class_do_no_harm():
    prior = np.where(np.arange(16) < 8, 1 / 8, 0).astype(np.float32)
    mixture = BayesMixture(jnp.asarray(TABLE), jnp.log(jnp.asarray(prior)), FLIP)
    assert np.isfinite(mixture.predict(jnp.ones(4))).all()
    assert mixture.regret(jnp.asarray(50 * TABLE[3]), jnp.asarray(TABLE[3])) == pytest.approx(np.log(8), abs=1e-3)


def test_weights_of_neighbourhoods():
    weights = hypothesis_weight(jnp.asarray(TABLE), jnp.asarray(PRIOR), jnp.asarray(TABLE[5]))
    apart = (TABLE[5] != TABLE).sum(1)
    np.testing.assert_allclose(weights, [PRIOR[apart <= d].sum() for d in range(5)], rtol=1e-5)
    bounds = [n * d / 4 * flip_divergence(FLIP) - np.log(weights[d]) for n, d in itertools.product([7], range(5))]
    assert regret_bound(weights, 7, FLIP) == pytest.approx(min(bounds), rel=1e-5)
    assert regret_bound(weights, 0, FLIP) == pytest.approx(0, abs=1e-5)


def test_divergences():
    p, q = 0.9, 0.1
    assert flip_divergence(0.1) == pytest.approx(p * np.log(p / q) + q * np.log(q / p))
    assert label_divergence(jnp.array(0.9), jnp.array(0.1)) == pytest.approx(flip_divergence(0.1), rel=1e-5)
    assert label_divergence(jnp.array(0.3), jnp.array(0.3)) == 0
    np.testing.assert_allclose(label_probability(jnp.array([-9.0, 0, 9]), 0.1, 10.0), [0.1, 0.5, 0.9], rtol=1e-5)


def test_counts_are_the_prior_of_the_networks():
    counts = count_functions(2, 3, 40_000)["counts"]
    found = BooleanNets(2, 3, 40_000, key=jax.random.key(9)).functions(jnp.asarray(bit_strings(2)))
    other = np.bincount(found, minlength=16)
    np.testing.assert_allclose(counts / counts.sum(), other / 40_000, atol=5 * np.sqrt(0.25 / 40_000))
    # Signs of weights are symmetric: so are function and negation, and a bit may be turned over.
    np.testing.assert_allclose(counts / counts.sum(), counts[::-1] / counts.sum(), atol=0.015)
    turned = [sum((f >> (j ^ 2) & 1) << j for j in range(4)) for f in range(16)]
    np.testing.assert_allclose(counts / counts.sum(), counts[turned] / counts.sum(), atol=0.015)


def test_exclusive_or_is_the_rarest_function_of_two_bits():
    counts = count_functions(2, 8, 40_000)["counts"]
    assert set(np.argsort(counts)[:2]) == {0b0110, 0b1001}


def test_posterior_from_prior_draws_is_the_mixture_of_a_steep_sigmoid():
    counts = count_functions(2, 4, 200_000, seed=1)["counts"]
    mixture = BayesMixture(jnp.asarray(TABLE), jnp.log(jnp.asarray(counts / counts.sum(), jnp.float32)), FLIP)
    positive, negative = jnp.array([3.0, 0, 0, 1]), jnp.array([0.0, 2, 1, 0])
    predicted, effective = posterior_predictive(
        KEY, positive, negative, bits=2, width=4, draws=200_000, flip=FLIP, gain=1e4
    )
    np.testing.assert_allclose(predicted, mixture.predict(positive - negative), atol=0.01)
    assert 1_000 < effective < 200_000


def test_no_labels_no_change():
    predicted, effective = posterior_predictive(
        KEY, jnp.zeros(4), jnp.zeros(4), bits=2, width=4, draws=50_000, flip=FLIP, gain=2.0
    )
    assert effective == pytest.approx(60_000)  # three chunks
    np.testing.assert_allclose(predicted, 0.5, atol=0.01)
