import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.models import PatchEncoder


@pytest.mark.parametrize(("size", "patch", "channels"), [(20, 4, 3), (28, 7, 6), (8, 8, 1)])
def test_equals_a_strided_convolution(size, patch, channels):
    encoder = PatchEncoder(size, channels, patch=patch, features=5, outputs=7, key=jax.random.key(0))
    encoder = jax.tree.map(lambda x: x + 0.1, encoder)  # biases that are not 0
    images = jax.random.uniform(jax.random.key(1), (3, size, size, channels))
    kernel = encoder.kernel.reshape(patch, patch, channels, 5)
    convolved = jax.lax.conv_general_dilated(
        images, kernel, (patch, patch), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected = jax.nn.relu(convolved + encoder.bias)
    np.testing.assert_allclose(encoder.convolve(images), expected.reshape(3, -1, 5), atol=1e-5)
    dense = jax.nn.relu(expected.reshape(3, -1) @ encoder.dense.weight.T + encoder.dense.bias)
    np.testing.assert_allclose(encoder(images), dense, atol=1e-5)


def test_any_batch_axes():
    encoder = PatchEncoder(key=jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (2, 3, 20, 20, 3))
    np.testing.assert_allclose(encoder(images)[1, 2], encoder(images[1, 2]), atol=1e-6)
    assert encoder(images).shape == (2, 3, 64)


def test_cost_of_an_image():
    cost = jax.jit(lambda e, x: e(x)).lower(PatchEncoder(key=jax.random.key(0)), jnp.zeros((20, 20, 3))).compile()
    cost = cost.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    assert 0.12e6 < cost["flops"] < 0.16e6


def test_bad_patch():
    with pytest.raises(UserError, match="patch"):
        PatchEncoder(20, patch=3, key=jax.random.key(0))
