import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.methods import PAD, InverseDynamicsTask, PADPolicy, RotationTask, deploy
from unseen.methods.pad import Moments, shifted_copies, turned
from unseen.models import PatchEncoder
from unseen.worlds.control import PixelControl, visuals

KEYS = jax.random.split(jax.random.key(0), 6)
WORLD = PixelControl("reach", 8)


def policy(task="inverse", outputs=8):
    encoder = PatchEncoder(8, features=4, outputs=outputs, key=KEYS[0])
    actor = eqx.nn.MLP(outputs, 2, 8, 1, final_activation=jnp.tanh, key=KEYS[1])
    kinds = {
        "inverse": InverseDynamicsTask(outputs, 2, 8, key=KEYS[2]),
        "rotation": RotationTask(outputs, 8, key=KEYS[2]),
    }
    return PADPolicy(encoder, actor, kinds[task])


def moment(key):
    images = jax.random.uniform(key, (2, 8, 8, 3))
    return Moments(images[0], jnp.array([0.5, -0.2]), images[1])


def test_turns_are_numpys_and_their_loss_knows_the_true_number():
    images = jax.random.uniform(KEYS[3], (4, 5, 5, 2))
    expected = np.stack([np.rot90(image, k) for k, image in enumerate(np.asarray(images))])
    assert np.allclose(turned(images, jnp.arange(4)), expected, atol=1e-6)
    # A corner is bright. An encoder that reads the corners and a head that names the turn make no error.
    corner = jnp.zeros((16, 4, 4, 1)).at[:, 0, 0].set(1.0)
    task = RotationTask(4, 4, 0, key=KEYS[4])
    right = jnp.eye(4)[jnp.array([0, 2, 3, 1])] * 50  # where the corner goes, turn by turn
    task = eqx.tree_at(lambda t: (t.head.layers[0].weight, t.head.layers[0].bias), task, (right, jnp.zeros(4)))
    corners = lambda x: jnp.stack([x[:, 0, 0, 0], x[:, 0, -1, 0], x[:, -1, 0, 0], x[:, -1, -1, 0]], -1)  # noqa: E731
    seen = Moments(corner, jnp.zeros((16, 2)), corner)
    assert task.loss(corners, seen, KEYS[5]) < 1e-5
    assert task.loss(lambda x: corners(x[:, ::-1]), seen, KEYS[5]) > 1


def test_the_loss_of_actions_is_the_mean_squared_error_of_the_head():
    task = InverseDynamicsTask(2, 2, 4, 0, key=KEYS[0])
    minus = jnp.concatenate([-jnp.eye(2), jnp.eye(2)], 1)  # after - before
    task = eqx.tree_at(lambda t: (t.head.layers[0].weight, t.head.layers[0].bias), task, (minus, jnp.zeros(2)))
    before, after = jnp.zeros((3, 1, 1, 2)), jnp.ones((3, 1, 1, 2))
    action = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    loss = task.loss(lambda x: x[:, 0, 0], Moments(before, action, after), KEYS[0])
    assert np.isclose(loss, 3 / 6)


def test_copies_move_together_and_by_no_more_than_they_may():
    picture = jnp.zeros((8, 8, 1)).at[4, 3, 0].set(1.0)
    copies = shifted_copies(KEYS[0], Moments(picture, jnp.ones(2), 2 * picture), 64, 2)
    assert np.allclose(copies.after, 2 * copies.before) and copies.action.shape == (64, 2)
    places = {tuple(np.argwhere(image[..., 0])[0] - [4, 3]) for image in np.asarray(copies.before)}
    assert len(places) > 15 and all(max(abs(i), abs(j)) <= 2 for i, j in places)
    still = shifted_copies(KEYS[0], moment(KEYS[1]), 3, 0)
    assert np.allclose(still.before, moment(KEYS[1]).before)


