import jax.numpy as jnp
import numpy as np
from scipy.stats import skew

from unseen.measures.place_fields import place_field_skew


def test_a_map_of_self_prediction_has_no_shift_or_skew():
    shape = place_field_skew(jnp.eye(5))
    assert np.allclose(shape.shift, 0, atol=1e-6) and np.allclose(shape.skew, 0)


def test_the_exact_one_way_map_reaches_backwards():
    # Visits of a run from s to the end: gamma^(c - s) for cells ahead. Cell 2's field is (g^2, g, 1) on places 0..2.
    g, places = 0.5, np.arange(4)
    visits = np.where(places[None] >= places[:, None], g ** (places[None] - places[:, None] * 1.0), 0.0)
    shape = place_field_skew(jnp.asarray(visits, jnp.float32))
    weights = np.array([g**2, g, 1])
    centre = (weights * [0, 1, 2]).sum() / weights.sum()
    assert np.isclose(shape.shift[2], centre - 2, atol=1e-6)
    sample = np.repeat([0, 1, 2], [1, 2, 4])  # the same weights as counts
    assert np.isclose(shape.skew[2], skew(sample), atol=1e-5) and shape.skew[2] < 0


def test_a_symmetric_field_does_not_lean():
    visits = jnp.array([[0.5], [1.0], [2.0], [1.0], [0.5]]) * jnp.ones((5, 5))
    shape = place_field_skew(visits)
    assert np.isclose(shape.shift[2], 0, atol=1e-6) and np.allclose(shape.skew, 0, atol=1e-6)
