import jax
import jax.numpy as jnp
import numpy as np

from unseen.methods.overlay import RandomOverlay

PICTURES = jnp.stack([jnp.full((3, 3, 1), value) for value in (0.2, 0.6)])


def test_mixes_every_image_with_a_picture_of_its_own():
    images = jax.random.uniform(jax.random.key(0), (200, 3, 3, 1))
    found = RandomOverlay(PICTURES, 0.25)(jax.random.key(1), images)
    over = (found - 0.75 * images) / 0.25
    np.testing.assert_allclose(over, jnp.broadcast_to(over[:, :1, :1], over.shape), atol=1e-5)
    first = np.isclose(over[:, 0, 0, 0], 0.2, atol=1e-5)
    np.testing.assert_allclose(over[~first], 0.6, atol=1e-5)
    assert 70 < first.sum() < 130


def test_shares_of_nothing_and_all():
    images = jax.random.uniform(jax.random.key(0), (4, 3, 3, 1))
    np.testing.assert_array_equal(RandomOverlay(PICTURES, 0.0)(jax.random.key(1), images), images)
    alone = RandomOverlay(PICTURES[:1], jnp.asarray(1.0))(jax.random.key(1), images)
    np.testing.assert_allclose(alone, jnp.full(images.shape, 0.2))
