import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from unseen.lab import UserError
from unseen.measures import exact
from unseen.worlds.control.tabular import TabularMDPs


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def family(key, **more):
    return TabularMDPs.contexts(jax.random.key(key), **{"states": 3, "actions": 2, **more})


def numpy_value(p, r, actions, gamma):
    s = np.arange(len(p))
    return np.linalg.solve(np.eye(len(p)) - gamma * p[s, actions], r[s, actions])


def test_two_state_chain_by_hand():
    # right in the right state pays 1 for ever: V = 1 / (1 - g); one step before it: g / (1 - g).
    chain = TabularMDPs.chain(1, 2)
    values, actions = exact.value_iteration(chain.transition[0], chain.reward[0], 0.9)
    assert np.allclose(values, [9.0, 10.0], atol=1e-9) and actions.tolist() == [1, 1]
    # With slip p the first state waits: V0 = (1-p) g V1 / (1 - p g).
    slippery = TabularMDPs.chain(1, 2, slip=0.25)
    values, _ = exact.value_iteration(slippery.transition[0], slippery.reward[0], 0.9)
    assert np.allclose(values, [0.75 * 0.9 * 10 / (1 - 0.25 * 0.9), 10.0], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_value_iteration_solves_the_linear_program(seed):
    # min sum V with V(s) >= r(s,a) + g P V (Puterman 1994, section 6.9): a different algorithm, the same optimum.
    m = TabularMDPs.garnet(jax.random.key(seed), 1, 7, 3, 2)
    p, r = np.asarray(m.transition[0], float), np.asarray(m.reward[0], float)
    a = np.concatenate([0.95 * p[:, i] - np.eye(7) for i in range(3)])
    solution = linprog(np.ones(7), A_ub=a, b_ub=-r.T.ravel(), bounds=(None, None)).x
    values, actions = exact.value_iteration(m.transition[0], m.reward[0], 0.95)
    assert np.allclose(values, solution, atol=1e-6)
    assert np.allclose(values, numpy_value(p, r, np.asarray(actions), 0.95), atol=1e-6)


def test_evaluation_and_successor_matrix_agree_with_rollouts():
    m = TabularMDPs.garnet(jax.random.key(5), 1, 4, 2, 2)
    policy = jax.random.dirichlet(jax.random.key(6), jnp.ones(2), (4,))
    value = exact.policy_evaluation(m.transition[0], m.reward[0], policy, 0.8)
    visits, summed = np.eye(4), np.zeros((4, 4))
    step = np.einsum("sa,sat->st", policy, m.transition[0])
    for t in range(200):
        summed += 0.8**t * visits
        visits = visits @ step
    assert np.allclose(exact.successor_matrix(m.transition[0], policy, 0.8), summed, atol=1e-9)
    assert np.allclose(value, summed @ (policy * m.reward[0]).sum(1), atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_best_context_blind_value_equals_brute_force(seed):
    m = family(seed)
    p, r, start = (np.asarray(x, float) for x in (m.transition, m.reward, m.start))
    found = max(
        np.mean([start @ numpy_value(p[c], r[c], list(policy), 0.9) for c in range(2)])
        for policy in itertools.product(range(2), repeat=3)
    )
    value, policy = exact.best_context_blind_value(m.transition, m.reward, 0.9, m.start)
    assert np.isclose(value, found, atol=1e-9)
    mine = np.mean([start @ numpy_value(p[c], r[c], np.asarray(policy), 0.9) for c in range(2)])
    assert np.isclose(mine, found, atol=1e-9)


def test_blindness_costs_nothing_if_contexts_are_equal_and_something_if_they_oppose():
    same = family(0, similarity=1.0)
    blind, _ = exact.best_context_blind_value(same.transition, same.reward, 0.9, same.start)
    assert np.isclose(blind, exact.context_aware_value(same.transition, same.reward, 0.9, same.start), atol=1e-9)
    # One state, two arms, opposite rewards: aware earns 1 a step, blind 1/2.
    transition, reward = jnp.ones((2, 1, 2, 1)), jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    start = jnp.ones(1)
    assert np.isclose(exact.best_context_blind_value(transition, reward, 0.9, start)[0], 5.0)
    assert np.isclose(exact.context_aware_value(transition, reward, 0.9, start), 10.0)
    assert np.isclose(exact.return_range(transition, reward, 0.9, start), 10.0)


def test_chance_can_beat_every_fixed_action():
    # Two states; in context 0 action 0 leaves state 0 for the paying state, in context 1 action 1 does. A fixed
    # action is stuck in one context: V = g/(1-g)/2. Tossing a fair coin: V = (g/2)/(1-g/2)/(1-g).
    g = 0.9
    go, stay = jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])
    pays = jnp.stack([go, go])
    transition = jnp.stack([jnp.stack([jnp.stack([go, stay]), pays]), jnp.stack([jnp.stack([stay, go]), pays])])
    reward = jnp.broadcast_to(jnp.array([[0.0, 0.0], [1.0, 1.0]]), (2, 2, 2))
    start = stay
    fixed, actions = exact.best_context_blind_value(transition, reward, g, start)
    mixed = exact.best_stochastic_blind_value(transition, reward, g, start, initial=actions)
    assert np.isclose(fixed, g / (1 - g) / 2)
    assert np.isclose(mixed, (g / 2) / (1 - g / 2) / (1 - g), atol=1e-3)


