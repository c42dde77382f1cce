import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.measures import (
    centre_cosine,
    class_centres,
    diversity_profile,
    feature_diversity,
    hyperspherical_energy,
    null_diversity,
    positive_distance,
    unit,
)

KEY = jax.random.key(1)


def simplex(classes):
    frame = np.eye(classes) - 1 / classes
    return jnp.asarray(frame / np.linalg.norm(frame, axis=1, keepdims=True), jnp.float32)


def test_a_simplex_has_equal_energies_in_closed_form():
    """Squared distances in a simplex of k vectors are 2k / (k - 1)."""
    energy = hyperspherical_energy(5 * simplex(6))
    np.testing.assert_allclose(energy, (6 - 1) / (2 * 6), rtol=1e-5)
    assert float(feature_diversity(simplex(6))) == pytest.approx(np.log(12 / 5), rel=1e-5)
    np.testing.assert_allclose(hyperspherical_energy(simplex(6), power=1.0), np.sqrt(5 / 12), rtol=1e-5)


@pytest.mark.parametrize("width", [6, 12, 40])
def test_random_vectors_have_the_energy_of_the_beta_integral(width):
    """E 1/|u-v|^2 = (d - 2) / (2 (d - 3)) on the sphere in d dimensions."""
    null = null_diversity(KEY, 400, width, draws=30)
    assert float(null.mean()) == pytest.approx(-np.log((width - 2) / (2 * (width - 3))), abs=0.01)


def test_equal_vectors_have_finite_energy():
    assert jnp.isfinite(feature_diversity(jnp.ones((5, 3))))
    assert jnp.isfinite(feature_diversity(jnp.zeros((5, 3))))


def test_profile_pools_positions_and_removes_the_null():
    maps = jax.random.normal(KEY, (300, 4, 4, 9))
    flat = jax.random.normal(KEY, (300, 20))
    clumped = flat + 3
    profile = diversity_profile({"map": maps, "flat": flat, "clumped": clumped}, draws=20)
    assert float(profile.raw[0]) == pytest.approx(float(feature_diversity(maps.mean((1, 2)))))
    np.testing.assert_allclose(profile.corrected[:2], 0, atol=0.03)
    assert profile.corrected[2] < -1


def test_positive_distance_of_equal_and_of_unrelated_views():
    a, b = jax.random.normal(KEY, (2, 500, 16))
    assert float(positive_distance(a, 3 * a)) == pytest.approx(0, abs=1e-3)
    assert float(positive_distance(a, b)) == pytest.approx(1, abs=0.02)


def test_class_centres_and_their_cosine_on_a_simplex_and_on_a_point():
    labels = jnp.arange(40) % 4
    features = simplex(4)[labels]
    np.testing.assert_allclose(class_centres(features, labels, 4), simplex(4), atol=1e-6)
    assert float(centre_cosine(features, labels, 4)) == pytest.approx(-1 / 3, abs=1e-5)
    assert float(centre_cosine(jnp.ones((40, 3)), labels, 4)) == pytest.approx(1, abs=1e-5)
    assert (class_centres(features, labels, 5)[4] == 0).all()


def test_unit_leaves_zero_alone():
    np.testing.assert_allclose(unit(jnp.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]], atol=1e-6)
