import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.learners import classifier
from unseen.learners.classifier import accuracy, cross_entropy, weighted_mean
from unseen.models import QuadraticMLP
from unseen.worlds.algorithms import ModularArithmetic

KEY = jax.random.key(3)
WORLD = ModularArithmetic(7)
OPTIMIZER = optax.adamw(3e-3, b2=0.98, weight_decay=1.0)


def network(key):
    return QuadraticMLP(7, 16, key=key)


def learner(data=lambda key: WORLD.split(key, 0.5), optimizer=OPTIMIZER, **more):
    return classifier(network, data, optimizer, steps=20, every=10, **more)


def same(a, b):
    return all(
        (np.asarray(x) == np.asarray(y)).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_equals_a_plain_optax_loop_bit_for_bit():
    me = learner()
    state = me.init(KEY)
    model, data = state.model, state.data
    advance = eqx.filter_jit(me.advance)
    for _ in range(2):
        state = advance(state)

    @jax.jit
    def step(model, opt):
        def loss(model):
            logits = model(*data.inputs)
            per_pair = optax.softmax_cross_entropy(logits, jax.nn.one_hot(data.targets, 7))
            return jnp.sum(per_pair * data.train) / jnp.sum(data.train)

        updates, opt = OPTIMIZER.update(jax.grad(loss)(model), opt, model)
        return optax.apply_updates(model, updates), opt

    opt = OPTIMIZER.init(model)
    for _ in range(20):
        model, opt = step(model, opt)
    assert same(state.model, model)


def test_full_batch_ignores_held_out_pairs():
    """The masked gradient is the gradient over the list of training pairs alone."""
    state = learner().init(KEY)
    listed = state.data.listed()
    rows = np.flatnonzero(np.asarray(listed.train))
    left, right = (x[rows] for x in listed.inputs)

    def masked(model):
        return weighted_mean(cross_entropy(model(*state.data.inputs), state.data.targets), state.data.train)

    def selected(model):
        losses = optax.softmax_cross_entropy_with_integer_labels(model(left, right), listed.targets[rows])
        return losses.mean()

    for a, b in zip(
        jax.tree.leaves(jax.grad(masked)(state.model)), jax.tree.leaves(jax.grad(selected)(state.model)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_traced_decay_and_fraction_give_what_constants_give():
    def run(fraction, decay):
        me = learner(lambda key: WORLD.split(key, fraction), optax.adamw(3e-3, weight_decay=decay))
        return me.advance(me.init(KEY)).model

    traced = jax.jit(jax.vmap(run))(jnp.array([0.3, 0.6]), jnp.array([0.0, 1.0]))
    for i, (fraction, decay) in enumerate([(0.3, 0.0), (0.6, 1.0)]):
        constant = jax.jit(lambda f=fraction, d=decay: run(f, d))()
        for a, b in zip(jax.tree.leaves(traced), jax.tree.leaves(constant), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6)


def test_measures_by_hand():
    me = learner(measure=lambda model, data: {"norm": optax.global_norm(model)})
    state = me.init(KEY)
    logits = np.asarray(state.model(*state.data.inputs), np.float64)
    right = logits.argmax(-1) == np.asarray(state.data.labels)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -np.take_along_axis(log_p, np.asarray(state.data.labels)[..., None], -1)[..., 0]
    got = me.measure(state)
    for side in ("train", "test"):
        mask = np.asarray(getattr(state.data, side), bool)
        assert float(got[f"{side}_accuracy"]) == pytest.approx(right[mask].mean())
        assert float(got[f"{side}_loss"]) == pytest.approx(loss[mask].mean(), rel=1e-5)
    assert got["norm"] > 0


def test_minibatches_come_from_the_training_pairs_alone():
    """Poison the held-out pairs with NaN inputs: training must not notice."""

    class Poisoned(eqx.Module):
        labels: jax.Array
        targets: jax.Array
        train: jax.Array
        test: jax.Array
        inputs: tuple

    listed = WORLD.split(KEY, 0.3).listed()
    inputs = tuple(jnp.where(listed.train[:, None] > 0, x, jnp.nan) for x in listed.inputs)
    data = Poisoned(listed.labels, listed.targets, listed.train, listed.test, inputs)
    me = learner(data, batch_size=4)
    state = me.advance(me.init(KEY))
    assert state.data is None  # shared, not copied into the state
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(eqx.filter(state.model, eqx.is_array)))


def test_minibatch_gradient_is_unbiased():
    listed = WORLD.split(KEY, 0.5).listed()
    full = classifier(network, listed, optax.sgd(1.0), steps=1, every=1)
    small = classifier(network, listed, optax.sgd(1.0), steps=1, every=1, batch_size=8)
    state = full.init(KEY)
    exact = full.advance(state).model.out - state.model.out

    def one(key):
        return small.advance(eqx.tree_at(lambda s: s.key, state, key)).model.out - state.model.out

    drawn = jax.vmap(one)(jax.random.split(KEY, 4000))
    error = jnp.abs(drawn.mean(0) - exact) / (drawn.std(0) / jnp.sqrt(4000) + 1e-9)
    assert float(error.max()) < 4.5


def test_the_gradient_hook_gives_sharpness_aware_steps():
    radius = 0.05

    def sharpness_aware(objective, model, key):
        first = jax.grad(objective)(model)
        scale = radius / optax.global_norm(first)
        return jax.grad(objective)(jax.tree.map(lambda p, g: p + scale * g, model, first))

    me = learner(optimizer=optax.sgd(0.1), gradient=sharpness_aware)
    state = me.init(KEY)
    # The peer: optax's own SAM, one adversarial step to each outer one.
    sam = optax.contrib.sam(optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(radius)), sync_period=2)
    model, opt = state.model, sam.init(state.model)

    def loss(model):
        data = state.data
        return weighted_mean(cross_entropy(model(*data.inputs), data.targets), data.train)

    for _ in range(20):
        updates, opt = sam.update(jax.grad(loss)(model), opt, model)
        model = optax.apply_updates(model, updates)
    ours = me.advance(state).model
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_accuracy_of_nan_logits_is_nan():
    logits = jnp.array([[0.0, 1.0], [jnp.nan, 1.0]])
    scores = accuracy(logits, jnp.array([1, 1]))
    assert scores[0] == 1 and jnp.isnan(scores[1])
