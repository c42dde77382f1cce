import numpy as np
import pytest
from scipy.stats import trim_mean

from unseen.lab import UserError
from unseen.measures import generalization as g

RETURNS = np.array([[10.0, 4.0, 0.0], [1.0, 8.0, 2.0], [4.0, 4.0, 6.0]])
RANDOM, REFERENCE = np.array([0.0, 2.0, -2.0]), np.array([10.0, 10.0, 6.0])
SCORES = [[1.0, 0.25, 0.25], [0.1, 0.75, 0.5], [0.4, 0.25, 1.0]]  # by hand


def test_scores_by_hand():
    m = g.GeneralizationMatrix(RETURNS, RANDOM, REFERENCE)
    assert np.allclose(m.scores, SCORES)


def test_gap_by_hand():
    m = g.GeneralizationMatrix(RETURNS, RANDOM, REFERENCE)
    assert np.allclose(m.gap(np.eye(3, dtype=bool)), [0.75, 0.45, 0.675])
    assert np.allclose(m.gap(np.array([True, True, False])), [0.375, -0.075, -0.675])


def test_summaries():
    m = g.GeneralizationMatrix(RETURNS, RANDOM, REFERENCE)
    assert np.allclose(m.interquartile_mean(), [trim_mean(row, 0.25) for row in SCORES])
    assert np.allclose(m.percentiles((50,)), [[0.25, 0.5, 0.4]])
    assert np.allclose(m.percentiles((10,)), [[0.25, 0.18, 0.28]])
    assert np.allclose(m.share_with_reward(), [2 / 3, 1, 1])


def test_a_task_without_scale_is_refused():
    with pytest.raises(UserError, match=r"tasks \[1\]"):
        g.GeneralizationMatrix(RETURNS, RANDOM, np.array([10.0, 2.0, 6.0]))


def test_sequences_by_hand():
    scores = np.array([[0.9, 0.1, 0.2], [0.5, 0.8, 0.3], [0.6, 0.7, 1.0]])
    assert np.allclose(g.forgetting(scores), [0.3, 0.1])
    assert np.allclose(g.forward_transfer(scores, np.array([0.0, 0.2, 0.1])), [-0.1, 0.2])
