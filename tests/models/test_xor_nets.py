import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.models import TwoLayerFixedReadout, XorNets

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 6))


def test_fixed_readout_by_hand():
    net = TwoLayerFixedReadout(6, 9, key=KEY, scale=0.5)
    w, a = np.asarray(net.weights), np.asarray(net.signs) / 3
    assert set(np.abs(net.signs)) == {1}
    np.testing.assert_allclose(net(X), np.maximum(X @ w, 0) @ a, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net(X, X @ net.weights), np.maximum(2 * X @ w, 0) @ a, rtol=1e-5, atol=1e-6)
    assert len(jax.tree.leaves(eqx.filter(net, eqx.is_inexact_array))) == 1  # the read-out is not trained


@pytest.mark.parametrize("kind", ["plain", "bias", "normalised"])
def test_xor_nets_by_hand(kind):
    net = XorNets(6, 9, kind, key=KEY)
    hidden = np.asarray(X) @ np.asarray(net.weights).T + (0 if net.bias is None else np.asarray(net.bias))
    hidden = np.maximum(hidden, 0)
    if kind == "normalised":
        hidden = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    np.testing.assert_allclose(net(X), hidden @ np.asarray(net.readout), rtol=1e-5, atol=1e-6)
    assert (net.bias is None) == (kind == "plain")


def test_silent_features_have_a_gradient():
    net = XorNets(6, 9, "normalised", key=KEY)
    silent = eqx.tree_at(lambda n: n.bias, net, jnp.full(9, -100.0))
    gradient = eqx.filter_grad(lambda n: n(X).sum())(silent)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert (silent(X) == 0).all()
