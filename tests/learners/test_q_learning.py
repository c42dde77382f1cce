import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners.q_learning import QLearner, q_learning
from unseen.learners.replay import GoalObservation, Hindsight, Transition
from unseen.measures.exact import value_iteration
from unseen.methods.value_heads import CategoricalHead, QuantileHead, ValueHead
from unseen.worlds.control.tabular import TabularMDPs

pytestmark = pytest.mark.optimized

GAMMA = 0.7
MDP = TabularMDPs.garnet(jax.random.key(0), 1, 5, 3, 2)


def exact_values():
    values, _ = value_iteration(MDP.transition[0], MDP.reward[0], GAMMA)

    return np.asarray(MDP.reward[0] + GAMMA * MDP.transition[0] @ values)


def steps(key, size=96):
    """Steps of the MDP from uniform states and actions, observed as one-hot vectors."""
    s_key, a_key, t_key = jax.random.split(key, 3)
    s, a = jax.random.randint(s_key, (size,), 0, 5), jax.random.randint(a_key, (size,), 0, 3)
    t = jax.random.categorical(t_key, jnp.log(MDP.transition[0][s, a]))
    hot = lambda i: jax.nn.one_hot(i, 5)  # noqa: E731
    return Transition(hot(s), a, MDP.reward[0][s, a], jnp.zeros(size, bool), hot(t))


def train(learner, sample, updates, key=0, observation=None):
    state = learner.init(jax.random.key(key), jnp.zeros(5) if observation is None else observation)
    arrays, static = eqx.partition(state, eqx.is_array)

    def update(arrays, key):
        state, loss = learner.update(eqx.combine(arrays, static), sample(key), key)
        return eqx.filter(state, eqx.is_array), loss

    run = jax.jit(lambda arrays, keys: jax.lax.scan(update, arrays, keys))
    arrays, losses = run(arrays, jax.random.split(jax.random.key(key + 1), updates))
    return eqx.combine(arrays, static), losses


@pytest.mark.parametrize(
    ("head", "settings", "tolerance"),
    [
        (ValueHead(), dict(depth=0), 0.05),
        (ValueHead(), dict(double=False, members=2, prior_scale=1.0, width=16, depth=1), 0.15),
        (CategoricalHead(-7.0, 7.0, 29), dict(depth=0), 0.15),
        (QuantileHead(11, 0.0), dict(depth=0), 0.25),
    ],
)
def test_converges_to_the_exact_values(head, settings, tolerance):
    updates = 2_500
    schedule = optax.exponential_decay(0.1 if settings["depth"] == 0 else 0.01, updates, 0.01)
    learner = QLearner(
        actions=3, head=head, discount=GAMMA, target_rate=0.05, optimizer=optax.adam(schedule), **settings
    )
    state, _ = train(learner, steps, updates)
    found = jax.vmap(lambda o: learner.values(state.network, o))(jnp.eye(5))
    for member in range(learner.members):
        np.testing.assert_allclose(found[:, member], exact_values(), atol=tolerance)


def test_a_terminal_step_is_worth_its_reward():
    def sample(key):
        return steps(key)._replace(terminal=jnp.ones(96, bool))

    learner = QLearner(actions=3, depth=0, optimizer=optax.adam(0.05))
    state, _ = train(learner, sample, 600)
    found = jax.vmap(lambda o: learner.values(state.network, o)[0])(jnp.eye(5))
    np.testing.assert_allclose(found, MDP.reward[0], atol=1e-2)


def test_priors_stay_and_members_differ():
    learner = QLearner(actions=3, members=3, prior_scale=2.0, width=8, depth=1, share=0.5)
    before = learner.init(jax.random.key(0), jnp.zeros(5))
    after, _ = train(learner, steps, 20)
    same = jax.tree.map(jnp.array_equal, *(eqx.filter(s.network.prior, eqx.is_array) for s in (before, after)))
    assert all(jax.tree.leaves(same))
    assert not np.allclose(before.network.trunks.layers[0].weight, after.network.trunks.layers[0].weight)
    values = learner.values(after.network, jnp.ones(5))
    assert np.abs(values[0] - values[1]).max() > 0.1
    # Without its prior the same network answers differently, by the scaled prior's output.
    bare = eqx.tree_at(lambda n: n.prior, after.network, None)
    _, trunks = after.network.prior
    by_prior = eqx.filter_vmap(lambda trunk: trunk(jnp.ones(5)))(trunks)
    np.testing.assert_allclose(values, learner.values(bare, jnp.ones(5)) + 2.0 * by_prior, rtol=1e-4, atol=1e-5)


