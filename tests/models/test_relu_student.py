import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unseen.models import ReluStudent

KEY = jax.random.key(0)


def test_starts_at_zero_and_is_what_it_says():
    net = ReluStudent(4, 2_000, key=KEY, scale=0.1)
    x = jax.random.normal(KEY, (7, 4))
    assert (net(x) == 0).all()
    np.testing.assert_allclose(net.weights.std() * 2, 0.1, rtol=0.05)
    v = np.random.default_rng(0).normal(size=2_000).astype(np.float32)
    net = eqx.tree_at(lambda n: n.readout, net, jnp.asarray(v))
    expected = np.maximum(np.asarray(x) @ np.asarray(net.weights), 0) @ v / np.sqrt(2_000)
    np.testing.assert_allclose(net(x), expected, rtol=1e-4, atol=1e-6)
