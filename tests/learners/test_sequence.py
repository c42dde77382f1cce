import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from unseen.learners.sequence import adam, minibatches, predict, sequence_learner, token_loss, token_scores
from unseen.models.recurrent import RNN
from unseen.worlds.algorithms.chomsky import CHOMSKY_TASKS

TASK = CHOMSKY_TASKS["binary_addition"]()


def test_loss_and_scores_by_hand():
    batch = TASK.sample(jax.random.key(0), jnp.array([3, 5, 6]), 3, 6)
    logits = jax.random.normal(jax.random.key(1), (3, 13, 3))
    losses, right, exact = [], [], []
    for row in range(3):
        row_right = []
        for t in range(13):
            if batch.outputs[row, t]:
                losses.append(-float(jax.nn.log_softmax(logits[row, t])[batch.targets[row, t]]))
            if batch.scored[row, t]:
                row_right.append(int(logits[row, t].argmax()) == int(batch.targets[row, t]))
        right += row_right
        exact.append(all(row_right))
    scores = token_scores(logits, batch)
    np.testing.assert_allclose(token_loss(logits, batch), np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(scores["accuracy"], np.mean(right), rtol=1e-6)
    perfect = token_scores(jax.nn.one_hot(batch.targets, 3), batch)
    assert perfect["accuracy"] == 1 and perfect["exact"] == 1 and scores["exact"] == np.mean(exact)
    assert jnp.isnan(token_scores(logits.at[0, 3:5].set(jnp.nan), batch)["accuracy"])


def test_advance_is_a_plain_optax_loop_and_does_not_depend_on_how_often_it_is_measured():
    data = TASK.sample(jax.random.key(0), jnp.arange(40) % 6 + 1, 40, 6)

    def learner(every, regions=None):
        return sequence_learner(
            lambda key: RNN(4, 5, 3, key=key), minibatches(data, 8), adam(1e-2), steps=6, every=every, regions=regions
        )

    one = learner(6)
    state = one.init(jax.random.key(3))
    net, optimizer = state.model, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    moments = optimizer.init(eqx.filter(net, eqx.is_array))

    @eqx.filter_jit
    def update(net, moments, step):
        batch = minibatches(data, 8)(jax.random.fold_in(jax.random.fold_in(state.key, 0), step))
        gradients = eqx.filter_grad(lambda n: token_loss(predict(n, batch), batch))(net)
        updates, moments = optimizer.update(gradients, moments)
        return eqx.apply_updates(net, updates), moments

    for step in range(6):
        net, moments = update(net, moments, jnp.array(step))
    after = jax.jit(one.advance)(state)
    for a, b in zip(jax.tree.leaves(after.model), jax.tree.leaves(net), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    three = learner(2, {"train": minibatches(data, 8), "all": lambda key: data})
    advance = jax.jit(three.advance)
    again = advance(advance(advance(three.init(jax.random.key(3)))))
    assert eqx.tree_equal(after.model, again.model, rtol=1e-6, atol=1e-7)
    assert set(jax.eval_shape(three.measure, again)) == {
        f"{r}_{m}" for r in ("train", "all") for m in ("loss", "accuracy", "exact")
    }


def test_cosine_decay_ends_at_zero():
    optimizer = adam(0.1, cosine_steps=4)
    w, state, moves = jnp.array(1.0), optimizer.init(jnp.array(1.0)), []
    for _ in range(5):
        updates, state = optimizer.update(jnp.array(1.0), state, w)
        moves.append(float(updates))
    np.testing.assert_allclose(moves, [-0.1 * (1 + np.cos(np.pi * i / 4)) / 2 for i in range(5)], atol=1e-5)


def test_a_recurrent_network_learns_to_repeat_the_first_letter():
    task = CHOMSKY_TASKS["even_pairs"]()  # at length 2: exclusive or
    learner = sequence_learner(
        lambda key: RNN(3, 16, 2, key=key),
        lambda key: task.sample(key, 2, 32, 4),
        adam(1e-2),
        steps=300,
        every=300,
        profile=lambda key, n: task.sample(key, n, 32, 4),
        lengths=(2, 4),
    )
    final = jax.jit(learner.final)(jax.jit(learner.advance)(learner.init(jax.random.key(0))))
    assert final["accuracy"].shape == (2,) and final["accuracy"][0] == 1 and final["exact"][0] == 1
