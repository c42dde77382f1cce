import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners import Imagination, fit_world_model
from unseen.learners.imagination import Imagined, hidden
from unseen.methods import RandomSwing
from unseen.models import BetaVAE, LatentDynamics, Segment, WorldModel
from unseen.models.world_model import Foreseen

PLACES = 5


class Corridor(LatentDynamics):
    """Latents are places, one-hot: action 1 goes right, action 0 left; the last place pays 1 and ends the episode."""

    def __init__(self):
        super().__init__(PLACES, 2, 2, key=jax.random.key(0))

    def __call__(self, memory, latent, action):
        shifted = jnp.where(action[1] > 0.5, jnp.roll(latent, 1), jnp.roll(latent, -1).at[-1].set(0))
        latent = jnp.where((action[0] > 0.5) & (latent[0] > 0.5), latent, shifted)
        return memory, Foreseen(latent, latent[-1], jnp.where(latent[-1] > 0.5, 30.0, -30.0))


MODEL = WorldModel(BetaVAE(6, PLACES, 8, key=jax.random.key(0)), Corridor())
IMAGINATION = Imagination(
    latent=PLACES, actions=2, horizon=8, gamma=0.8, entropy=0.003, width=16, optimizer=optax.adam(1e-2)
)


def test_a_policy_learned_in_imagination_alone_and_its_values_are_right():
    state = IMAGINATION.init(jax.random.key(1))
    places = jnp.eye(PLACES)
    arrays, static = eqx.partition(state, eqx.is_array)

    @jax.jit
    def trained(arrays):
        def step(arrays, key):
            draw, play = jax.random.split(key)
            starts = places[jax.random.randint(draw, (32,), 0, PLACES - 1)]
            state = IMAGINATION.update(eqx.combine(arrays, static), MODEL, starts, play)
            return eqx.filter(state, eqx.is_array), None

        return jax.lax.scan(step, arrays, jax.random.split(jax.random.key(2), 400))[0]

    agent = eqx.combine(trained(arrays), static).agent
    right = jnp.exp(jax.vmap(agent.policy.log_probs)(places[:-1])[:, 1])
    assert float(right.min()) > 0.9
    np.testing.assert_allclose(jax.vmap(agent.value)(places[:-1]), 0.8 ** np.array([3, 2, 1, 0]), atol=0.1)


def test_an_imagined_episode_ends_and_what_comes_after_does_not_count():
    agent = IMAGINATION.init(jax.random.key(1)).agent
    keys = jax.random.split(jax.random.key(3), 64)
    imagined = jax.jit(jax.vmap(lambda key: IMAGINATION.dream(agent, MODEL, jnp.eye(PLACES)[3], key)))(keys)
    assert imagined.latent.shape == (64, 9, PLACES) and bool(imagined.valid[:, 0].all())
    np.testing.assert_array_equal(imagined.valid[:, 1:], jnp.cumsum(imagined.ends[:, :-1], 1) == 0)
    np.testing.assert_array_equal(imagined.ends[:, 0], imagined.action[:, 0] == 1)
    loss_of = eqx.filter_jit(IMAGINATION.loss)
    loss = loss_of(agent, imagined)
    beyond = imagined._replace(reward=jnp.where(imagined.valid, imagined.reward, 99.0))
    assert np.isclose(loss, loss_of(agent, beyond), rtol=1e-4)
    assert not np.isclose(loss, loss_of(agent, imagined._replace(reward=imagined.reward + imagined.action)))


def test_the_loss_of_one_step_by_hand():
    """Two starts, one step: advantages are reward + gamma * next value - value, standardised over the batch."""
    one = Imagination(latent=2, actions=2, horizon=1, gamma=0.5, entropy=0.2, width=4)
    agent = one.init(jax.random.key(0)).agent
    latent = jax.random.normal(jax.random.key(1), (2, 2, 2))
    batch = Imagined(
        latent, jnp.array([[0], [1]]), jnp.array([[1.0], [-2.0]]), jnp.array([[False], [True]]), jnp.ones((2, 1), bool)
    )
    value = np.array(jax.vmap(jax.vmap(agent.value))(latent))
    logs = np.array(jax.vmap(agent.policy.log_probs)(latent[:, 0]))
    found = np.array([1 + 0.5 * value[0, 1] - value[0, 0], -2 - value[1, 0]])
    gain = (np.array([logs[0, 0], logs[1, 1]]) * found / found.std()).mean()
    entropy = -(np.exp(logs) * logs).sum(1).mean()
    assert np.isclose(eqx.filter_jit(one.loss)(agent, batch), 0.5 * (found**2).mean() - gain - 0.2 * entropy, rtol=1e-4)


def test_dreams_edit_what_follows_and_faithful_ones_nothing():
    agent, start = IMAGINATION.init(jax.random.key(1)).agent, jnp.eye(PLACES)[0]

    @jax.jit
    def dreamt(size):
        return IMAGINATION.dream(agent, MODEL, start, jax.random.key(4), [RandomSwing(size)])

    faithful = jax.jit(lambda: IMAGINATION.dream(agent, MODEL, start, jax.random.key(4)))()
    still, swung = dreamt(0.0), dreamt(0.5)
    np.testing.assert_array_equal(faithful.latent, still.latent)
    np.testing.assert_array_equal(faithful.latent[0], swung.latent[0])
    np.testing.assert_allclose(jnp.linalg.norm(swung.latent[1] - faithful.latent[1]), 0.5, rtol=1e-5)
    with pytest.raises(UserError, match="horizon takes a number of imagined steps from 1 on, got 0"):
        Imagination(latent=2, actions=2, horizon=0)


def test_hidden_features_are_those_of_the_last_layer():
    net = eqx.nn.MLP(3, 2, 6, 2, key=jax.random.key(0))
    x = jnp.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(net.layers[-1](hidden(net, x)), net(x), rtol=1e-5)


def test_a_world_model_is_fitted():
    first, second = jax.random.split(jax.random.key(0))
    model = WorldModel(BetaVAE(2, 3, 16, beta=0.001, key=first), LatentDynamics(3, 2, 16, key=second))

    def draw(key):
        """A point that turns left or right on a circle, as the action says."""
        action = jax.random.bernoulli(key, 0.5, (16, 4)).astype(int)
        angle = jnp.cumsum(0.7 * (2 * action - 1), 1)
        angle = jnp.concatenate([jnp.zeros((16, 1)), angle], 1)
        yes = jnp.ones((16, 4), bool)
        seen = jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)
        return Segment(seen, jax.nn.one_hot(action, 2), seen[:, 1:, 0], ~yes, yes.at[:, 1:].set(False), yes)

    model, losses = eqx.filter_jit(lambda: fit_world_model(model, draw, optax.adam(1e-2), second, steps=300))()
    assert losses.shape == (300,) and float(losses[-20:].mean()) < 0.1 * float(losses[0])
    test = draw(jax.random.key(9))
    _, _, foreseen = jax.jit(jax.vmap(model.watch))(test.observation[:, :-1], test.action, test.first)
    assert float(jnp.abs(foreseen.reward - test.reward).mean()) < 0.2
