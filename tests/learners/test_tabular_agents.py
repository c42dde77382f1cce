import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.learners.tabular_agents import (
    ModelBased,
    SuccessorRepresentation,
    TabularQ,
    greedy,
    normalised_value,
    revaluation_protocol,
)
from unseen.measures.exact import value_iteration
from unseen.worlds.control.revaluation import two_stage_graph
from unseen.worlds.control.tabular import TabularMDPs

CHAIN = TabularMDPs.chain(1, 4)
GAMMA = 0.8


def experience(agent, count=3_000):
    """All pairs in a random order, from the deterministic chain of four states."""
    p, r = CHAIN.transition[0], jnp.zeros((4, 2)).at[3].set(1.0)

    def step(state, key):
        pair = jax.random.randint(key, (), 0, 8)
        here, action = pair // 2, pair % 2
        return agent.update(state, here, action, r[here, action], jnp.argmax(p[here, action])), None

    keys = jax.random.split(jax.random.key(0), count)
    return jax.jit(lambda s: jax.lax.scan(step, s, keys)[0])(agent.begin(4, 2)), p, r


@pytest.mark.parametrize("agent", [TabularQ(GAMMA), ModelBased(GAMMA)])
def test_values_converge_to_the_optimum(agent):
    state, p, r = experience(agent)
    best, _ = value_iteration(p, r, GAMMA)
    assert np.allclose(agent.values(state).max(1), best, atol=1e-2)


def test_learned_visits_of_a_random_walk_converge_to_the_exact_matrix():
    agent = SuccessorRepresentation(GAMMA, rate=0.1)
    state, p, r = experience(agent)
    assert np.allclose(state.visits, agent.exact(p), atol=2e-2)
    assert np.allclose(agent.exact(p).sum(-1), 1 / (1 - GAMMA), atol=1e-4)  # all visits there are
    assert np.allclose(agent.values(state), agent.exact(p) @ r[:, 0], atol=2e-2)


def test_learned_visits_of_the_greedy_policy_give_optimal_values():
    agent = SuccessorRepresentation(GAMMA, rate=0.1, greedy=1.0)
    state, p, r = experience(agent)
    best, _ = value_iteration(p, r, GAMMA)
    assert np.allclose(agent.values(state).max(1), best, atol=2e-2)


def test_greedy_shares_ties_and_normalised_value_knows_its_ends():
    assert np.allclose(greedy(jnp.array([[1.0, 1.0, 0.5], [0.0, 0.1, 0.0]])), [[0.5, 0.5, 0], [0, 1, 0]])
    old = two_stage_graph().old
    _, actions = value_iteration(old.transition, old.reward, 0.9)
    assert float(normalised_value(old, jax.nn.one_hot(actions, 2), 0.9)) == pytest.approx(1, abs=1e-5)
    assert float(normalised_value(old, jnp.full((6, 2), 0.5), 0.9)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("agent", "explore", "reward", "transition"),
    [
        (TabularQ(0.9), 0.2, False, False),
        (SuccessorRepresentation(0.9), 1.0, True, False),
        (ModelBased(0.9), 1.0, True, True),
    ],
)
def test_the_two_stage_graph_tells_the_three_learners_apart(agent, explore, reward, transition):
    tasks = two_stage_graph()
    sizes = dict(episodes=60, length=20, presentations=80, probes=1, probe_episodes=60)
    for change, knows in ((tasks.reward, reward), (tasks.transition, transition)):
        found = jax.jit(
            lambda key, change=change: revaluation_protocol(
                agent, key, tasks.old, change, discount=0.9, explore=explore, **sizes
            )
        )(jax.random.key(1))
        assert float(found.before) > 0.99
        assert (float(found.probes[0]) > 0.99) == knows
        assert float(found.probes[0]) > 0.99 or float(found.probes[0]) < 0.1
        assert float(found.probes[1]) > 0.99  # and everyone learns in the end
