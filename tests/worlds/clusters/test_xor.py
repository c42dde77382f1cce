import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.models import TwoLayerFixedReadout
from unseen.worlds.clusters import BooleanXor, XorClusters, span_basis

KEY = jax.random.key(0)


def test_the_best_rule_reaches_the_bayes_error():
    world = XorClusters(dimension=2, samples=1, signal=4.0)
    points, labels = world.draw(KEY, 200_000)
    wrong = np.mean(np.where(np.abs(points[:, 0]) > np.abs(points[:, 1]), 1, -1) != labels)
    assert wrong == pytest.approx(float(world.bayes_error), abs=4 * np.sqrt(0.15 / 2e5))
    assert float(world.bayes_error) == pytest.approx(2 * 0.0786496 * 0.9213504, rel=1e-4)  # Phi(-sqrt 2)


def test_clusters_have_the_stated_means():
    world = XorClusters(dimension=5, samples=1, signal=9.0)
    points, labels = (np.asarray(x) for x in world.draw(KEY, 100_000))
    for axis, label in ((0, 1), (1, -1)):
        mine = points[labels == label]
        np.testing.assert_allclose(mine[mine[:, axis] > 0].mean(0), 3 * np.eye(5)[axis], atol=0.05)
        assert np.mean(mine[:, axis] > 0) == pytest.approx(0.5, abs=0.02)
        np.testing.assert_allclose(mine[mine[:, axis] > 0].var(0), 1, atol=0.05)
    assert world.strength == pytest.approx(81 / 5)


@pytest.mark.parametrize("world", [XorClusters(6, 1, 9.0), BooleanXor(6)], ids=["clusters", "strings"])
def test_no_linear_rule_beats_chance(world):
    """The best rules of 2,000 random directions and the means themselves, with and without an offset."""
    if isinstance(world, BooleanXor):
        data = world.sample(KEY, 40_000)
        (points,), labels = data.inputs, data.labels
    else:
        points, labels = world.draw(KEY, 40_000)
    rules = np.concatenate([np.random.default_rng(0).normal(size=(2000, 6)), np.eye(6), [[1, 1, 0, 0, 0, 0]]])
    read = np.asarray(points) @ rules.T
    right = (np.sign(read) == np.asarray(labels)[:, None]).mean(0)
    assert right.max() < 0.5 + 5 * 0.5 / np.sqrt(40_000)
    # With an offset one corner can be told from three.
    shifted = [(np.sign(read - offset) == np.asarray(labels)[:, None]).mean(0).max() for offset in (-2, -1, 1, 2)]
    assert max(shifted) < 0.75 + 5 * 0.5 / np.sqrt(40_000)


def test_labels_are_inverted_for_training_only():
    data = XorClusters(50, 40, 9.0, flip=0.25).sample(KEY, test=130)
    inverted = data.labels != data.targets
    assert int(inverted.sum()) == 10 and int((inverted * data.train).sum()) == 10
    assert data.inputs[0].shape == (170, 50)
    assert int(data.train.sum()) == 40 and int(data.test.sum()) == 130


def test_strings_and_their_labels():
    data = BooleanXor(7, 30).sample(KEY, 500)
    (strings,) = data.inputs
    assert set(np.unique(strings)) == {-1, 1}
    np.testing.assert_array_equal(data.labels, strings[:, 0] * strings[:, 1])
    np.testing.assert_allclose(np.corrcoef(strings.T), np.eye(7), atol=0.2)


def test_training_in_the_span_is_training():
    """Fifty steps in p dimensions and in the coordinates of the span end with the same outputs on all points."""
    world = XorClusters(dimension=300, samples=12, signal=60.0)
    start = TwoLayerFixedReadout(300, 8, key=KEY, scale=0.02)
    whole, spanned = world.sample(KEY, 50), world.sample_in_span(KEY, start.weights, 50)
    np.testing.assert_array_equal(whole.targets, spanned.targets)
    basis = span_basis(whole.inputs[0][:12])
    np.testing.assert_allclose(basis.T @ basis, np.eye(12), atol=1e-5)

    def train(weights, inputs):
        def loss(w):
            out = jax.nn.relu(inputs[0] @ w + (inputs[1] if len(inputs) > 1 else 0.0)) @ start.signs / jnp.sqrt(8)
            return optax.losses.sigmoid_binary_cross_entropy(out, (whole.targets + 1) / 2) @ whole.train / 12, out

        step = jax.jit(jax.grad(loss, has_aux=True))
        for _ in range(50):
            gradient, out = step(weights)
            weights = weights - 0.02 * gradient
        return out

    direct, cheap = train(start.weights, whole.inputs), train(jnp.zeros((12, 8)), spanned.inputs)
    assert np.abs(direct).max() > 0.3
    np.testing.assert_allclose(cheap, direct, atol=2e-4)


@pytest.mark.parametrize("setting", [dict(dimension=1), dict(samples=0), dict(signal=-1.0), dict(flip=1.5)])
def test_bad_clusters(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        XorClusters(**setting)


@pytest.mark.parametrize("setting", [dict(bits=1), dict(samples=0)])
def test_bad_strings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        BooleanXor(**setting)
