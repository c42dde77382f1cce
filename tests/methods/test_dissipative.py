import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.methods import DissipativeLoss

KEY = jax.random.key(0)
X, Y = jax.random.normal(KEY, (30, 4)), jax.random.normal(jax.random.key(1), (30,))


def test_by_hand():
    loss = DissipativeLoss(0.5)
    w = jnp.array([1.0, 0, 0, 0])
    r = np.asarray(X[:, 0] - Y)
    assert loss(w, X, Y) == pytest.approx(np.mean(r**2 / (1 + r**2)) + 0.25, rel=1e-5)
    assert (loss.pointwise(100 * w, X, Y) < 1).all()


def test_it_is_dissipative_and_not_convex():
    loss = DissipativeLoss(0.1)
    m, k = loss.dissipativity(X)
    points = jax.random.normal(KEY, (2_000, 4)) * jnp.geomspace(0.01, 100, 2_000)[:, None]
    inward = jax.vmap(lambda w: w @ jax.grad(loss)(w, X, Y))(points)
    assert (inward >= m * jnp.sum(points**2, 1) - k).all()
    curvatures = jax.vmap(lambda w: jnp.linalg.eigvalsh(jax.hessian(loss)(w, X, Y))[0])(points)
    assert curvatures.min() < -0.01
    flat = DissipativeLoss(0.0)
    assert jnp.linalg.norm(jax.grad(flat)(1e4 * jnp.ones(4), X, Y)) < 1e-6
