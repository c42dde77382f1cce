import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.measures import squared_loss_trace
from unseen.methods import SAM, LabelNoiseSGD, memorising_flat_solution
from unseen.models import XorNets
from unseen.worlds.clusters import BooleanXor

KEY = jax.random.key(0)


def test_sam_is_optax_sam():
    net = XorNets(4, 6, "bias", key=KEY)
    x, y = jax.random.normal(KEY, (5, 4)), jnp.arange(5.0)

    def loss(model):
        return jnp.mean((model(x) - y) ** 2)

    ours = eqx.apply_updates(net, jax.tree.map(lambda g: -0.1 * g, SAM(0.3)(loss, net)))
    params, static = eqx.partition(net, eqx.is_inexact_array)
    uphill = optax.chain(optax.contrib.normalize(), optax.sgd(0.3))
    peer = optax.contrib.sam(optax.sgd(0.1), uphill, sync_period=2, opaque_mode=True)

    def gradient(p, _):
        return jax.grad(lambda p: loss(eqx.combine(p, static)))(p)

    updates, _ = peer.update(gradient(params, 0), peer.init(params), params, grad_fn=gradient)
    theirs = eqx.combine(optax.apply_updates(params, updates), static)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_sam_by_hand():
    """w^2 at 3 with radius 1/2: the gradient at 3.5."""
    assert SAM(0.5)(lambda w: w**2, jnp.array(3.0)) == pytest.approx(7.0)
    assert SAM(0.0)(lambda w: w**2, jnp.array(3.0)) == pytest.approx(6.0)
    assert SAM(0.5)(lambda w: w**2, jnp.array(0.0)) == 0  # no direction, no step


def test_label_noise_adds_its_variance():
    x, y = jnp.zeros((200_000, 1)), jnp.ones(200_000)
    losses = LabelNoiseSGD(0.5)(lambda inputs: 3 + 0 * inputs[:, 0], (x,), y, KEY)
    assert losses.mean() == pytest.approx(4 + 0.25, rel=0.01)


@pytest.mark.parametrize(("normalised", "trace"), [(False, 4 * np.sqrt(31)), (True, 2.0)])
def test_the_flat_solution_memorises(normalised, trace):
    data = BooleanXor(30, 20).sample(KEY, 500)
    strings, labels = data.inputs[0][:20], data.labels[:20]
    net = memorising_flat_solution(strings, labels, 25, normalised=normalised)
    np.testing.assert_allclose(net(strings), labels, rtol=1e-5)
    assert (net(data.inputs[0][20:]) == 0).all()
    assert squared_loss_trace(lambda n: n(strings), net) == pytest.approx(trace, rel=1e-4)


def test_no_balance_is_flatter():
    strings = BooleanXor(30, 20).sample(KEY, 1).inputs[0][:20]
    net = memorising_flat_solution(strings, jnp.ones(20), 20, normalised=False)
    best = squared_loss_trace(lambda n: n(strings), net)
    for factor in (0.8, 1.25):
        other = eqx.tree_at(
            lambda n: (n.weights, n.bias, n.readout),
            net,
            (factor * net.weights, factor * net.bias, net.readout / factor),
        )
        np.testing.assert_allclose(other(strings), 1, rtol=1e-5)
        assert squared_loss_trace(lambda n: n(strings), other) > 1.05 * best


def test_one_unit_a_string():
    with pytest.raises(UserError, match="width takes a number from 3"):
        memorising_flat_solution(jnp.ones((3, 4)), jnp.ones(3), 2, normalised=True)
