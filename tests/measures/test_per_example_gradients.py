import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.measures.per_example_gradients import (
    PerExampleGradients,
    coherence,
    noise_covariance,
    noise_spectrum,
    per_example_gradients,
)
from unseen.models import FeatureNet

KEY = jax.random.key(0)


def linear(params, example):
    """Its gradient is the example."""
    return jnp.sum(params * example)


@pytest.mark.parametrize("micro_batch", [None, 3, 1, 100])
def test_orthogonal_gradients_have_one_and_equal_ones_as_many_as_there_are(micro_batch):
    lengths = jnp.array([1.0, 2.0, 0.5, 3.0, 1.0, 7.0, 0.1])
    orthogonal = PerExampleGradients.of(linear, jnp.zeros(7), jnp.diag(lengths), micro_batch=micro_batch)
    assert orthogonal.scaled_coherence == pytest.approx(1)
    equal = PerExampleGradients.of(linear, jnp.zeros(4), jnp.tile(jnp.arange(4.0), (7, 1)), micro_batch=micro_batch)
    assert equal.scaled_coherence == pytest.approx(7)
    assert equal.noise == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(equal.alignment, 1, rtol=1e-5)
    opposite = PerExampleGradients.of(linear, jnp.zeros(2), jnp.array([[1.0, 2.0], [-1.0, -2.0]]))
    assert opposite.scaled_coherence == 0
    assert (opposite.alignment == 0).all()


def test_a_network_against_gradients_one_by_one():
    net = FeatureNet.mlp(5, 3, widths=(4,), key=KEY)
    x, y = jax.random.normal(KEY, (11, 5)), jnp.arange(11) % 3

    def loss(net, example):
        return -jax.nn.log_softmax(net(example[0]))[example[1]]

    one_by_one = []
    for example in zip(x, y, strict=True):
        leaves = jax.tree.leaves(eqx.filter_grad(loss)(net, example))
        one_by_one.append(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    g = np.array(one_by_one)
    np.testing.assert_allclose(per_example_gradients(loss, net, (x, y), micro_batch=4), g, rtol=1e-4, atol=1e-6)
    for micro_batch in (None, 4):
        found = PerExampleGradients.of(loss, net, (x, y), micro_batch=micro_batch)
        mean = g.mean(0)
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found.mean)])
        np.testing.assert_allclose(flat, mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.squared_norms, (g**2).sum(1), rtol=1e-4)
        cosine = g @ mean / np.linalg.norm(g, axis=1) / np.linalg.norm(mean)
        np.testing.assert_allclose(found.alignment, cosine, rtol=1e-3, atol=1e-5)
        # alpha is the mean inner product of two independent draws over the mean squared norm.
        alpha = (g @ g.T).mean() / (g**2).sum(1).mean()
        assert found.coherence == pytest.approx(alpha, rel=1e-4)
        assert found.noise == pytest.approx(np.trace(np.cov(g.T, bias=True)), rel=1e-4)
    assert coherence(g) == pytest.approx(alpha, rel=1e-4)
    assert coherence({"a": g[:, :3], "b": g[:, 3:]}, scaled=True) == pytest.approx(11 * alpha, rel=1e-4)


def test_noise_covariance_and_its_spectrum():
    g = jax.random.normal(KEY, (6, 9)) + 3
    covariance = noise_covariance(g)
    np.testing.assert_allclose(covariance, np.cov(g.T, bias=True), rtol=1e-4, atol=1e-5)
    expected = np.sort(np.linalg.eigvalsh(covariance))[::-1][:6]
    np.testing.assert_allclose(noise_spectrum(g), expected, rtol=1e-3, atol=1e-5)


def test_bad_input():
    with pytest.raises(UserError, match="micro_batch takes"):
        PerExampleGradients.of(linear, jnp.zeros(2), jnp.ones((3, 2)), micro_batch=0)
    with pytest.raises(UserError, match="one example or more"):
        PerExampleGradients.of(linear, jnp.zeros(2), jnp.ones((0, 2)))
