import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.measures.weight_distance import track_weight_distance, weight_distance


def test_distance_of_two_networks():
    start = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    moved = jax.tree.map(lambda x: x + 0.5 if eqx.is_inexact_array(x) else x, start)
    assert float(weight_distance(moved, start)) == pytest.approx(0.5 * np.sqrt(2 * 3 + 3 + 3 + 1))
    assert float(weight_distance(start, start)) == 0


def test_the_record_is_the_path_of_gradient_descent():
    # x' = (1 - rate) x, so the distance after t updates is |x0| (1 - (1 - rate)^t).
    optimizer = optax.chain(optax.sgd(0.1), track_weight_distance(5))
    x = {"x": jnp.array([3.0, 4.0])}
    state = optimizer.init(x)
    for _ in range(4):
        updates, state = optimizer.update(x, state, x)
        x = optax.apply_updates(x, updates)
    wanted = 5 * (1 - 0.9 ** np.arange(1, 5))
    np.testing.assert_allclose(state[-1].distance, [*wanted, np.inf], rtol=1e-5)
    for _ in range(3):  # beyond the record nothing is overwritten
        _, state = optimizer.update(x, state, x)
    np.testing.assert_allclose(state[-1].distance[:4], wanted, rtol=1e-5)


def test_bad_use():
    with pytest.raises(UserError, match="length takes"):
        track_weight_distance(0)
    link = track_weight_distance(2)
    with pytest.raises(UserError, match="third argument"):
        link.update(jnp.zeros(1), link.init(jnp.zeros(1)))
