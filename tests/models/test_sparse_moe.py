import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.models import SparseMoE
from unseen.models.sparse_moe import ExpertBlock, choices, load_balance

KEY = jax.random.key(0)
NET = SparseMoE((5, 5, 1), 5, key=KEY, width=8, experts=3, hidden=4)


def unit(x):
    return x / np.sqrt(np.mean(x**2) + 1e-6)


def test_an_example_goes_through_its_expert_alone():
    block, x = ExpertBlock(8, 3, 4, key=KEY), np.asarray(jax.random.normal(jax.random.key(1), (6, 8)), np.float64)
    out, logits = block(jnp.asarray(x, jnp.float32))
    for i in range(6):
        route = unit(x[i]) @ np.asarray(block.router)
        expert = route.argmax()
        gate = np.exp(route[expert]) / np.exp(route).sum()
        said = (unit(x[i]) @ np.asarray(block.first[expert])) ** 2 * gate @ np.asarray(block.second[expert])
        np.testing.assert_allclose(logits[i], route, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out[i], x[i] + said, rtol=1e-4, atol=1e-4)
    assert len(set(np.asarray(choices(logits)).tolist())) > 1


def test_experts_that_are_not_chosen_get_no_gradient():
    block, x = ExpertBlock(8, 3, 4, key=KEY), jax.random.normal(jax.random.key(2), (1, 8))
    chosen = int(choices(block(x)[1])[0])
    gradient = jax.grad(lambda b: b(x)[0].sum())(block)
    for expert in range(3):
        assert bool((gradient.first[expert] != 0).any()) == (expert == chosen)
    assert (gradient.router != 0).any()


def test_grid_and_list_agree():
    eye, one = jnp.eye(5), jnp.ones((1, 1, 1))
    grid, routes = NET.routed(eye[:, None], eye[None], one)
    assert grid.shape == (5, 5, 5) and routes.shape == (2, 5, 5, 3)
    listed = NET(jnp.repeat(eye, 5, 0), jnp.tile(eye, (5, 1)), jnp.ones((25, 1)))
    np.testing.assert_allclose(grid.reshape(25, 5), listed, rtol=1e-4, atol=1e-5)


def test_load_balance_at_its_extremes():
    even = 1e-3 * jnp.eye(3)[None]  # three examples, one to each expert, nearly equal probabilities
    assert float(load_balance(even, jnp.ones(3))) == pytest.approx(1, rel=1e-3)
    one = jnp.broadcast_to(jnp.array([50.0, 0.0, 0.0]), (2, 3, 3))
    assert float(load_balance(one, jnp.ones(3))) == pytest.approx(3, rel=1e-4)
    mixed = jnp.stack([one[0], even[0]])
    assert float(load_balance(mixed, jnp.array([1.0, 0.0, 0.0]))) == pytest.approx((3 + 1) / 2, rel=1e-3)


def test_bad_sizes():
    with pytest.raises(UserError, match="experts takes"):
        SparseMoE((5,), 5, key=KEY, experts=1)
    with pytest.raises(UserError, match="blocks takes"):
        SparseMoE((5,), 5, key=KEY, blocks=0)
