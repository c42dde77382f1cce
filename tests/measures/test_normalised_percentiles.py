import numpy as np

from unseen.measures import normalised_by_best, normalised_percentiles


def test_units_are_the_best_of_any_run():
    score = np.array([[1.0, 0.0, 4.0], [2.0, 0.0, 1.0]])
    assert np.array_equal(normalised_by_best(score), [[0.5, np.nan, 1.0], [1.0, np.nan, 0.25]], equal_nan=True)
    assert np.array_equal(normalised_by_best(score, np.array([4.0, 1.0, 2.0])), [[0.25, 0.0, 1.0], [0.5, 0.0, 0.5]])


def test_percentiles_of_a_line_are_its_points():
    score = np.arange(101.0)[None] * np.array([[1.0], [0.5]])
    best = np.full(101, 100.0)
    found = normalised_percentiles(score, best, (0, 10, 20, 50, 100))
    assert np.allclose(found, [[0, 0.1, 0.2, 0.5, 1.0], [0, 0.05, 0.1, 0.25, 0.5]])


def test_percentiles_do_not_depend_on_the_games_scales():
    rng = np.random.default_rng(0)
    score = rng.uniform(size=(4, 3, 50))
    assert np.allclose(normalised_percentiles(score), normalised_percentiles(score * 10 ** rng.normal(size=50)))


def test_games_without_a_score_are_left_out_and_lost_runs_are_nan():
    score = np.array([[1.0, 0.0, 1.0], [2.0, 0.0, 4.0], [np.nan] * 3])
    found = normalised_percentiles(score, percentiles=(0, 100))
    assert np.allclose(found[:2], [[0.25, 0.5], [1.0, 1.0]]) and np.isnan(found[2]).all()
    assert np.isnan(normalised_percentiles(np.zeros((2, 3)))).all()