def test_regret():
    m = TabularMDPs.garnet(jax.random.key(8), 1, 5, 3, 2)
    _, actions = exact.value_iteration(m.transition[0], m.reward[0], 0.9)
    best = jax.nn.one_hot(actions, 3, dtype=float)
    assert abs(exact.regret(m.transition[0], m.reward[0], best, 0.9, m.start)) < 1e-9
    # A bandit with arms 1 and 0.4, pulled 3:1: the gap 0.6 is paid a quarter of the time, 1/(1-g) times over.
    bandit = jnp.ones((1, 2, 1)), jnp.array([[1.0, 0.4]]), jnp.array([[0.75, 0.25]])
    assert np.isclose(exact.regret(*bandit, 0.9, jnp.ones(1)), 0.25 * 0.6 * 10)


def test_bandit_regret_is_the_sum_of_gaps():
    pulled = jnp.array([[0, 1], [1, 1], [0, 0]])
    found = exact.bandit_regret(jnp.array([[1.0, 0.4], [0.0, 2.0]]), pulled)
    assert np.allclose(found, [[0.0, 0.0], [0.6, 0.0], [0.6, 2.0]])
    assert np.allclose(exact.bandit_regret(jnp.array([1.0, 0.4]), jnp.array([1, 1])), [0.6, 1.2])


def test_finite_horizon_against_every_policy_and_matrix_powers():
    m = TabularMDPs.garnet(jax.random.key(3), 1, 3, 2, 2)
    p, r = m.transition[0], m.reward[0]
    values, actions = exact.finite_horizon_optimum(p, r, 2)
    best = [-np.inf] * 3
    for plan in itertools.product(range(2), repeat=6):
        plan = np.array(plan).reshape(2, 3)
        s = np.arange(3)
        earned = r[s, plan[0]] + p[s, plan[0]] @ r[s, plan[1]]
        best = np.maximum(best, earned)
    assert np.allclose(values[0], best, atol=1e-9)
    mine = exact.finite_horizon_evaluation(p, r, jax.nn.one_hot(actions, 2, dtype=float))
    assert np.allclose(mine, values, atol=1e-9) and np.all(mine[-1] == 0)
    chance = jnp.full((4, 3, 2), 0.5)
    walk, pay = np.asarray(p.mean(1)), np.asarray(r.mean(1))
    by_hand = sum(np.linalg.matrix_power(walk, t) @ pay for t in range(4))
    assert np.allclose(exact.finite_horizon_evaluation(p, r, chance)[0], by_hand, atol=1e-9)


def test_average_return_gradient_is_the_derivative():
    m = TabularMDPs.garnet(jax.random.key(4), 3, 4, 3, 2)
    logits = jax.random.normal(jax.random.key(5), (4, 3))

    def mean(logits):
        policy = jax.nn.softmax(logits)
        values = jax.vmap(lambda p, r: exact.policy_evaluation(p, r, policy, 0.9))(m.transition, m.reward)
        return jnp.mean(values @ m.start)

    value, gradient = exact.average_return_gradient(m.transition, m.reward, logits, 0.9, m.start)
    assert np.isclose(value, mean(logits), atol=1e-9)
    assert np.allclose(gradient, jax.grad(mean)(logits), atol=1e-8)


def test_too_many_policies_are_refused():
    m = TabularMDPs.garnet(jax.random.key(0), 2, 13, 3, 2)
    with pytest.raises(UserError, match="at most 1,000,000 policies"):
        exact.best_context_blind_value(m.transition, m.reward, 0.9, m.start)
