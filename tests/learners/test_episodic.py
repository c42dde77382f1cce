import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.learners.episodic import UCBVI, PolicyCollectionElimination, Target, episode_value, roll_out
from unseen.measures.exact import finite_horizon_optimum
from unseen.worlds.control.environment_families import perturbed_garnets, replicated
from unseen.worlds.control.tabular import TabularMDPs

FAMILY = TabularMDPs.communicating(jax.random.key(0), 3, 4, 2, branching=2)
VALUES, POLICIES = jax.vmap(lambda p, r: finite_horizon_optimum(p, r, 5))(FAMILY.transition, FAMILY.reward)
BEST = VALUES[:, 0] @ FAMILY.start


def target(kind: int) -> Target:
    return Target(FAMILY.transition[kind], FAMILY.reward[kind], FAMILY.start, BEST[kind])


def test_rollouts_earn_the_exact_value_on_average():
    here = target(0)
    keys = jax.random.split(jax.random.key(1), 4_000)
    episodes = jax.vmap(lambda k: roll_out(k, here, POLICIES[1]))(keys)
    earned = np.asarray(here.reward)[episodes.here, episodes.action].sum(1)
    assert earned.mean() == pytest.approx(float(episode_value(here, POLICIES[1])), abs=4 * float(earned.std()) / 60)
    assert np.array_equal(episodes.there[:, :-1], episodes.here[:, 1:])
    assert float(episode_value(here, POLICIES[0])) == pytest.approx(float(BEST[0]), abs=1e-4)


def test_elimination_finds_the_target_among_the_collected():
    # A promise that nothing keeps is dropped; the true policy stays and costs nothing from then on.
    promise = BEST.at[1].set(BEST.max() + 3.0)
    collected = PolicyCollectionElimination(POLICIES[jnp.array([2, 1, 0])], promise[jnp.array([2, 1, 0])])
    only = PolicyCollectionElimination(POLICIES[:1], BEST[:1])
    assert np.allclose(only.regret(jax.random.key(0), target(0), 20), 0, atol=1e-4)
    paid = np.asarray(collected.regret(jax.random.key(0), target(0), 1_500))
    assert np.all(np.diff(paid) >= -1e-4)
    gap = float(BEST[0] - episode_value(target(0), POLICIES[1]))
    assert paid[0] == pytest.approx(gap, abs=1e-4)  # the largest promise is tried first
    assert paid[-1] - paid[-500] < 0.5 * 500 * gap


def test_a_policy_without_promise_is_never_run():
    collected = PolicyCollectionElimination(POLICIES[:2], jnp.array([BEST[0], -jnp.inf]))
    assert np.allclose(collected.regret(jax.random.key(0), target(0), 50), 0, atol=1e-4)


def test_ucbvi_learns_and_its_regret_flattens():
    paid = np.asarray(jax.jit(lambda k: UCBVI(0.02).regret(k, target(0), 400, 5))(jax.random.key(2)))
    worst = -float(finite_horizon_optimum(target(0).transition, -target(0).reward, 5)[0][0] @ FAMILY.start)
    assert np.all(np.diff(paid) >= -1e-4)
    assert paid[-1] < 0.3 * 400 * (float(BEST[0]) - worst)
    assert paid[-1] - paid[-100] < 0.5 * paid[99]


def test_replicas_keep_optimal_returns_and_families_keep_their_base():
    more = replicated(FAMILY, 3)
    assert more.transition.shape == (3, 12, 2, 12) and np.allclose(more.transition.sum(-1), 1, atol=1e-5)
    values, _ = finite_horizon_optimum(more.transition[0], more.reward[0], 5)
    assert float(values[0] @ more.start) == pytest.approx(float(BEST[0]), abs=1e-4)
    same = [perturbed_garnets(jax.random.key(3), jax.random.key(d), 4, states=6, spread=0.0) for d in (0, 1)]
    assert np.allclose(same[0].transition, same[1].transition) and np.allclose(same[0].reward[0], same[1].reward[3])
    other = perturbed_garnets(jax.random.key(3), jax.random.key(0), 4, states=6, spread=0.5)
    assert np.allclose(other.transition.sum(-1), 1, atol=1e-5) and not np.allclose(other.reward[0], other.reward[1])
