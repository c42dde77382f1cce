import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.models import ConvNet
from unseen.models.conv_net import max_pool

KEY = jax.random.key(0)


def test_a_stage_is_a_convolution_relu_and_pooling():
    net = ConvNet(4, widths=(5, 6), channels=3, key=KEY)
    x = jax.random.normal(KEY, (2, 10, 10, 3))
    kernel = net.kernels[0].reshape(3, 3, 3, 5)
    peer = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    pooled = jax.lax.reduce_window(jax.nn.relu(peer), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    np.testing.assert_allclose(net.stage(0, x), pooled, atol=1e-5)


def test_small_maps_are_not_pooled_and_odd_ones_lose_their_edge():
    net = ConvNet(4, widths=(5, 6, 7, 8), key=KEY)
    shapes = [x.shape[1:] for x in net.layers(jnp.zeros((2, 14, 14))).values()]
    assert shapes == [(7, 7, 5), (3, 3, 6), (3, 3, 7), (3, 3, 8)]
    assert max_pool(jnp.zeros((1, 5, 4, 2))).shape == (1, 2, 2, 2)


def test_entering_in_the_middle_gives_the_same():
    net = ConvNet(4, widths=(5, 6), key=KEY)
    x = jax.random.normal(KEY, (3, 14, 14))
    for since in range(3):
        np.testing.assert_allclose(net.read(net.maps(x, since), since), net(x), atol=1e-5)


def test_no_stages():
    with pytest.raises(UserError, match="widths"):
        ConvNet(4, widths=(), key=KEY)
