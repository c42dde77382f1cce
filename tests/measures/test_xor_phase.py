import jax.numpy as jnp
import numpy as np
import pytest

from unseen.measures import xor_cluster_phase
from unseen.measures.xor_phase import PHASES

LABELS = jnp.array([1.0, -1, 1, -1, 1, -1, 1, -1])
TRAIN = jnp.array([1.0, 1, 1, 1, 0, 0, 0, 0])
TARGETS = LABELS.at[0].set(-1)  # one training label is inverted
LINEAR = jnp.arange(8.0)


@pytest.mark.parametrize(
    ("outputs", "phase", "train", "flipped", "test"),
    [
        (LABELS, "fitting", 0.75, 0.0, 1.0),
        (TARGETS, "benign overfitting", 1.0, 1.0, 1.0),
        (TARGETS.at[4:6].multiply(-1), "harmful overfitting", 1.0, 1.0, 0.5),
        (TARGETS.at[4].multiply(-1), "between", 1.0, 1.0, 0.75),
    ],
)
def test_phases(outputs, phase, train, flipped, test):
    found = xor_cluster_phase(2.5 * outputs, LINEAR, LABELS, TARGETS, TRAIN, 1 - TRAIN)
    assert PHASES[int(found.phase)] == phase
    assert (found.train_accuracy, found.flipped_accuracy, found.test_accuracy) == (train, flipped, test)


def test_linear_share_is_the_squared_correlation_on_fresh_points():
    outputs = jnp.array([9.0, 9, 9, 9, 1, 2, 0, 5])
    found = xor_cluster_phase(outputs, LINEAR, LABELS, TARGETS, TRAIN, 1 - TRAIN)
    assert found.linear_share == pytest.approx(np.corrcoef(outputs[4:], LINEAR[4:])[0, 1] ** 2, rel=1e-5)
    line = xor_cluster_phase(3 - 2 * LINEAR, LINEAR, LABELS, TARGETS, TRAIN, 1 - TRAIN)
    assert line.linear_share == pytest.approx(1, rel=1e-5)


def test_what_is_not_there_is_nan():
    found = xor_cluster_phase(jnp.ones(8), LINEAR, LABELS, LABELS, TRAIN, 1 - TRAIN)
    assert np.isnan(found.flipped_accuracy) and np.isnan(found.linear_share)
