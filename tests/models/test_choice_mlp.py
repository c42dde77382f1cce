import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.models.batch_norm import BatchNormMLP
from unseen.models.choice_mlp import ChoiceMLP

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (20, 6))


def narrow(net: ChoiceMLP, width: int) -> BatchNormMLP:
    """The network without the units that are off."""
    peer = BatchNormMLP(6, 3, widths=(width,), key=KEY)
    parts = (net.layer.weight[:width], net.layer.bias[:width], net.head.weight[:, :width], net.head.bias)
    return eqx.tree_at(lambda n: (n.layers[0].weight, n.layers[0].bias, n.head.weight, n.head.bias), peer, parts)


@pytest.mark.parametrize("width", [3, 8])
def test_it_is_the_narrow_network_with_batch_norm(width):
    net = ChoiceMLP(6, 3, most=8, width=width, normalise=True, key=KEY)
    np.testing.assert_allclose(net(X), narrow(net, width)(X), atol=1e-5)
    weights = (jnp.arange(20) < 12).astype(float)
    settled = net.settled(X, weights)
    np.testing.assert_allclose(settled(X), narrow(net, width).settled(X, weights)(X), atol=1e-5)


def test_without_batch_norm_it_is_a_plain_perceptron():
    net = ChoiceMLP(6, 3, most=8, width=5, normalise=False, key=KEY)
    hidden = jax.nn.relu(X @ net.layer.weight[:5].T + net.layer.bias[:5])
    np.testing.assert_allclose(net(X), hidden @ net.head.weight[:, :5].T + net.head.bias, atol=1e-5)
    np.testing.assert_allclose(net.settled(X, jnp.ones(20))(X), net(X), atol=1e-6)


def test_gradients_leave_what_is_off_alone():
    net = ChoiceMLP(6, 3, most=8, width=5, normalise=True, key=KEY)
    gradient = eqx.filter_grad(lambda net: jnp.sum(net(X) ** 2))(net)
    assert not gradient.layer.weight[5:].any() and gradient.layer.weight[:5].any()
    assert not gradient.head.weight[:, 5:].any()
    assert gradient.on is None and gradient.normalise is None


def test_the_head_is_drawn_for_the_width():
    net = ChoiceMLP(6, 300, most=64, width=16, normalise=False, key=KEY)
    assert float(jnp.abs(net.head.weight).max()) == pytest.approx(1 / 4, rel=0.01)