def test_a_step_of_deployment_is_the_gradient_of_the_task_and_leaves_the_actor():
    net, seen = policy(), moment(KEYS[3])
    adapter = PAD(optimizer=optax.sgd(0.1), batch=1, pixels=0)
    state, value = eqx.filter_jit(adapter.update)(adapter.init(net, 2), seen, KEYS[4])
    rows = jax.tree.map(lambda x: x[None], seen)

    def loss(pair):
        return pair[1].loss(pair[0], rows, KEYS[4])

    assert np.isclose(value, loss((net.encoder, net.task)))
    gradient = eqx.filter_jit(eqx.filter_grad(loss))((net.encoder, net.task))
    expected = eqx.apply_updates((net.encoder, net.task), jax.tree.map(lambda g: -0.1 * g, gradient))
    got = (state.policy.encoder, state.policy.task)
    for one, other in zip(*(jax.tree.leaves(eqx.filter(x, eqx.is_array)) for x in (expected, got)), strict=True):
        assert np.allclose(one, other, atol=1e-6)
    assert eqx.tree_equal(state.policy.actor, net.actor)


def test_shuffled_labels_come_from_other_moments():
    adapter = PAD(optimizer=optax.sgd(0.0), batch=1, pixels=0, labels="shuffled", memory=4)
    state, losses, update = adapter.init(policy(), 2), [], eqx.filter_jit(adapter.update)
    for i, key in enumerate(jax.random.split(KEYS[0], 12)):
        seen = moment(KEYS[3])._replace(action=jnp.full(2, float(i)))
        state, value = update(state, seen, key)
        guess = policy().task(policy().encoder(seen.before[None]), policy().encoder(seen.after[None]))[0]
        allowed = [float(jnp.square(guess - j).mean()) for j in range(max(0, i - 3), i + 1)]
        assert np.isclose(allowed, value, rtol=1e-4).any()
        losses.append(np.isclose(allowed[-1], value, rtol=1e-4))
    assert not all(losses)


def test_deployment_without_learning_is_the_frozen_policy_and_with_it_the_loss_falls():
    net = policy("rotation")
    params = WORLD.params(visuals(background="texture"), max_steps=10)

    def play(adapter):
        return jax.jit(lambda key: deploy(net, WORLD, params, adapter, 60, key)[:2])(KEYS[5])

    frozen, nothing = play(None)
    idle, _ = play(PAD(optimizer=optax.sgd(0.0), batch=4))
    assert np.allclose(frozen, idle, atol=1e-5) and bool((nothing == 0).all())
    adapted, losses = play(PAD(optimizer=optax.adam(1e-2), batch=16))
    assert losses[-20:].mean() < losses[:20].mean() - 0.1
    assert not np.allclose(adapted[20:], frozen[20:], atol=1e-3)
    assert np.allclose(adapted[0], frozen[0], atol=1e-5)  # the first action is taken before anything is learned


def test_a_task_and_a_policy_share_the_encoder_in_training():
    net, rows = policy(), jax.tree.map(lambda x: x[None], moment(KEYS[3]))

    def total(net, weight):
        return net.joint_loss(jnp.square(net(rows.before[0])).sum(), rows, KEYS[0], weight)

    only, both = (eqx.filter_grad(total)(net, weight) for weight in (0.0, 2.0))
    auxiliary = eqx.filter_grad(lambda net: net.task.loss(net.encoder, rows, KEYS[0]))(net)
    assert np.allclose(both.encoder.kernel, only.encoder.kernel + 2 * auxiliary.encoder.kernel, atol=1e-5)
    assert float(jnp.abs(only.task.head.layers[0].weight).max()) == 0


def test_bad_settings_are_named():
    for name, value in dict(labels="none", batch=0, pixels=-1, memory=0).items():
        with pytest.raises(UserError, match=name):
            PAD(optimizer=optax.sgd(0.1), **{name: value})
    with pytest.raises(UserError, match="steps"):
        deploy(policy(), WORLD, WORLD.params(), None, 0, KEYS[0])
