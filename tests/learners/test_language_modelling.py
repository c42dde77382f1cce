"""Next-token training: the right batches in the right order, and it learns."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners import language_modelling
from unseen.models import TinyLM


class Counts(eqx.Module):
    """Remembers which windows it was trained on: the gradient of its loss is their one-hot sum."""

    seen: jax.Array

    def nll(self, windows):
        return self.seen[windows[:, 1:]]


def counting(count, batch, steps, every=1):
    windows = jnp.stack([jnp.zeros(count, int), jnp.arange(count)], 1)
    return language_modelling(
        lambda key: Counts(jnp.zeros(count)),
        windows,
        optax.sgd(-float(batch)),
        count=count,
        batch=batch,
        steps=steps,
        every=every,
        measure=lambda model: {"seen": model.seen},
    )


def test_every_window_comes_once_a_pass():
    learner = counting(10, 3, steps=6, every=3)
    state = learner.init(jax.random.key(0))
    once = learner.advance(state)
    np.testing.assert_allclose(np.sort(learner.measure(once)["seen"]), [0] + [1] * 9)
    twice = learner.advance(once)
    np.testing.assert_allclose(learner.measure(twice)["seen"], 2 * learner.measure(once)["seen"])
    other = learner.advance(learner.init(jax.random.key(1)))
    assert (other.order != once.order).any()


def test_an_update_is_the_optimizers_on_the_mean_loss():
    windows = jax.random.randint(jax.random.key(0), (8, 6), 0, 11)
    learner = language_modelling(
        lambda key: TinyLM(11, 8, 1, 2, key=key),
        lambda rows: windows[rows],
        optax.sgd(0.1),
        count=8,
        batch=4,
        steps=1,
        every=1,
        measure=lambda model: {"loss": model.nll(windows).mean()},
    )
    state = learner.init(jax.random.key(2))
    batch = windows[state.order[:4]]
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.model, jax.grad(lambda m: m.nll(batch).mean())(state.model))
    for a, b in zip(jax.tree.leaves(learner.advance(state).model), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_it_learns_what_repeats():
    windows = jnp.tile(jnp.arange(7), (16, 3))[:, :15]
    learner = language_modelling(
        lambda key: TinyLM(7, 16, 1, 2, key=key),
        windows,
        optax.adam(1e-2),
        count=16,
        batch=4,
        steps=60,
        every=60,
        measure=lambda model: {"loss": model.nll(windows).mean()},
    )
    state = learner.init(jax.random.key(0))
    after = jax.jit(learner.advance)(state)
    assert learner.measure(state)["loss"] > 1.5 and learner.measure(after)["loss"] < 0.2


def test_too_large_a_batch_is_named():
    with pytest.raises(UserError, match="batch takes"):
        counting(3, 4, 1)
