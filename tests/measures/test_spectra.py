"""Spectra against closed forms and known laws."""

import numpy as np
import pytest

from unseen.lab import UserError
from unseen.measures.spectra import power_law, spectral_alpha, squared_singular_values, stable_rank


def test_stable_rank_of_known_matrices():
    rng = np.random.default_rng(0)
    assert stable_rank(np.eye(7)) == pytest.approx(7)
    assert stable_rank(np.outer(rng.normal(size=5), rng.normal(size=9))) == pytest.approx(1)
    assert stable_rank(np.diag([2.0, 1.0, 1.0])) == pytest.approx(1.5)
    with pytest.raises(UserError, match="not zero"):
        stable_rank(np.zeros((3, 4)))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_squared_singular_values_are_numpys(shape):
    matrix = np.random.default_rng(1).normal(size=shape)
    np.testing.assert_allclose(squared_singular_values(matrix), np.linalg.svd(matrix)[1] ** 2)


@pytest.mark.parametrize("alpha", [1.5, 2.5, 4.0])
def test_exponent_of_a_power_law_is_found(alpha):
    rng = np.random.default_rng(0)
    found = [power_law((1 - rng.random(1_000)) ** (-1 / (alpha - 1))) for _ in range(20)]
    assert abs(np.mean([f.alpha for f in found]) - alpha) < 0.1 * (alpha - 1)
    assert np.mean([f.tail for f in found]) > 500


def test_the_start_of_the_tail_is_found():
    rng = np.random.default_rng(0)
    body, tail = rng.uniform(0.2, 5, 2_000), 5 * (1 - rng.random(2_000)) ** (-1 / 1.8)
    found = power_law(np.concatenate([body, tail]))
    assert 4 < found.start < 6.5 and abs(found.alpha - 2.8) < 0.2 and found.distance < 0.03


def test_units_do_not_matter():
    matrix = np.random.default_rng(2).standard_t(3, size=(60, 80))
    one, other = spectral_alpha(matrix), spectral_alpha(100 * matrix)
    np.testing.assert_allclose([other.alpha, other.distance], [one.alpha, one.distance])
    assert one.tail == other.tail


def test_too_few_values_are_no_law():
    assert np.isnan(power_law(np.array([1.0, 2.0, 0.0])).alpha)
    assert np.isnan(power_law(np.ones(100)).alpha)
