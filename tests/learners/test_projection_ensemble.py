import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners.projection_ensemble import ProjectionEnsemble, UncertaintyHead, grid_disagreement
from unseen.learners.q_learning import q_learning
from unseen.learners.replay import Transition
from unseen.measures.exact import value_iteration
from unseen.methods.value_heads import CategoricalHead, Distribution, QuantileHead, wasserstein1
from unseen.worlds.control.tabular import TabularMDPs

pytestmark = pytest.mark.optimized

GAMMA = 0.7
MDP = TabularMDPs.garnet(jax.random.key(0), 1, 5, 3, 2)


def ensemble(**settings):
    both = (QuantileHead(11, 0.0), CategoricalHead(-7.0, 7.0, 29))
    given = dict(
        actions=3, heads=both, low=-7.0, high=7.0, atoms=29, discount=GAMMA, uncertainty=UncertaintyHead(GAMMA)
    )
    return ProjectionEnsemble(**(given | settings))


def weight(network):
    return network.trunks.layers[0].weight


def test_disagreement_is_the_wasserstein_distance_on_the_grid():
    rng = np.random.default_rng(0)
    a, b = (
        Distribution(jnp.asarray(rng.uniform(-2, 2, (5, n))), jnp.asarray(rng.dirichlet(np.ones(n), 5))) for n in (4, 7)
    )
    np.testing.assert_allclose(grid_disagreement(a, b, -2.0, 2.0, 801), wasserstein1(a, b), atol=0.01)
    mixed = Distribution(jnp.array([0.0, 1.0]), jnp.array([0.25, 0.75]))
    sure = Distribution(jnp.array([1.0]), jnp.ones(1))
    np.testing.assert_allclose(grid_disagreement(mixed, sure, 0.0, 2.0, 3), 0.25, rtol=1e-6)


def test_both_heads_learn_the_mixture_and_come_to_the_exact_values():
    updates = 2_000
    schedule = optax.exponential_decay(0.1, updates, 0.01)
    learner = ensemble(depth=0, target_rate=0.05, bonus_scale=0.0, optimizer=optax.adam(schedule))

    def sample(key):
        s_key, a_key, t_key = jax.random.split(key, 3)
        s, a = jax.random.randint(s_key, (96,), 0, 5), jax.random.randint(a_key, (96,), 0, 3)
        t = jax.random.categorical(t_key, jnp.log(MDP.transition[0][s, a]))
        return Transition(jax.nn.one_hot(s, 5), a, MDP.reward[0][s, a], jnp.zeros(96, bool), jax.nn.one_hot(t, 5))

    start = learner.init(jax.random.key(0), jnp.zeros(5))
    arrays, static = eqx.partition(start, eqx.is_array)

    def update(arrays, key):
        return eqx.filter(learner.update(eqx.combine(arrays, static), sample(key), key)[0], eqx.is_array), None

    train = jax.jit(lambda arrays, keys: jax.lax.scan(update, arrays, keys)[0])
    state = eqx.combine(train(arrays, jax.random.split(jax.random.key(1), updates)), static)
    values, _ = value_iteration(MDP.transition[0], MDP.reward[0], GAMMA)
    exact = np.asarray(MDP.reward[0] + GAMMA * MDP.transition[0] @ values)
    found = jax.vmap(lambda o: learner.values(state.network, o))(jnp.eye(5))
    for head in range(2):
        np.testing.assert_allclose(found[:, head], exact, atol=0.3)
    # The network of disagreement to come solves its own Bellman equation under the greedy policy.
    here = jax.vmap(lambda o: learner.disagreement(state.network, o))(jnp.eye(5))
    policy = jnp.argmax(found.mean(1), -1)
    step = MDP.transition[0]  # [s, a, t]
    each = jnp.arange(5)
    follow = step[each, policy]
    later = jnp.linalg.solve(jnp.eye(5) - GAMMA * follow, GAMMA * follow @ here[each, policy])
    expected = GAMMA * jnp.einsum("sat,t->sa", step, here[each, policy] + later)
    bonus = jax.vmap(lambda o: learner.bonus(state.network, o))(jnp.eye(5))
    assert float(expected.min()) > 0.01  # projections differ, so there is something to propagate
    np.testing.assert_allclose(bonus - here, expected, atol=0.15 * float(expected.max()))


