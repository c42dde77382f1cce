import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.methods import Dream, FeatureDream, RandomSwing, ValueDiversification

KEYS = jax.random.split(jax.random.key(0), 400)
WEIGHT = jax.random.normal(jax.random.key(1), (7, 5))
Z, BEFORE = jax.random.normal(jax.random.key(2), (2, 5))


def features(z):
    return WEIGHT @ z


def value(z):
    return WEIGHT[0] @ z + 3.0


def edited(dream, z=Z, before=BEFORE, keys=KEYS):
    return jax.vmap(lambda key: dream(key, z, before, features=features, value=value))(keys)


def test_a_swing_has_its_length_and_any_direction():
    moved = edited(RandomSwing(2.0)) - Z
    np.testing.assert_allclose(jnp.linalg.norm(moved, axis=1), 2.0, rtol=1e-5)
    # Uniform on the sphere: mean 0, each coordinate's square 4 / 5 on average.
    assert float(jnp.abs(moved.mean(0)).max()) < 4 * 2 / np.sqrt(5 * 400)
    np.testing.assert_allclose((moved**2).mean(0), 0.8, atol=0.16)


def test_a_feature_dream_climbs_the_known_gradient():
    gradient = WEIGHT.T @ (WEIGHT @ Z)
    np.testing.assert_allclose(
        edited(FeatureDream(0.1, steps=1))[0], Z + 0.1 * gradient / jnp.linalg.norm(gradient), rtol=1e-5
    )
    far = edited(FeatureDream(1.5, steps=3))[0]
    # Steps that bend cover less than their length, and all of them climb; the swing of equal length need not.
    assert 1.0 < float(jnp.linalg.norm(far - Z)) <= 1.5 + 1e-5
    climbed, swung = (float(jnp.mean((WEIGHT @ z) ** 2)) for z in (far, edited(RandomSwing(1.5))[0]))
    assert climbed > max(swung, float(jnp.mean((WEIGHT @ Z) ** 2)))


@pytest.mark.parametrize("sign", [1, -1])
def test_value_diversification_moves_away_from_the_value_before(sign):
    """With a linear value: along its weights, up where the value has risen, down where it has fallen."""
    before = Z - sign * 0.3 * WEIGHT[0]
    moved = edited(ValueDiversification(0.7), before=before)[0]
    np.testing.assert_allclose(moved, Z + sign * 0.7 * WEIGHT[0] / jnp.linalg.norm(WEIGHT[0]), rtol=1e-4, atol=1e-5)
    assert abs(value(moved) - value(before)) > abs(value(Z) - value(before))
    np.testing.assert_allclose(edited(ValueDiversification(0.7), before=Z)[0], Z)  # no difference, no direction


@pytest.mark.parametrize("kind", [RandomSwing, FeatureDream, ValueDiversification])
def test_some_states_are_edited_and_size_zero_is_faithful(kind):
    assert isinstance(kind(1.0), Dream)
    happened = (edited(kind(1.0, chance=0.3)) != Z).any(1)
    assert abs(float(happened.mean()) - 0.3) < 0.1
    np.testing.assert_array_equal(edited(kind(jnp.array(0.0)))[:3], jnp.stack([Z] * 3))
