import jax
import jax.numpy as jnp
import numpy as np

from unseen.methods.streams import noise_stream


def test_streams_follow_key_and_weights():
    key = jax.random.key(0)
    starts = [
        jnp.zeros(3),
        jnp.zeros(3).at[0].set(1e-7),
        jnp.zeros(3).at[1].set(1e-7),
        jnp.array([1.0, 2, 3]),
        jnp.array([2.0, 1, 3]),
    ]
    bits = [tuple(np.asarray(jax.random.key_data(noise_stream(key, {"w": w})))) for w in starts]
    assert len(set(bits)) == len(starts)
    again = noise_stream(key, {"w": jnp.zeros(3)})
    assert tuple(np.asarray(jax.random.key_data(again))) == bits[0]
    other = noise_stream(jax.random.key(1), {"w": jnp.zeros(3)})
    assert tuple(np.asarray(jax.random.key_data(other))) != bits[0]