def test_targets_are_the_mixture_of_both_target_heads():
    learner = ensemble(depth=0)
    batch = Transition(
        jnp.eye(5)[:2], jnp.array([0, 1]), jnp.array([1.0, 2.0]), jnp.array([False, True]), jnp.eye(5)[2:4]
    )

    @eqx.filter_jit
    def everything(seen):
        state = learner.init(jax.random.key(0), seen)
        state = state._replace(target=learner.init(jax.random.key(1), seen).network)
        target, unsure = learner.targets(state, batch)
        net = state.network
        return (
            target, unsure, jnp.stack([d.mean() for d in learner.distributions(state.target, seen)]),
            learner.values(net, seen).mean(0), learner.bonus(net, seen), learner.disagreement(net, seen),
            state.target.uncertainty(seen)[0, :, 0], learner.act(net, seen, jax.random.key(0)),
            learner.greedy(net, seen),
        )  # fmt: skip

    target, unsure, theirs, values, bonus, here, later, act, greedy = everything(batch.next_observation[0])
    best, hopeful = int(np.argmax(values)), int(np.argmax(values + bonus))
    np.testing.assert_allclose(target.probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(target.mean(), [1.0 + GAMMA * theirs.mean(0)[best], 2.0], rtol=1e-4)
    np.testing.assert_allclose(unsure, [GAMMA * (here[hopeful] + later[hopeful]), 0.0], rtol=1e-4)
    assert int(act) == hopeful and int(greedy) == best


def test_only_what_is_learned_changes_and_the_bonus_weight_follows_its_schedule():
    learner = ensemble(width=8, depth=1, prior_scale=2.0, bonus_scale=lambda n: 5.0 - n)
    batch = Transition(jnp.eye(5), jnp.arange(5) % 3, jnp.ones(5), jnp.zeros(5, bool), jnp.eye(5))

    @eqx.filter_jit
    def before_and_after():
        state = learner.init(jax.random.key(0), jnp.zeros(5))
        return state.network, learner.update(state, batch, jax.random.key(1))[0].network

    before, after = before_and_after()
    assert float(before.scale) == 5.0 and float(after.scale) == 4.0
    for first, then in zip(before.heads, after.heads, strict=True):
        for old, new in zip(
            *(jax.tree.leaves(eqx.filter(net.prior, eqx.is_array)) for net in (first, then)), strict=True
        ):
            np.testing.assert_array_equal(old, new)
        assert not np.allclose(weight(first), weight(then))
    assert not np.allclose(weight(before.uncertainty), weight(after.uncertainty))
    # Trunks and priors of the two heads are their own.
    assert not np.allclose(*map(weight, before.heads))


def test_uncertainty_ends_with_the_episode_if_it_is_told_so():
    following, terminal = jnp.array([2.0, 2.0]), jnp.array([False, True])
    np.testing.assert_allclose(UncertaintyHead(0.5).target(following, terminal), [1.0, 0.0])
    np.testing.assert_allclose(UncertaintyHead(0.5, episodic=False).target(following, terminal), [1.0, 1.0])


def test_the_bonus_finds_what_greedy_exploration_misses():
    from gymnax.environments.bsuite.deep_sea import DeepSea

    both = (QuantileHead(11), CategoricalHead(-1.0, 1.0, 11))

    def best(bonus, key):
        learner = ensemble(
            actions=2, heads=both, low=-1.0, high=1.0, atoms=11, discount=0.99, uncertainty=UncertaintyHead(0.99),
            bonus_scale=bonus, width=32, depth=1, prior_scale=2.0, target_rate=1.0, target_every=4,
            encoder=lambda key: lambda seen: 6 * seen.ravel(), optimizer=optax.adam(5e-3),
        )  # fmt: skip
        learn = q_learning(
            learner, DeepSea(6), total_steps=1_200, every=600, lanes=2, epsilon=0.0, batch_size=32, capacity=600
        )
        return learn.advance(learn.init(key)).best

    each = jax.vmap(jax.vmap(best, (None, 0)), (0, None))
    with_bonus, without = jax.jit(each)(jnp.array([10.0, 0.0]), jax.random.split(jax.random.key(1), 4)) > 0.5
    assert with_bonus.sum() >= 3 and with_bonus.sum() > without.sum() + 1


def test_bad_settings_are_named():
    for name, value in dict(low=8.0, heads=(QuantileHead(3),), actions=0, target_rate=2.0).items():
        with pytest.raises(UserError, match=name):
            ensemble(**{name: value})
