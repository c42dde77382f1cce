import jax
import jax.numpy as jnp
import numpy as np

from unseen.models import BooleanNets
from unseen.worlds.clusters import bit_strings, boolean_functions


def test_outputs_by_hand_and_functions_by_table():
    nets = BooleanNets(3, 5, 7, key=jax.random.key(0))
    strings = bit_strings(3)
    w, v, c = (np.asarray(x) for x in (nets.hidden, nets.readout, nets.offset))
    expected = np.stack(
        [np.maximum(strings @ w[:3, m] + w[3, m], 0) @ v[m] / np.sqrt(5) + c[m] for m in range(7)], axis=1
    )
    outputs = nets(jnp.asarray(strings))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(boolean_functions(3)[nets.functions(jnp.asarray(strings))].T, np.sign(outputs))
