import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.methods.memorization import MAT, CrossRiskHeldOut, Unshifted, logit_shift
from unseen.models import FeatureNet
from unseen.models.batched import Batched

KEY = jax.random.key(2)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_logit_shift_against_its_definition_example_by_example(temperature):
    held_out, labels = np.asarray(jax.random.normal(KEY, (30, 3))), np.arange(30) % 3
    p = np.exp(held_out / temperature)
    p /= p.sum(1, keepdims=True)
    share = np.zeros((3, 3))  # of label y among examples predicted as k
    for k in range(3):
        for y in range(3):
            share[k, y] = sum(p[i, k] for i in range(30) if labels[i] == y) / p[:, k].sum()
    expected = [[np.log(sum(p[i, k] * share[k, y] for k in range(3)) + 1e-6) for y in range(3)] for i in range(30)]
    found = logit_shift(jnp.asarray(held_out), jnp.asarray(labels), temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_sure_and_right_prediction_leaves_nothing_to_learn_and_a_wrong_one_everything():
    held_out = jnp.eye(2)[jnp.array([0, 0, 0, 0, 1, 1, 1, 0])] * 100
    labels = jnp.array([0, 0, 0, 0, 1, 1, 1, 1])
    loss = MAT.loss(jnp.zeros((8, 2)), labels, logit_shift(held_out, labels))
    np.testing.assert_allclose(loss[:4], -np.log(4 / 5), rtol=1e-4)  # of five predicted as 0 four are
    np.testing.assert_allclose(loss[4:7], 0, atol=1e-4)
    np.testing.assert_allclose(loss[7], -np.log(1 / 5), rtol=1e-3)
    assert jnp.isfinite(logit_shift(jnp.array([[9.0, 0.0, -200.0]]), jnp.array([0]))).all()  # a class nobody predicts


@pytest.mark.parametrize("batch_size", [None, 16])
def test_held_out_predictions_contradict_the_examples_whose_labels_can_only_be_memorised(batch_size):
    # One cue, wrong for 10%, and noise by which every example can be recognised.
    keys = jax.random.split(KEY, 3)
    labels = jax.random.bernoulli(keys[0], 0.5, (100,)).astype(jnp.int32)
    cue = jnp.where(jnp.arange(100) < 10, 1 - labels, labels)
    x = jnp.concatenate([4.0 * cue[:, None] - 2, 0.5 * jax.random.normal(keys[1], (100, 200))], axis=1)
    twins = CrossRiskHeldOut(
        lambda key: Batched(FeatureNet.mlp(201, 2, widths=(), key=key)), optax.sgd(0.05), 300, batch_size
    )
    found = jax.jit(lambda key: twins(key, (x,), labels))(keys[2])
    wrong = found.logits.argmax(1) != labels
    assert wrong[:10].mean() > 0.8 and wrong[10:].mean() < 0.1
    assert 30 < int(found.first.sum()) < 70
    assert (found.labels[10:] == labels[10:]).mean() > 0.9  # flips touch the exceptions


def test_the_network_does_not_look_at_the_shift_but_its_training_does():
    net = Unshifted(Batched(FeatureNet.mlp(2, 2, widths=(), key=KEY)))
    x, shift, labels = jnp.ones((3, 2)), jnp.zeros((3, 2)).at[:, 1].set(5.0), jnp.array([1, 1, 0])
    assert (net(x, shift) == net(x, 2 * shift)).all()
    trained = MAT.objective(net, (x, shift), labels, KEY)
    expected = optax.softmax_cross_entropy_with_integer_labels(net(x, shift) + shift, labels)
    np.testing.assert_allclose(trained, expected, rtol=1e-6)


def test_bad_input():
    with pytest.raises(UserError, match="temperature takes"):
        logit_shift(jnp.zeros((2, 2)), jnp.array([0, 1]), temperature=0.0)
