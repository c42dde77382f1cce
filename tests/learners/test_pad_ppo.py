import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from unseen.lab import UserError
from unseen.learners import PADPPO
from unseen.methods import InverseDynamicsTask, PADPolicy, RotationTask
from unseen.methods.policy_gradient import advantages, clipped_loss
from unseen.models import PatchEncoder


class Lamp:
    """A grey square whose brightness the action moves; half bright is best. Ends after `patience` steps, if told."""

    def __init__(self, patience=1000):
        self.patience = patience

    def picture(self, state):
        return jnp.full((4, 4, 1), state[0])

    def reset_env(self, key, params):
        state = jnp.stack([jax.random.uniform(key), 0.0])
        return self.picture(state), state

    def step_env(self, key, state, action, params):
        state = jnp.stack([jnp.clip(state[0] + 0.2 * action[0], 0, 1), state[1] + 1])
        return self.picture(state), state, 1 - 2 * jnp.abs(state[0] - 0.5), state[1] >= self.patience, {}

    def action_space(self, params):
        return spaces.Box(-1.0, 1.0, (1,), jnp.float32)


def policy(key, task="inverse"):
    see, act, guess = jax.random.split(key, 3)
    actor = eqx.nn.MLP(8, 1, 8, 1, final_activation=jnp.tanh, key=act)
    head = InverseDynamicsTask(8, 1, 16, key=guess) if task == "inverse" else RotationTask(8, 8, key=guess)
    return PADPolicy(PatchEncoder(4, 1, features=8, outputs=8, key=see), actor, head)


def learner(patience=1000, **more):
    settings = dict(environment=Lamp(patience), params=None, policy=policy, features=8, width=8, horizon=10, lanes=16)
    return PADPPO(**settings | dict(minibatches=4, learning_rate=5e-3, gamma=0.8) | more)


def test_learns_to_act_and_with_a_weight_the_task_too():
    def trained(weight):
        ours = learner(weight=weight)
        first = ours.run(ours.init(jax.random.key(0)), 2)
        last = ours.run(first, 40)
        return first.reward, last.reward, last.task_loss

    first, last, guessed = jax.jit(jax.vmap(trained))(jnp.array([0.0, 1.0]))
    assert (first < 0.6).all() and (last > 0.75).all()
    assert guessed[1] < 0.1 < 0.3 < guessed[0]


def test_what_is_played_is_what_happened():
    ours = learner(patience=3, spread=1.0)
    agent = ours.init(jax.random.key(1)).agent
    played = eqx.filter_jit(ours.play)(agent, jax.random.key(2))
    moments = played.moments
    # An episode of three steps, then another: the image after the end is the last one, not the next one's first.
    assert np.array_equal(np.flatnonzero(played.ends[:, 0]), [2, 5, 8]) and bool(
        (played.ends == played.ends[:, :1]).all()
    )
    assert np.allclose(moments.after, jnp.clip(moments.before + 0.2 * moments.action[..., None, None], 0, 1), atol=1e-6)
    follows = np.isclose(moments.after[:-1], moments.before[1:]).all((2, 3, 4))
    assert follows[~np.asarray(played.ends[:-1])].all() and not follows[np.asarray(played.ends[:-1])].all()
    assert float(jnp.abs(played.action).max()) > 1 >= float(jnp.abs(moments.action).max())
    # Densities are those of a Gaussian around the actor's output.
    mean = jax.vmap(agent.policy)(moments.before[4])
    density = jax.scipy.stats.norm.logpdf(played.action[4], mean, jnp.exp(1.0)).sum(-1)
    assert np.allclose(density, played.log_prob[4], atol=1e-5)
    value = jax.vmap(agent.critic)(agent.policy.encoder(moments.before[4]))
    assert np.allclose(value, played.value[4], atol=1e-6)


def test_an_iteration_of_one_minibatch_is_one_step_down_the_joint_loss():
    ours = learner(epochs=1, minibatches=1, weight=0.5, horizon=4, lanes=3, clip=0.2)
    state = ours.init(jax.random.key(3))
    after = eqx.filter_jit(ours.iterate)(state)
    _, play, _, turn = jax.random.split(state.key, 4)
    played = eqx.filter_jit(ours.play)(state.agent, play)
    flat = jax.tree.map(lambda x: x.reshape(12, *x.shape[2:]), played.moments)
    found = advantages(0.2 * played.reward, played.value, played.ends, played.last, 0.8, 0.95)
    target, found = (found + played.value).ravel(), found.ravel()

    def loss(agent):
        features = agent.policy.encoder(flat.before)
        mean = jax.vmap(agent.policy.actor)(features)
        density = jax.scipy.stats.norm.logpdf(played.action.reshape(12, 1), mean, jnp.exp(agent.log_std)).sum(-1)
        scaled = (found - found.mean()) / found.std()
        ppo = clipped_loss(density, played.log_prob.ravel(), scaled).mean()
        value = 0.5 * jnp.square(jax.vmap(agent.critic)(features) - target).mean()
        return ppo + value + 0.5 * agent.policy.task.loss(agent.policy.encoder, flat, turn)

    gradient = eqx.filter_jit(eqx.filter_grad(loss))(state.agent)
    change, _ = ours._optimizer.update(gradient, state.optimizer)
    expected = eqx.apply_updates(state.agent, change)
    for one, other in zip(
        *(jax.tree.leaves(eqx.filter(x, eqx.is_array)) for x in (expected, after.agent)), strict=True
    ):
        assert np.allclose(one, other, atol=2e-4)
    assert np.isclose(after.reward, played.reward.mean(), atol=1e-6)


def test_settings_that_do_not_fit_are_named():
    for name, value in dict(minibatches=7, horizon=0, lanes=0, epochs=0).items():
        with pytest.raises(UserError, match=name):
            learner(**{name: value})
