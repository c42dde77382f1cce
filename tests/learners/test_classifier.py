import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
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


class Seen:
    """Counts how often each example was in a batch, and how often it was right then."""

    def init(self, data):
        return jnp.zeros((2, data.targets.shape[0]))

    def see(self, notes, rows, predictions, targets):
        return notes.at[0, rows].add(1).at[1, rows].add(accuracy(predictions, targets))

    def read(self, notes):
        return {"seen": notes[0], "right": notes[1]}


def test_an_epoch_shows_every_training_example_once_and_the_observer_sees_it():
    listed = WORLD.split(KEY, 24.5 / 49).listed()
    count = int(listed.train.sum())
    me = classifier(
        network, listed, OPTIMIZER, steps=12, every=6, batch_size=8, epoch=count, observer=Seen(),
        final=lambda model, data: {"size": jnp.asarray(data.train.size)},
    )  # fmt: skip
    assert count // 8 == 3
    state = me.init(KEY)
    once = me.advance(state)
    seen = me.final(once)["seen"]
    assert seen[np.asarray(listed.train) == 0].sum() == 0
    assert seen.max() == 2 and seen.sum() == 2 * 24  # two epochs, no example twice in one
    assert set(me.final(once)) == {"seen", "right", "size"}
    assert me.final(me.advance(once))["right"].sum() > 0
    for wrong in (dict(batch_size=None), dict(batch_size=99), dict(every=4)):
        with pytest.raises(UserError, match=r"batch_size takes|every takes"):
            classifier(network, listed, OPTIMIZER, **(dict(steps=12, every=6, batch_size=8, epoch=count) | wrong))


def test_the_objective_is_trained_and_the_loss_reported():
    """Training against permuted labels by the objective alone equals training on permuted labels."""
    split = WORLD.split(KEY, 0.5)
    wrong = eqx.tree_at(lambda d: d.targets, split, (split.targets + 1) % 7)
    one = learner(split, objective=lambda net, inputs, targets, key: cross_entropy(net(*inputs), (targets + 1) % 7))
    other = learner(wrong)
    a, b = one.advance(one.init(KEY)), other.advance(other.init(KEY))
    assert same(a.model, b.model)
    assert one.measure(a)["train_loss"] > other.measure(b)["train_loss"]  # of the data's own targets


def test_a_gradient_of_parts_of_the_batch_adds_up_to_the_whole():
    listed = WORLD.split(KEY, 0.5).listed()

    def halves(objective, model, key):
        a, b = (jax.grad(objective)(model, rows) for rows in (jnp.arange(4), jnp.arange(4, 8)))
        return jax.tree.map(lambda x, y: (x + y) / 2, a, b)

    whole, parts = (learner(listed, optax.sgd(0.1), batch_size=8, gradient=g) for g in (None, halves))
    a, b = (me.advance(me.init(KEY)).model for me in (whole, parts))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_the_settled_model_is_measured_and_the_other_one_trained():
    silent = learner(settle=lambda model, data: jax.tree.map(jnp.zeros_like, model))
    plain = learner()
    a, b = silent.advance(silent.init(KEY)), plain.advance(plain.init(KEY))
    assert same(a.model, b.model)
    assert np.isclose(silent.measure(a)["train_loss"], np.log(7))