def test_the_target_moves_when_it_should():
    learner = QLearner(actions=3, depth=0, target_rate=1.0, target_every=3)
    state = learner.init(jax.random.key(0), jnp.zeros(5))
    first = state.network.trunks.layers[0].weight
    for i in range(3):
        assert np.array_equal(state.target.trunks.layers[0].weight, first)
        state, _ = learner.update(state, steps(jax.random.key(i)), jax.random.key(i))
    np.testing.assert_allclose(state.target.trunks.layers[0].weight, state.network.trunks.layers[0].weight)


def test_double_targets_let_the_network_choose_and_the_target_value():
    batch = Transition(jnp.ones((1, 1)), jnp.array([0]), jnp.array([0.5]), jnp.array([False]), jnp.ones((1, 1)))

    def fixed(values):  # a network without inputs' influence
        net = learner.network(jax.random.key(0), jnp.ones(1))
        where = lambda n: (n.trunks.layers[0].weight, n.trunks.layers[0].bias)  # noqa: E731
        return eqx.tree_at(where, net, (jnp.zeros((1, 2, 1)), jnp.array([values])))

    for double, expected in ((True, 0.5 + 0.9 * 1.0), (False, 0.5 + 0.9 * 3.0)):
        learner = QLearner(actions=2, depth=0, discount=0.9, double=double)
        state = learner.init(jax.random.key(0), jnp.ones(1))
        state = state._replace(network=fixed([5.0, 2.0]), target=fixed([1.0, 3.0]))
        np.testing.assert_allclose(learner.targets(state, batch).mean(), [[expected]], rtol=1e-6)


def test_the_auxiliary_loss_reaches_the_encoder():
    def encoder(key):
        return eqx.nn.Linear(5, 4, key=key)

    def auxiliary(encoder, batch, key):
        return 10 * jnp.square(jax.vmap(encoder)(batch.observation)[:, 0] - 3.0).mean()

    learner = QLearner(actions=3, encoder=encoder, auxiliary=auxiliary, width=8, optimizer=optax.adam(0.02))
    state, _ = train(learner, steps, 500)
    np.testing.assert_allclose(jax.vmap(state.network.encoder)(jnp.eye(5))[:, 0], 3.0, atol=0.1)


class Track:
    """A line of `length` cells, steps left and right, a random goal; reward 1 and the end at the goal."""

    def __init__(self, length=9, limit=20):
        self.length, self.limit, self.default_params = length, limit, None

    def seen(self, state):
        hot = lambda i: jax.nn.one_hot(i, self.length)  # noqa: E731
        return GoalObservation(hot(state[0]), hot(state[1]))

    def reset(self, key, params=None):
        where, goal = jax.random.randint(key, (2,), 0, self.length)
        state = jnp.array([where, goal, 0])
        return self.seen(state), state

    def step(self, key, state, action, params=None):
        moved = jnp.clip(state[0] + 2 * action - 1, 0, self.length - 1)
        then = jnp.array([moved, state[1], state[2] + 1])
        ended, late = moved == state[1], then[2] >= self.limit
        observation, fresh = self.reset(key)
        final = self.seen(then)
        done = ended | late
        observation = jax.tree.map(lambda a, b: jnp.where(done, a, b), observation, final)
        return observation, jnp.where(done, fresh, then), ended * 1.0, ended, late, {"final_observation": final}


