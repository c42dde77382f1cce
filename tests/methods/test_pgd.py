import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.methods.pgd import PGDAttack

KEY = jax.random.key(1)
W = jnp.array([3.0, -4.0, 12.0])
X = jax.random.normal(KEY, (5, 3))
Y = jnp.array([1.0, -1.0, 1.0, -1.0, 1.0])


def loss(x):
    return jnp.logaddexp(0, -Y * (x @ W))


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_on_a_linear_model_it_moves_by_the_radius_against_the_weights(steps):
    moved = PGDAttack(radius=0.5, steps=steps)(loss, X)
    np.testing.assert_allclose(moved - X, -0.5 * Y[:, None] * W / 13, atol=1e-5)
    np.testing.assert_allclose(Y * (X @ W) - Y * (moved @ W), 0.5 * 13, rtol=1e-4)


def test_confined_to_a_block_it_moves_along_the_weights_within():
    rotation = jax.random.orthogonal(KEY, 3)
    for basis, part in ((jnp.eye(3)[:2], np.array([3.0, -4.0, 0.0])), (rotation[1:], None)):
        part = np.asarray(W @ basis.T @ basis) if part is None else part
        moved = PGDAttack(radius=0.7, steps=4)(loss, X, within=basis)
        np.testing.assert_allclose(moved - X, -0.7 * Y[:, None] * part / np.linalg.norm(part), atol=1e-4)


def test_it_stays_in_the_ball_on_curved_losses_and_raises_them():
    def curved(x):
        return jnp.sum(jnp.sin(3 * x), axis=1)

    moved = PGDAttack(radius=0.2, steps=10)(curved, X)
    assert (jnp.linalg.norm(moved - X, axis=1) <= 0.2 + 1e-5).all()
    assert (curved(moved) > curved(X)).all()
    images = X.reshape(5, 3, 1)
    same = PGDAttack(radius=0.2, steps=10)(lambda x: curved(x[..., 0]), images)
    np.testing.assert_allclose(same[..., 0], moved, atol=1e-6)


def test_nothing_moves_without_a_radius_or_a_slope():
    assert (PGDAttack(radius=0.0, steps=3)(loss, X) == X).all()
    assert (PGDAttack(radius=1.0, steps=3)(lambda x: 0 * x.sum(1), X) == X).all()


def test_bad_input():
    with pytest.raises(UserError, match="radius takes"):
        PGDAttack(radius=-1.0)
    with pytest.raises(UserError, match="steps takes"):
        PGDAttack(radius=1.0, steps=0)
