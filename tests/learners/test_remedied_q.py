import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners.q_learning import QLearner
from unseen.learners.remedied_q import RemediedQLearner, RemedySet
from unseen.learners.replay import Transition

KEY = jax.random.key(0)
SHAPE = (64, 3, 3, 5)


def batch() -> Transition:
    seen, following = jax.random.normal(KEY, (2, *SHAPE))
    actions = jax.random.randint(KEY, (64,), 0, 4)
    return Transition(seen, actions, jax.random.normal(KEY, (64,)), jnp.zeros(64, bool), following)


def learner(**remedies) -> RemediedQLearner:
    return RemediedQLearner(actions=4, width=16, remedies=RemedySet(**remedies), optimizer=optax.adam(1e-3))


def test_without_remedies_it_is_the_q_learner():
    plain = QLearner(actions=4, width=16, optimizer=optax.adam(1e-3))
    state = plain.init(KEY, batch().observation[0])

    def after(agent: QLearner) -> tuple[np.ndarray, float]:
        state_after, loss = eqx.filter_jit(agent.update)(state, batch(), KEY)
        return np.asarray(state_after.network.trunks.layers[0].weight), float(loss)

    weight, loss = after(plain)
    assert np.allclose(after(learner())[0], weight, atol=1e-6) and np.isclose(after(learner())[1], loss, rtol=1e-5)
    for remedies in (dict(intensity=0.5), dict(noise=0.3), dict(dropout=0.2), dict(radius=0.5)):
        changed = after(learner(**remedies))
        assert not np.allclose(changed[0], weight, atol=1e-6) and not np.isclose(changed[1], loss, rtol=1e-3)


def test_augmentation_has_the_stated_size():
    steps, remedies = batch(), RemedySet(intensity=0.5)
    new = remedies.augmented(KEY, steps)
    gains = new.observation / steps.observation
    assert np.allclose(gains, gains[:, :1, :1], atol=1e-4)  # a plane has one
    assert np.allclose(gains[:, 0, 0], (new.next_observation / steps.next_observation)[:, 0, 0], atol=1e-4)
    assert 0.5 <= gains.min() < 0.55 and 1.45 < gains.max() <= 1.5001 and np.allclose(gains[..., -1], 1)
    noise = RemedySet(noise=0.3).augmented(KEY, steps)
    first, second = noise.observation - steps.observation, noise.next_observation - steps.next_observation
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
    sizes = first.reshape(64, -1).std(1)
    assert np.isclose(sizes.mean(), 0.15, atol=0.045) and sizes.max() < 0.36 and sizes.min() < 0.05


def test_adversarial_observations_are_worse_and_near():
    agent, steps = learner(radius=0.5), batch()
    state = agent.init(KEY, steps.observation[0])
    target = agent.targets(state, steps)
    attacked, plain = eqx.filter_jit(agent.loss), eqx.filter_jit(learner().loss)
    worse = attacked(state.network, steps, target, KEY)
    assert worse > 1.05 * plain(state.network, steps, target, KEY)
    around = jax.random.normal(KEY, SHAPE)
    around = 0.5 * around / jnp.sqrt((around**2).sum((1, 2, 3), keepdims=True))
    moved = steps._replace(observation=steps.observation + around)
    assert worse > plain(state.network, moved, target, KEY)


def test_dropout_keeps_the_mean_of_a_linear_layer():
    """With one hidden layer outputs are linear in the hidden units, so that dropout leaves their expectation alone."""
    agent = RemediedQLearner(actions=4, width=16, depth=1, members=2, remedies=RemedySet(dropout=0.5))
    network, seen = agent.network(KEY, batch().observation[0]), batch().observation
    exact = jax.vmap(network)(seen)
    draws = jax.vmap(lambda key: agent._outputs(network, seen, key))(jax.random.split(KEY, 2000))
    assert draws.std(0).min() > 0.01
    assert np.abs((draws.mean(0) - exact) / (draws.std(0) / np.sqrt(2000))).max() < 6
    assert np.array_equal(agent._outputs(network, seen, None), exact)


def test_weight_decay_is_decoupled():
    weights = jnp.ones(3)
    optimizer = RemedySet(weight_decay=0.5).optimizer(0.1)
    change, _ = optimizer.update(jnp.zeros(3), optimizer.init(weights), weights)
    assert np.allclose(change, -0.05)


@pytest.mark.parametrize("wrong", [dict(noise=-1.0), dict(dropout=1.0), dict(wind=0.6), dict(sticky=1.5)])
def test_bad_settings_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        RemedySet(**wrong)
    with pytest.raises(UserError, match="share 1"):
        RemediedQLearner(actions=4, share=0.5)