def goal_values(relabel):
    """Learn on the track by acting at random; greedy values of all (cell, goal) pairs, and their closed form."""
    learner = QLearner(actions=2, discount=0.9, width=32, depth=1, target_rate=0.05, optimizer=optax.adam(3e-3))
    run = q_learning(
        learner, Track(), total_steps=8_000, every=1_000, lanes=4, batch_size=64, epsilon=1.0, relabel=relabel
    )
    state = run.init(jax.random.key(0))
    arrays, static = eqx.partition(state, eqx.is_array)
    advance = jax.jit(lambda arrays: eqx.filter(run.advance(eqx.combine(arrays, static)), eqx.is_array))
    for _ in range(run.rounds):
        arrays = advance(arrays)
    state = eqx.combine(arrays, static)
    cells = jnp.eye(9)
    values = jax.vmap(
        lambda c: jax.vmap(lambda g: learner.values(state.learning.network, GoalObservation(c, g))[0].max())(cells)
    )(cells)
    distance = np.abs(np.arange(9)[:, None] - np.arange(9))
    return state, np.asarray(values), 0.9 ** (distance - 1.0), distance


def test_goals_with_hindsight_reach_the_closed_form():
    label = Hindsight(
        achieved=lambda o: o,
        reward=lambda reached, goal: ((reached * goal).sum(-1), (reached * goal).sum(-1) > 0.5),
        future=0.8,
    )
    state, values, exact, distance = goal_values(label)
    assert np.abs(values - exact)[distance > 0].mean() < 0.06
    assert int(state.replay.count) == 2_000 and int(state.episodes) > 100


def test_catch_is_learned_as_rejax_does():
    pytest.importorskip("rejax")
    import rejax
    from gymnax.environments.bsuite.catch import Catch

    from unseen.learners.ppo import _FiveTuple

    env = Catch()
    learner = QLearner(actions=3, discount=0.99, width=32, depth=1, target_rate=0.02, optimizer=optax.adam(2e-3))
    run = q_learning(
        learner, env, total_steps=12_000, every=3_000, lanes=4,
        epsilon=lambda step: jnp.maximum(0.02, 1 - step / 6_000), batch_size=64, capacity=2_000,
    )  # fmt: skip
    arrays, static = eqx.partition(run.init(jax.random.key(0)), eqx.is_array)
    advance = jax.jit(lambda arrays: eqx.filter(run.advance(eqx.combine(arrays, static)), eqx.is_array))
    state = eqx.combine(advance(arrays), static)

    def ours(observation, key):
        return learner.act(state.learning.network, observation, key)

    theirs = rejax.DQN.create(
        env=_FiveTuple(env), env_params=env.default_params, total_timesteps=12_000, num_envs=4, learning_rate=2e-3,
        buffer_size=8_000, batch_size=64, fill_buffer=400, eval_freq=12_000, target_update_freq=50, polyak=0.0,
        skip_initial_evaluation=True,
    )  # fmt: skip
    trained, _ = jax.jit(theirs.train)(jax.random.key(0))

    def episode(act, key):
        observation, inner = env.reset(key)

        def step(carry, key):
            observation, inner, alive, total = carry
            observation, inner, reward, ended, late, _ = env.step(key, inner, act(observation, key))
            return (observation, inner, alive & ~(ended | late), total + alive * reward), None

        carry, _ = jax.lax.scan(step, (observation, inner, True, 0.0), jax.random.split(key, 12))
        return carry[3]

    keys = jax.random.split(jax.random.key(7), 64)
    rejax_act = theirs.make_act(trained)
    peer = float(jax.jit(jax.vmap(lambda k: episode(lambda o, key: rejax_act(o, key), k)))(keys).mean())
    own = float(jax.jit(jax.vmap(lambda k: episode(ours, k)))(keys).mean())
    assert own > 0.8 and own > peer - 0.1


def test_bad_settings_are_named():
    for name, value in dict(actions=0, members=0, target_every=0, target_rate=0.0, share=2.0).items():
        with pytest.raises(UserError, match=name):
            QLearner(**{"actions": 2, name: value})
    with pytest.raises(UserError, match="total_steps"):
        q_learning(QLearner(actions=2), Track(), total_steps=10, every=4)
