import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners import classifier
from unseen.measures.ledger import (
    ExampleLedger,
    ForgettingEvents,
    forgetting_counts,
    memorization_score,
    prune_by_forgetting,
)
from unseen.models import FeatureNet
from unseen.models.batched import Batched
from unseen.worlds.clusters.digit_split import Digits

KEY = jax.random.key(1)
# Rows are presentations, columns examples: always right, learned once, forgotten twice, never right.
RIGHT = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool)


def test_a_record_by_hand():
    found = ForgettingEvents.of(RIGHT)
    assert found.forgotten.tolist() == [0, 0, 2, 0]
    assert found.first_learned.tolist() == [0, 2, 0, np.inf]
    assert found.counts.tolist() == [0, 0, 2, 4]
    assert found.unforgettable.tolist() == [True, True, False, False]


def test_the_ledger_says_what_the_record_says():
    ledger = ExampleLedger()
    notes = ledger.empty(5)  # the last example is never presented
    order = np.random.default_rng(0)
    for epoch in RIGHT:
        for rows in order.permutation(4).reshape(2, 2):
            # Class 2 is right; the margin is 1 or -1.
            logits = np.where(epoch[rows][:, None], [0.0, 1.0, 2.0], [0.0, 3.0, 2.0])
            notes = ledger.see(notes, rows, logits, np.full(2, 2))
    record = ForgettingEvents.of(RIGHT)
    assert notes.forgotten.tolist() == [*record.forgotten, 0]
    assert notes.presented.tolist() == [4, 4, 4, 4, 0]
    assert jnp.floor(notes.first_learned[:4] / 2).tolist() == record.first_learned.tolist()  # two updates an epoch
    assert notes.margin[:4].tolist() == [1, 1, -1, -1] and notes.margin[4] == -jnp.inf
    assert forgetting_counts(notes.forgotten, notes.first_learned, notes.presented)[:4].tolist() == [0, 0, 2, 4]
    assert int(notes.update) == 8


def test_an_example_twice_in_a_batch_is_presented_once():
    ledger, wrong, right = ExampleLedger(), [[1.0, 0.0]] * 2, [[0.0, 1.0]] * 2
    notes = ledger.empty(2)
    for logits in (right, wrong, right):
        notes = ledger.see(notes, [1, 1], logits, [1, 1])
    assert notes.forgotten.tolist() == [0, 1] and notes.presented.tolist() == [0, 3]


def test_in_the_classifier_it_sees_every_batch_and_changes_nothing():
    world = Digits.of("digits", 40)

    def train(observer, batch, epoch):
        me = classifier(
            lambda key: Batched(FeatureNet.mlp(64, 10, widths=(8,), key=key)),
            world.split, optax.sgd(0.5), steps=30, every=15, batch_size=batch, epoch=epoch, observer=observer,
        )  # fmt: skip
        state = jax.jit(me.init)(KEY)
        for _ in range(2):
            state = jax.jit(me.advance)(state)
        return state, me.final(state) if observer else None

    state, found = train(ExampleLedger(), 8, 40)
    bare, _ = train(None, 8, 40)
    for a, b in zip(jax.tree.leaves(state.model), jax.tree.leaves(bare.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert (found["presented"][:40] == 6).all() and (found["presented"][40:] == 0).all()
    assert (found["forgotten"] <= 3).all() and (found["first_learned"][:40] < 30).any()
    _, full = train(ExampleLedger(), None, None)
    assert (full["presented"] == 30).all()  # all rows of a full batch, the test ones too: their weight is 0


@pytest.mark.parametrize(("order", "gone"), [("least", {0, 2, 4}), ("most", {1, 3, 5})])
def test_pruning_leaves_out_the_share_it_is_told(order, gone):
    counts = jnp.array([0.0, 5.0, 1.0, 7.0, 0.5, 9.0, 2.0, 3.0, 2.0, 3.0])
    kept = prune_by_forgetting(counts, 0.3, KEY, order=order)
    assert set(np.flatnonzero(~kept).tolist()) == gone
    traced = jax.jit(lambda share: prune_by_forgetting(counts, share, KEY, order=order))(0.3)
    assert (traced == kept).all()


def test_ties_are_broken_at_random_and_only_those_that_there_are_count():
    counts, among = jnp.zeros(100), jnp.arange(100) < 60
    kept = [prune_by_forgetting(counts, 0.5, jax.random.key(i), order="least", among=among) for i in range(2)]
    assert all(int(k.sum()) == 30 and not k[60:].any() for k in kept)
    assert (kept[0] != kept[1]).any()
    assert int(prune_by_forgetting(jnp.arange(100.0), 0.5, KEY, order="random")[:50].sum()) not in (0, 50)


def test_memorization_score():
    sure, unsure = jnp.array([[100.0, 0.0]]), jnp.array([[0.0, 0.0]])
    assert memorization_score(sure, unsure, jnp.array([0]))[0] == pytest.approx(0.5)
    assert memorization_score(sure, sure, jnp.array([1]))[0] == pytest.approx(0)


def test_bad_input():
    with pytest.raises(UserError, match="removed takes"):
        prune_by_forgetting(jnp.zeros(3), 1.5, KEY)
    with pytest.raises(UserError, match="right takes"):
        ForgettingEvents.of(RIGHT[0])
