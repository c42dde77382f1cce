import jax
import jax.numpy as jnp
import numpy as np

from unseen.models.matrix_conv import MatrixConvNet


def test_it_is_a_convolutional_network():
    net = MatrixConvNet(8, 3, widths=(4, 5), key=jax.random.key(0))
    image = jax.random.normal(jax.random.key(1), (8, 8))
    x = image[None]
    for kernel, bias in zip(net.kernels, net.biases, strict=True):
        # Rows of a kernel: nine shifts, each with all channels.
        weight = kernel.reshape(3, 3, -1, kernel.shape[1]).transpose(3, 2, 0, 1)
        out = jax.lax.conv_general_dilated(x[None], weight, (1, 1), "SAME")[0] + bias[:, None, None]
        x = jax.lax.reduce_window(jax.nn.relu(out), -jnp.inf, jax.lax.max, (1, 2, 2), (1, 2, 2), "VALID")
    expected = net.head(jnp.moveaxis(x, 0, -1).ravel())
    assert np.allclose(net(image), expected, atol=1e-5)
