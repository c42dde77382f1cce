import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.learners.average_return import average_return_policy
from unseen.measures.exact import finite_horizon_evaluation, finite_horizon_optimum
from unseen.worlds.control.tabular import TabularMDPs

pytestmark = pytest.mark.optimized


def mean_return(m, policy, weights):
    chances = jax.nn.one_hot(jnp.asarray(policy), m.reward.shape[2])
    values = jax.vmap(lambda p, r: finite_horizon_evaluation(p, r, chances)[0])(m.transition, m.reward)
    return float(jnp.asarray(weights) @ (values @ m.start))


@pytest.mark.parametrize("seed", range(3))
def test_one_mdp_gives_its_optimum(seed):
    m = TabularMDPs.garnet(jax.random.key(seed), 3, 6, 3, 2)
    alone = jnp.array([0.0, 1.0, 0.0])
    policy = average_return_policy(m.transition, m.reward, m.start, 5, weights=alone)
    best, _ = finite_horizon_optimum(m.transition[1], m.reward[1], 5)
    assert mean_return(m, policy, alone) == pytest.approx(float(m.start @ best[0]), abs=1e-4)


def test_no_change_at_one_step_improves_and_brute_force_is_hardly_better():
    shares = []
    for seed in range(4):
        m = TabularMDPs.garnet(jax.random.key(10 + seed), 3, 3, 2, 2)
        even = jnp.full(3, 1 / 3)
        policy = np.asarray(average_return_policy(m.transition, m.reward, m.start, 2))
        mine = mean_return(m, policy, even)
        every = [mean_return(m, np.reshape(p, (2, 3)), even) for p in itertools.product((0, 1), repeat=6)]
        shares.append((max(every) - mine) / (max(every) - min(every)))
        for step in range(2):
            for other in itertools.product((0, 1), repeat=3):
                changed = policy.copy()
                changed[step] = other
                assert mean_return(m, changed, even) <= mine + 1e-5
    assert max(shares) < 0.1 and min(shares) < 1e-5
