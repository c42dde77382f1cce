import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.models import FeatureNet, layer_inputs

KEY = jax.random.key(0)
IMAGES = jax.random.uniform(jax.random.key(1), (5, 14, 14))
NETS = {
    "mlp": FeatureNet.mlp(196, 10, key=KEY),
    "residual mlp": FeatureNet.residual_mlp(196, 10, width=16, blocks=2, key=KEY),
    "conv": FeatureNet.conv_net(1, 10, widths=(4, 6), key=KEY),
    "vit": FeatureNet.vision_transformer(14, 1, 10, width=16, attention_heads=2, key=KEY),
}


def at(net, name):
    for part in name.split("."):
        net = net[int(part)] if part.isdigit() else getattr(net, part)
    return net


@pytest.mark.parametrize("kind", NETS)
def test_every_linear_layer_is_recorded_under_its_path_in_forward_order(kind):
    net = NETS[kind]
    logits, inputs = jax.vmap(lambda x: net(x, collect=True))(IMAGES)
    np.testing.assert_array_equal(logits, jax.vmap(net)(IMAGES))
    assert logits.shape == (5, 10)
    layers = net.linear_layers()
    assert list(_in_order(net, IMAGES[0])) == list(layers)
    for name, layer in layers.items():
        assert at(net, name) is layer
        assert inputs[name].shape[-1] == layer.weight[0].size


def _in_order(net, x):
    return net(x, collect=True)[1]  # not through jit or vmap: those sort the names


@pytest.mark.parametrize("kind", NETS)
def test_recorded_inputs_are_what_the_layers_really_read(kind):
    """A change of a layer's weight by dW changes its output by x dW: checked through the gradient of the logits."""
    net = NETS[kind]
    read = layer_inputs(net, IMAGES)["heads.0"]
    np.testing.assert_allclose(
        jax.vmap(net)(IMAGES), read @ net.heads[0].weight.T + net.heads[0].bias, rtol=1e-5, atol=1e-6
    )
    grads = jax.grad(lambda n: jax.vmap(n)(IMAGES).sum())(net)
    first = next(iter(net.linear_layers()))
    inputs = layer_inputs(net, IMAGES)[first]
    gradient = at(grads, first).weight
    # Each row of a weight's gradient is a combination of the layer's inputs: it lies in their span.
    flat = np.asarray(inputs, np.float64).reshape(-1, inputs.shape[-1])
    rows = np.asarray(gradient, np.float64).reshape(gradient.shape[0], -1)
    coefficients = np.linalg.lstsq(flat.T, rows.T, rcond=None)[0]
    np.testing.assert_allclose(flat.T @ coefficients, rows.T, atol=1e-4 * np.abs(rows).max())


def test_convolution_equals_its_patches_times_its_kernel():
    net = NETS["conv"]
    convolution = net.trunk[0].convolution
    patches = net(IMAGES[0], collect=True)[1]["trunk.0.convolution"]
    by_patches = patches @ convolution.weight.reshape(4, -1).T + convolution.bias.reshape(-1)
    np.testing.assert_allclose(by_patches.T.reshape(4, 14, 14), convolution(IMAGES[0][None]), atol=1e-5)


def test_residual_mlp_by_hand():
    net = NETS["residual mlp"]
    x = np.asarray(IMAGES[0]).reshape(-1)
    norm = lambda v: (v - v.mean()) / np.sqrt(v.var() + 1e-5)  # noqa: E731
    linear = lambda layer, v: np.asarray(layer.weight) @ v + np.asarray(layer.bias)  # noqa: E731
    h = linear(net.trunk[0].linear, x)
    for block in net.trunk[1:3]:
        h = h + linear(block.second, np.maximum(linear(block.first, norm(h)), 0))
    np.testing.assert_allclose(net(IMAGES[0]), linear(net.heads[0], norm(h)), atol=1e-5)


def test_default_residual_mlp_has_the_registered_size():
    net = FeatureNet.residual_mlp(196, 10, key=KEY)
    count = sum(leaf.size for leaf in jax.tree.leaves(net))
    assert 0.28e6 < count < 0.32e6


def test_several_heads_share_the_trunk():
    net = FeatureNet.mlp(196, 3, heads=2, key=KEY)
    (a, read_a), (b, read_b) = (net(IMAGES[0], collect=True, head=i) for i in (0, 1))
    np.testing.assert_array_equal(read_a["heads.0"], read_b["heads.1"])
    assert not np.allclose(a, b)
    assert net.stages() == ("trunk.0", "trunk.1", "heads.0", "heads.1")


def test_populations_of_networks():
    stacked = jax.vmap(lambda k: FeatureNet.residual_mlp(196, 10, width=8, blocks=1, key=k))(jax.random.split(KEY, 3))
    out = jax.vmap(lambda net, x: net(x))(stacked, IMAGES[:3])
    one = jax.tree.map(lambda leaf: leaf[1], stacked)
    np.testing.assert_allclose(out[1], one(IMAGES[1]), atol=1e-6)
    assert jnp.isfinite(out).all()


def test_vision_transformer_sees_positions():
    """Without its position vectors a mean-pooled transformer cannot tell where a patch lies."""
    import equinox as eqx

    net = NETS["vit"]
    moved = jnp.roll(IMAGES[0], 7, axis=1)
    blind = eqx.tree_at(lambda n: n.trunk[0].position, net, jnp.zeros_like(net.trunk[0].position))
    np.testing.assert_allclose(blind(IMAGES[0]), blind(moved), atol=1e-5)
    assert not np.allclose(net(IMAGES[0]), net(moved), atol=1e-4)


def test_bad_sizes_name_the_field():
    with pytest.raises(UserError, match="patch takes a divisor of the image size 14, got 5"):
        FeatureNet.vision_transformer(14, 1, 10, patch=5, key=KEY)
    with pytest.raises(UserError, match="attention_heads"):
        FeatureNet.vision_transformer(14, 1, 10, width=10, key=KEY)
