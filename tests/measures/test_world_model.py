import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from unseen.measures.world_model import extract_transitions, extraction_bound, failure_rate, switching_point
from unseen.worlds.control.composite_goals import CompositeGoal, likely_outcomes
from unseen.worlds.control.tabular import TabularMDPs

PROCESS = TabularMDPs.communicating(jax.random.key(0), 1, 6, 2, branching=3).transition[0]
TRIPLES = likely_outcomes(PROCESS, 3)
TRUTH = np.asarray(PROCESS[tuple(TRIPLES.T)], float)


def optimal(goal: CompositeGoal):
    success = goal.success(PROCESS)
    return success[..., 0] >= success[..., 1]


@pytest.mark.parametrize("depth", [2, 9, 64])
def test_an_optimal_policy_reveals_medians(depth):
    estimate = extract_transitions(optimal, TRIPLES, depth)
    assert np.allclose(estimate, binom.median(depth, TRUTH) / depth, atol=1e-6)
    bound = extraction_bound(jnp.asarray(TRUTH, jnp.float32), depth, jnp.zeros(len(TRUTH)))
    assert np.all(np.abs(np.asarray(estimate) - TRUTH) <= bound)


def test_a_policy_that_never_takes_the_first_branch_reveals_nothing():
    assert np.all(extract_transitions(lambda goal: jnp.zeros(goal.depth.shape, bool), TRIPLES, 4) == 1)
    assert np.all(extract_transitions(lambda goal: jnp.ones(goal.depth.shape, bool), TRIPLES, 4) == 0)
    assert switching_point(jnp.array([[False, True, False, False], [False] * 4])).tolist() == [1, 3]


@pytest.mark.parametrize("failure", [0.0, 0.2, 0.5])
def test_the_bound_holds_for_adversarial_choices_within_the_failure_rate(failure):
    # The worst policy of a failure rate may choose either branch wherever both are within 1 - delta of the better.
    for depth in (2, 8, 32):
        goals = CompositeGoal.families(TRIPLES, depth)
        chances = goals.success(PROCESS)
        may = [
            np.asarray(failure_rate(chances, jnp.full(chances.shape[:-1], branch == 1))) <= failure for branch in (1, 0)
        ]
        worst = np.zeros(len(TRUTH))
        for first in range(depth + 1):  # switch at k = first, where all before may be "more" and this one "at most"
            allowed = may[1][:, :first].all(1) & may[0][:, first]
            worst = np.maximum(worst, np.where(allowed, np.abs(first / depth - TRUTH), 0))
        bound = extraction_bound(jnp.asarray(TRUTH, jnp.float32), depth, jnp.full(len(TRUTH), failure))
        assert np.all(worst <= np.asarray(bound) + 1e-6)


def test_failure_rate_and_bound_by_hand():
    success = jnp.array([[0.9, 0.1], [0.25, 0.75]])
    assert np.allclose(failure_rate(success, jnp.array([True, True])), [0, 1 - 1 / 3])
    bound = extraction_bound(jnp.array([0.5, 0.5, 0.5]), 9, jnp.array([0.0, 0.75, 1.0]))
    assert np.allclose(bound, [0.25, 0.5, np.inf])
    assert np.isinf(extraction_bound(jnp.array([0.5]), 1, jnp.array([0.0]))[0])
