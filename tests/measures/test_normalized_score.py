import jax.numpy as jnp
import numpy as np
import pytest

from unseen.measures import normalized_score, success_rate


def test_random_scores_nought_and_the_oracle_one():
    assert normalized_score(3.0, 3.0, 7.0) == 0
    assert normalized_score(7.0, 3.0, 7.0) == 1
    assert normalized_score(4.0, 3.0, 7.0) == pytest.approx(0.25)
    assert normalized_score(-1.0, 3.0, -5.0) == pytest.approx(0.5)  # costs: the oracle's is the lowest


def test_tasks_broadcast():
    scores = normalized_score(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([0.0, 1.0]), jnp.array([2.0, 5.0]))
    np.testing.assert_allclose(scores, [[0.5, 0.25], [1.5, 0.75]])


def test_success_rate_counts_episodes():
    reached = jnp.array([[True, False], [True, True], [False, False], [True, False]])
    assert success_rate(reached).tolist() == [0.75, 0.25]
