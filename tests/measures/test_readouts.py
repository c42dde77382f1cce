import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from unseen.measures import NearestCentre, linear_probe, nearest_neighbours
from unseen.worlds.clusters import DigitDomains


@pytest.fixture(scope="module")
def digits():
    world = DigitDomains.digits()
    flat = world.images.reshape(len(world.images), -1)
    return flat[world.train], world.labels[world.train], flat[world.test], world.labels[world.test]


def test_linear_probe_is_scikit_learn_s_logistic_regression(digits):
    x, y, queries, answers = digits
    probe = jax.jit(lambda x, y: linear_probe(x, y, 10, decay=0.05))(x, y)
    standard = [(np.asarray(v) - np.asarray(probe.mean)) * np.asarray(probe.scale) for v in (x, queries)]
    peer = LogisticRegression(C=1 / (len(y) * 0.05), max_iter=2_000, tol=1e-6).fit(standard[0], y)
    np.testing.assert_allclose(probe.weights.T, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(probe(queries), peer.decision_function(standard[1]), atol=0.05)
    assert float(probe.error(queries, answers)) == pytest.approx(1 - peer.score(standard[1], answers), abs=0.003)


def test_nearest_centre_is_scikit_learn_s(digits):
    x, y, queries, answers = digits
    rule = NearestCentre.fit(x, y, 10)
    peer = NearestCentroid().fit(np.asarray(x), np.asarray(y))
    assert (np.asarray(rule(queries)) == peer.predict(np.asarray(queries))).all()
    assert float(rule.error(queries, answers)) == pytest.approx(1 - peer.score(queries, answers), abs=1e-6)


@pytest.mark.parametrize("k", [1, 5])
def test_nearest_neighbours_are_scikit_learn_s(digits, k):
    x, y, queries, _ = digits
    peer = KNeighborsClassifier(k).fit(np.asarray(x), np.asarray(y)).predict(np.asarray(queries))
    assert (np.asarray(nearest_neighbours(x, y, queries, 10, k=k)) == peer).mean() > 0.995
