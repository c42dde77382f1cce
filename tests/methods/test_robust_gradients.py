import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats.mstats import winsorize

from unseen.lab import UserError
from unseen.learners import classifier
from unseen.methods.robust_gradients import (
    median_of_three,
    median_of_three_gradient,
    winsorized_gradient,
    winsorized_mean,
)
from unseen.models import FeatureNet
from unseen.models.batched import Batched
from unseen.worlds.clusters.digit_split import Digits

KEY = jax.random.key(3)


def net():
    return Batched(FeatureNet.mlp(4, 3, widths=(5,), key=KEY))


X, Y = jax.random.normal(KEY, (12, 4)), jnp.arange(12) % 3


def objective(model, rows=slice(None)):
    return optax.softmax_cross_entropy_with_integer_labels(model(X[rows]), Y[rows]).mean()


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.45])
def test_winsorized_mean_against_scipy(share):
    values = np.asarray(jax.random.normal(KEY, (20, 3, 2)))
    expected = np.asarray(winsorize(values, limits=(share, share), axis=0)).mean(0)
    np.testing.assert_allclose(winsorized_mean({"w": jnp.asarray(values)}, share)["w"], expected, rtol=1e-5, atol=1e-6)


def test_one_outlier_does_not_move_it():
    values = jnp.ones((10, 2)).at[4, 1].set(1e6)
    np.testing.assert_allclose(winsorized_mean(values, 0.1), 1.0)


def test_median_of_three_against_numpy():
    a, b, c = jax.random.normal(KEY, (3, 7))
    np.testing.assert_array_equal(median_of_three(a, b, c), np.median([a, b, c], axis=0))


def test_hooks_on_single_examples_and_thirds():
    model = net()
    single = np.array([flat(eqx.filter_grad(lambda m, i=i: objective(m, jnp.array([i])))(model)) for i in range(12)])
    expected = np.asarray(winsorize(single, limits=(0.25, 0.25), axis=0)).mean(0)
    found = winsorized_gradient(12, share=0.25)(objective, model, KEY)
    np.testing.assert_allclose(flat(found), expected, rtol=1e-3, atol=1e-6)
    pairs = single.reshape(6, 2, -1).mean(1)
    expected = np.asarray(winsorize(pairs, limits=(0.17, 0.17), axis=0)).mean(0)
    found = winsorized_gradient(12, share=0.17, groups=6)(objective, model, KEY)
    np.testing.assert_allclose(flat(found), expected, rtol=1e-3, atol=1e-6)
    thirds = single.reshape(3, 4, -1).mean(1)
    found = median_of_three_gradient(12)(objective, model, KEY)
    np.testing.assert_allclose(flat(found), np.median(thirds, axis=0), rtol=1e-3, atol=1e-6)


def test_nothing_clipped_is_the_plain_gradient_also_in_the_classifier():
    world = Digits.of("digits", 12)
    states = []
    for hook in (None, winsorized_gradient(12, share=0.0)):
        me = classifier(
            lambda key: Batched(FeatureNet.mlp(64, 10, widths=(5,), key=key)),
            world.split, optax.sgd(0.1), steps=4, every=4, batch_size=12, epoch=12, gradient=hook,
        )  # fmt: skip
        states.append(jax.jit(me.advance)(jax.jit(me.init)(KEY)).model)
    np.testing.assert_allclose(flat(states[0]), flat(states[1]), rtol=1e-4, atol=1e-6)


def test_bad_input():
    for share in (-0.1, 0.5):
        with pytest.raises(UserError, match="share takes"):
            winsorized_gradient(10, share=share)
    with pytest.raises(UserError, match="groups takes a divisor"):
        winsorized_gradient(10, groups=3)
    with pytest.raises(UserError, match="a multiple of three"):
        median_of_three_gradient(10)
