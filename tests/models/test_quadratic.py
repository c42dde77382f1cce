from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.models import EmbeddingMLP, PairTransformer, QuadraticMLP
from unseen.worlds.algorithms import ModularArithmetic

KEY = jax.random.key(0)


@pytest.mark.parametrize("p, width, units", [(31, 128, 8), (31, 90, 6), (7, 40, 13), (5, 14, 7)])
def test_cosine_weights_add_exactly(p, width, units):
    split = ModularArithmetic(p).split(KEY, 0.5)
    logits = QuadraticMLP.cosine(p, width)(*split.inputs)
    expected = units / 4 * (p * jax.nn.one_hot(split.labels, p) - 1)
    np.testing.assert_allclose(logits, expected, atol=2e-4)


def test_cosine_weights_need_their_width():
    with pytest.raises(UserError, match="width takes a number from 90"):
        QuadraticMLP.cosine(31, 89)


def test_quadratic_by_hand():
    model = QuadraticMLP(5, 8, key=KEY)
    eye = jnp.eye(5)
    logits = model(eye[:, None], eye[None])
    a, b, w = (np.asarray(x, np.float64) for x in (model.left, model.right, model.out))
    expected = [[(a[i] + b[j]) ** 2 @ w for j in range(5)] for i in range(5)]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_quadratic_is_homogeneous_of_degree_three():
    model = QuadraticMLP(5, 8, key=KEY)
    eye = jnp.eye(5)
    doubled = jax.tree.map(lambda x: 2 * x, model)
    np.testing.assert_allclose(doubled(eye, eye), 8 * model(eye, eye), rtol=1e-5)


def test_initial_variances():
    model = QuadraticMLP(31, 4096, key=KEY, scale=2.0)
    for weights, variance in ((model.left, 4 / 62), (model.right, 4 / 62), (model.out, 4 / 4096)):
        assert np.var(weights) == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize("network", [QuadraticMLP, EmbeddingMLP, partial(PairTransformer, layers=1, heads=1)])
def test_the_grid_and_the_list_of_pairs_agree(network):
    model = network(5, 8, key=KEY)
    split = ModularArithmetic(5).split(KEY, 0.5)
    call = eqx.filter_jit(lambda *inputs: model(*inputs))
    grid, listed = call(*split.inputs), call(*split.listed().inputs)
    assert grid.shape == (5, 5, 5)
    np.testing.assert_allclose(grid.reshape(25, 5), listed, rtol=1e-4, atol=1e-5)


def test_pair_transformer_tells_the_operands_apart():
    model = PairTransformer(5, 8, key=KEY, layers=1, heads=1)
    eye = jnp.eye(5)
    assert not jnp.allclose(model(eye[:1], eye[1:2]), model(eye[1:2], eye[:1]))
