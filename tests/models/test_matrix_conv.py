import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.models.matrix_conv import MatrixConvNet


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("size", [8, 7])
def test_it_is_a_convolutional_network(size: int, strided: bool):
    net = MatrixConvNet(size, 3, widths=(4, 5), strided=strided, key=jax.random.key(0))
    image = jax.random.normal(jax.random.key(1), (size, size))
    x = image[None]
    for kernel, bias in zip(net.kernels, net.biases, strict=True):
        # Rows of a kernel: nine shifts, each with all channels.
        weight = kernel.reshape(3, 3, -1, kernel.shape[1]).transpose(3, 2, 0, 1)
        stride = 2 if strided else 1
        out = jax.lax.conv_general_dilated(x[None], weight, (stride, stride), [(1, 1), (1, 1)])[0]
        x = jax.nn.relu(out + bias[:, None, None])
        if strided:
            x = x[:, : size // 2, : size // 2]  # from an odd size the last row and column are left out
            size //= 2
        else:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2), (1, 2, 2), "VALID")
    expected = net.head(jnp.moveaxis(x, 0, -1).ravel())
    assert np.allclose(net(image), expected, atol=1e-5)
