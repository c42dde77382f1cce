import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from unseen.lab import UserError
from unseen.worlds.control.composite_goals import CompositeGoal, branch_success, likely_outcomes, twin_processes


@pytest.mark.parametrize("depth", [1, 7, 64])
def test_branches_are_binomial_tails(depth):
    p = np.array([0.0, 0.01, 0.2, 0.5, 0.93, 1.0])
    k = np.arange(depth + 1)
    shape = (len(p), depth + 1)
    found = branch_success(
        jnp.broadcast_to(jnp.asarray(p, jnp.float32)[:, None], shape),
        jnp.broadcast_to(k, shape),
        jnp.full(shape, depth),
    )
    assert np.allclose(found[..., 0], binom.cdf(k, depth, p[:, None]), atol=1e-4)
    assert np.allclose(found.sum(-1), 1)


def test_goals_look_up_their_transition():
    transition = jnp.array([[[0.25, 0.75], [1.0, 0.0]], [[0.5, 0.5], [0.1, 0.9]]])
    triples = jnp.array([[0, 0, 1], [1, 1, 0]])
    goals = CompositeGoal.families(triples, 2)
    assert np.allclose(goals.probability(transition), [[0.75] * 3, [0.1] * 3])
    assert np.allclose(goals.success(transition)[..., 0], [[0.0625, 0.4375, 1], [0.81, 0.99, 1]], atol=1e-4)


def test_likely_outcomes_are_the_support():
    row = [[0.25, 0.75, 0.0], [0.0, 0.4, 0.6]]
    transition = jnp.array([row, row, row])
    assert likely_outcomes(transition, 2)[:4].tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 2], [0, 1, 1]]


@pytest.mark.parametrize("seed", range(3))
def test_twins_differ_and_keep_every_depth_one_choice(seed):
    first, second = np.asarray(twin_processes(jax.random.key(seed), 6, 3).transition)
    assert np.allclose(first.sum(-1), 1, atol=1e-6) and np.allclose(second.sum(-1), 1, atol=1e-6)
    moved = np.abs(first - second)
    assert np.all((moved >= 0.2 - 1e-6).sum((1, 2)) == 3) and moved.max() < 0.31
    assert np.array_equal(first > 0.5, second > 0.5)  # the better bet at depth one
    best = first.argmax(1)  # the best action for each state that can come next
    reachable = first.max(1) > 0
    assert np.array_equal(best[reachable], second.argmax(1)[reachable])
    assert np.all(np.abs(np.stack([first, second]) - 0.5) > 0.1 - 1e-6)  # with a margin
    step = (np.eye(6) + first.mean(1) > 0).astype(float)
    assert np.all(np.linalg.matrix_power(step, 6) > 0)  # communicating


def test_bad_twins():
    with pytest.raises(UserError, match="outcomes takes"):
        twin_processes(jax.random.key(0), 3, 3)
