import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners.q_learning import QLearner
from unseen.learners.replay import Transition
from unseen.learners.sgqn import SGQN
from unseen.methods.overlay import RandomOverlay
from unseen.models.saliency_encoder import SaliencyEncoder

SIZE, ACTIONS = 8, 3
OVERLAY = RandomOverlay(jax.random.uniform(jax.random.key(9), (16, SIZE, SIZE, 3)))


def encoder(key):
    return SaliencyEncoder(SIZE, actions=ACTIONS, features=8, outputs=16, key=key)


def agent(**settings):
    return SGQN(actions=ACTIONS, encoder=encoder, overlay=OVERLAY, width=16, depth=1, **settings)


def batch(key, size=32):
    """Images of noise. The reward is the brightness of the upper left patch for action 1, and minus it for 2."""
    see, act = jax.random.split(key)
    images = jnp.round(255 * jax.random.uniform(see, (size, SIZE, SIZE, 3))).astype(jnp.uint8)
    action = jax.random.randint(act, (size,), 0, ACTIONS)
    bright = images[:, :4, :4].mean((1, 2, 3)) / 255 - 0.5
    reward = 20 * bright * jnp.array([0.0, 1.0, -1.0])[action]
    return Transition(images, action, reward, jnp.ones(size, bool), images)


def parts(learner, network, rows, key):
    """The losses by themselves, computed from their definitions one image at a time."""
    mask_key, fill_key, overlay_key = jax.random.split(key, 3)
    images = rows.observation / 255
    over = OVERLAY(overlay_key, images)
    grey = jax.random.uniform(fill_key, (len(images),))
    masks = learner.salient(network, images, rows.action, mask_key)
    value, consistency, prediction = [], [], []
    for i, image in enumerate(images):
        q = learner.values(network, image)[0, rows.action[i]]
        value.append(0.5 * (q - rows.reward[i]) ** 2)
        shade = image.min() + (image.max() - image.min()) * grey[i]
        masked = image * masks[i][..., None] + shade * (1 - masks[i][..., None])
        consistency.append((q - learner.values(network, masked)[0, rows.action[i]]) ** 2)
        chance = jax.nn.sigmoid(network.encoder.predict(over[i], rows.action[i]))
        prediction.append(-jnp.where(masks[i], jnp.log(chance), jnp.log(1 - chance)).mean())
    return [float(jnp.mean(jnp.array(x))) for x in (value, consistency, prediction)]


@pytest.mark.parametrize("masks", ["own", "random"])
def test_the_loss_is_the_sum_of_its_parts(masks):
    learner, rows, key = (
        agent(consistency=0.3, prediction=2.0, masks=masks),
        batch(jax.random.key(1), 6),
        jax.random.key(2),
    )
    state = learner.init(jax.random.key(0), rows.observation[0])
    value, consistency, prediction = parts(learner, state.network, rows, key)
    loss = learner.loss(state.network, rows, learner.targets(state, rows), key)
    assert float(loss) == pytest.approx(value + 0.3 * consistency + 2.0 * prediction, rel=1e-4)
    assert min(value, consistency, prediction) > 1e-4
    masks = learner.salient(state.network, rows.observation / 255, rows.action, key)
    np.testing.assert_array_equal(masks.sum((1, 2)), np.full(6, 7))  # of 64 pixels, at a quantile of 0.9


def test_without_its_losses_it_is_the_q_learner():
    plain = QLearner(actions=ACTIONS, encoder=encoder, width=16, depth=1)
    rows, key = batch(jax.random.key(1)), jax.random.key(2)
    ours = agent(consistency=0.0, prediction=0.0)
    state = ours.init(jax.random.key(0), rows.observation[0])
    for learner in (ours, agent(consistency=jnp.zeros(()), prediction=jnp.zeros(()))):
        (a, loss), (b, same) = (eqx.filter_jit(x.update)(state, rows, key) for x in (learner, plain))
        assert float(loss) == pytest.approx(float(same), rel=1e-6)
        for x, y in zip(*(jax.tree.leaves(eqx.filter(s.network.trunks, eqx.is_array)) for s in (a, b)), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)


def test_overlaid_values_average_over_both_views():
    learner, rows, key = (
        agent(consistency=0.0, prediction=0.0, overlaid_values=True),
        batch(jax.random.key(1), 6),
        jax.random.key(2),
    )
    state = learner.init(jax.random.key(0), rows.observation[0])
    target = learner.targets(state, rows)
    over = OVERLAY(jax.random.split(key, 3)[2], rows.observation / 255)
    plain = agent(consistency=0.0, prediction=0.0)
    both = [plain.loss(state.network, rows._replace(observation=x), target, key) for x in (rows.observation, over)]
    assert float(learner.loss(state.network, rows, target, key)) == pytest.approx(float(sum(both)) / 2, rel=1e-5)


def train(learner, updates=400):
    state = learner.init(jax.random.key(0), batch(jax.random.key(1)).observation[0])
    arrays, static = eqx.partition(state, eqx.is_array)

    def update(arrays, key):
        state, loss = learner.update(eqx.combine(arrays, static), batch(key), key)
        return eqx.filter(state, eqx.is_array), loss

    run = jax.jit(lambda arrays: jax.lax.scan(update, arrays, jax.random.split(jax.random.key(1), updates)))
    arrays, losses = run(arrays)
    assert np.isfinite(losses).all()
    return eqx.combine(arrays, static)


@pytest.fixture(scope="module")
def trained():
    """Networks trained with and without the losses, at a quantile that leaves one patch of the four."""
    common = dict(optimizer=optax.adam(1e-3), quantile=0.75)
    return {
        name: (learner, train(learner).network)
        for name, learner in dict(
            plain=agent(consistency=0.0, prediction=0.0, **common), ours=agent(consistency=1.0, **common)
        ).items()
    }


def test_training_makes_values_consistent_and_saliency_predictable(trained):
    rows = batch(jax.random.key(77), 128)
    images, taken = rows.observation / 255, jnp.ones(128, int)
    moved = {}
    for name, (learner, network) in trained.items():
        masks = learner.salient(network, images, taken, jax.random.key(0))
        masked = jnp.where(masks[..., None], images, 0.5)
        values = [jax.vmap(lambda x: learner.values(network, x)[0, 1])(x) for x in (images, masked)]  # noqa: B023
        moved[name] = float(jnp.sqrt(jnp.square(values[0] - values[1]).mean()))
    assert moved["ours"] < 0.7 * moved["plain"]
    # The decoder of the last network knows its mask under an overlay better than the mask's mean would.
    logits = jax.vmap(lambda x: network.encoder.predict(x, jnp.array(1)))(OVERLAY(jax.random.key(5), images))
    wrong = float(optax.sigmoid_binary_cross_entropy(logits, masks.astype(float)).mean())
    share = float(masks.mean())
    assert wrong < 0.9 * -(share * np.log(share) + (1 - share) * np.log(1 - share))


def test_bad_settings_are_named():
    for name, settings in dict(
        masks=dict(masks="other"), quantile=dict(quantile=1.0), share=dict(share=0.5), actions=dict(members=0)
    ).items():
        with pytest.raises(UserError, match="members" if name == "actions" else name):
            agent(**settings)
    with pytest.raises(UserError, match="encoder"):
        SGQN(actions=2, overlay=OVERLAY)
