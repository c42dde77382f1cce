import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.measures import ContinualSequence, forgetting, mask_overlap

SCORES = np.array([[0.9, 0.1, 0.0], [0.5, 0.8, 0.2], [0.6, 0.3, 0.7]])


def test_a_sequence_by_hand():
    told = ContinualSequence(SCORES)
    np.testing.assert_allclose(told.learned, [0.9, 0.8, 0.7])
    np.testing.assert_allclose(told.forgotten, [0.3, 0.5])
    np.testing.assert_allclose(told.average, 1.6 / 3)
    np.testing.assert_allclose(told.transferred(np.array([0.9, 0.9, 0.5])), [0, -0.1, 0.2], atol=1e-12)


def test_seeds_come_first_and_a_late_best_is_not_counted_as_learned():
    many = ContinualSequence(np.stack([SCORES, np.eye(3)]))
    np.testing.assert_allclose(many.forgotten, [[0.3, 0.5], [1, 1]])
    assert many.average.shape == (2,)
    # The task that is solved best after another one was learned is where the two ways of counting part.
    late = np.array([[0.5, 0, 0], [0.9, 0.8, 0], [0.4, 0.8, 0.7]])
    np.testing.assert_allclose(ContinualSequence(late).forgotten, [0.1, 0.0], atol=1e-12)
    np.testing.assert_allclose(forgetting(late), [0.5, 0.0], atol=1e-12)


def test_a_row_for_each_task():
    with pytest.raises(UserError, match="as many rows as columns, got 2 and 3"):
        ContinualSequence(SCORES[:2])


def test_overlap_is_a_share_of_the_union():
    one, other = jnp.array([[1.0, 1, 0], [0, 1, 0]]), jnp.array([[1.0, 0, 0], [0, 1, 1]])
    assert float(mask_overlap(one, other)) == 0.5 == float(mask_overlap(other, one))
    assert float(mask_overlap(one, one)) == 1 and float(mask_overlap(one, 1 - one)) == 0
    assert float(mask_overlap(0 * one, 0 * one)) == 1
