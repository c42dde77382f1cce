import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.methods.mixing import (
    AutoMixNet,
    alignmix,
    automix,
    decoupled_mixup,
    label_smoothing,
    manifold_mixup,
    mixing_objective,
    mixup,
    mixup_label_entropy,
    smoothing_of_entropy,
    soft_cross_entropy,
)
from unseen.models import ConvNet

KEY = jax.random.key(0)


def test_mixing_objective_is_cross_entropy_of_the_mixture():
    images, targets = jax.random.uniform(KEY, (4, 14, 14)), jnp.arange(4)
    net = ConvNet(4, widths=(3,), key=KEY)
    mixed = mixup(KEY, images, jnp.eye(4))
    expected = soft_cross_entropy(net(mixed.images), mixed.labels)
    np.testing.assert_allclose(mixing_objective(mixup, 4)(net, (images,), targets, KEY), expected, rtol=1e-6)


def test_decoupled_loss_by_hand():
    logits, labels = jnp.array([[1.0, 2.0, 0.5, -1.0]]), jnp.array([[0.3, 0.7, 0.0, 0.0]])
    z = np.exp(np.asarray(logits[0]))
    plain = -(0.3 * np.log(z[0] / z.sum()) + 0.7 * np.log(z[1] / z.sum()))
    own = -np.log(z[0] / (z[0] + z[2] + z[3])) - np.log(z[1] / (z[1] + z[2] + z[3]))
    np.testing.assert_allclose(decoupled_mixup(logits, labels, weight=0.25), plain + 0.25 * own, rtol=1e-5)
    one_class = jnp.eye(4)[:1]
    np.testing.assert_allclose(decoupled_mixup(logits, one_class), soft_cross_entropy(logits, one_class), rtol=1e-6)
    gradient = jax.grad(lambda x: decoupled_mixup(x, labels).sum())(logits)
    assert jnp.isfinite(gradient).all()


def test_smoothing_with_mixup_s_entropy():
    """Beta(1, 1): the mean binary entropy of a uniform ratio is 1/2 nat."""
    assert mixup_label_entropy(10) == pytest.approx(0.45, abs=1e-6)
    amount = smoothing_of_entropy(0.45, 10)
    labels = np.eye(10)[0] * (1 - amount) + amount / 10
    assert -(labels * np.log(labels)).sum() == pytest.approx(0.45)
    with pytest.raises(UserError, match="entropy"):
        smoothing_of_entropy(3.0, 10)
    net = ConvNet(10, widths=(3,), key=KEY)
    images, targets = jax.random.uniform(KEY, (4, 14, 14)), jnp.arange(4)
    plain = soft_cross_entropy(net(images), jax.nn.one_hot(targets, 10))
    np.testing.assert_allclose(label_smoothing(0.0, 10)(net, (images,), targets, KEY), plain, rtol=1e-6)


def test_manifold_mixup_at_every_depth_is_mixup_there():
    net = ConvNet(4, widths=(3, 5), key=KEY)
    images, targets = jax.random.uniform(KEY, (4, 14, 14)), jnp.arange(4)
    depths = set()
    for seed in range(12):
        key = jax.random.key(seed)
        depth_key, rest = jax.random.split(key)
        depth = int(jax.random.randint(depth_key, (), 0, 3))
        order_key, ratio_key, _ = jax.random.split(rest, 3)
        order, ratio = jax.random.permutation(order_key, 4), jax.random.beta(ratio_key, 2.0, 2.0)
        maps = net.maps(images, depth)
        logits = net.read(ratio * maps + (1 - ratio) * maps[order], depth)
        expected = soft_cross_entropy(logits, ratio * jnp.eye(4) + (1 - ratio) * jnp.eye(4)[order])
        np.testing.assert_allclose(manifold_mixup(4)(net, (images,), targets, key), expected, rtol=1e-4)
        depths.add(depth)
    assert depths == {0, 1, 2}


def test_alignmix_trains_the_stages_before_and_after():
    net = ConvNet(4, widths=(3, 5), key=KEY)
    images, targets = jax.random.uniform(KEY, (4, 14, 14)), jnp.arange(4)
    gradient = jax.grad(lambda net: alignmix(4)(net, (images,), targets, KEY).sum())(net)
    for kernel in gradient.kernels:
        assert jnp.isfinite(kernel).all() and float(jnp.abs(kernel).max()) > 0


def test_automix_teaches_network_and_masks_apart():
    net = AutoMixNet(ConvNet(4, widths=(4, 5), key=KEY), key=KEY)
    images, targets = jax.random.uniform(KEY, (6, 14, 14)), jnp.arange(6) % 4
    gradient = eqx.filter_grad(lambda net: automix(4)(net, (images,), targets, KEY).sum())(net)
    assert float(jnp.abs(gradient.value).max()) > 0 and float(jnp.abs(gradient.net.kernels[0]).max()) > 0
    maps = net.net.maps(images, 1)
    mask = net.mask(maps, maps[::-1], 0.4)
    assert mask.shape == (6, 7, 7) and (mask > 0).all() and (mask < 1).all()
    np.testing.assert_allclose(net(images), net.net(images))
    # The masks' module alone: the network must not learn from it.
    frozen = eqx.tree_at(lambda m: m.value, net, net.value + 1.0)
    other = eqx.filter_grad(lambda m: automix(4, area=0.0)(m, (images,), targets, KEY).sum())(frozen)
    assert jnp.isfinite(other.query).all()
