import jax.numpy as jnp
import numpy as np

from unseen.measures.effective_members import effective_members


def test_closed_forms():
    np.testing.assert_allclose(effective_members(jnp.eye(5)), 5, rtol=1e-5)
    np.testing.assert_allclose(effective_members(jnp.ones((5, 5))), 1, rtol=1e-4)
    clusters = jnp.kron(jnp.eye(3), jnp.ones((2, 2)))
    np.testing.assert_allclose(effective_members(clusters), 3, rtol=1e-4)
    # Unequal clusters of 3 and 1: exp of the entropy of (3/4, 1/4).
    unequal = jnp.zeros((4, 4)).at[:3, :3].set(1.0).at[3, 3].set(1.0)
    np.testing.assert_allclose(
        effective_members(unequal), np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)), rtol=1e-4
    )
    # Two members with similarity k: eigenvalues 1 + k and 1 - k.
    share = np.array([1.3, 0.7]) / 2
    k = jnp.array([[1.0, 0.3], [0.3, 1.0]])
    np.testing.assert_allclose(effective_members(k), np.exp(-(share * np.log(share)).sum()), rtol=1e-5)
