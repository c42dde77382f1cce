import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.measures.grokking import GrokkingClock, steps_to_generalise_curve

STEPS = np.arange(0, 1020, 20)


def accuracies(*reached):
    """One run each: 0 before the step, 1 from it on; None never gets there."""
    rows = [np.zeros(STEPS.size) if at is None else (at <= STEPS).astype(float) for at in reached]
    return xr.DataArray(rows, dims=("seed", "step"), coords={"step": STEPS, "seed": range(len(reached))})


def test_delay_is_the_log_ratio_of_the_two_times():
    times = GrokkingClock().read(accuracies(20, 40), accuracies(200, 400))
    assert times.fit.time.values.tolist() == [20, 40]
    assert times.generalise.time.values.tolist() == [200, 400]
    np.testing.assert_allclose(times.delay.values, [1, 1])
    assert times.delay.censored == 0


def test_runs_that_never_generalise_are_lower_bounds():
    times = GrokkingClock().read(accuracies(100, 100), accuracies(None, 200))
    assert times.generalise.censored == 1
    np.testing.assert_allclose(times.delay.values, [1, np.log10(2)])
    assert times.delay.is_lower_bound.values.tolist() == [True, False]


def test_a_blip_does_not_count():
    test = accuracies(800)
    test[0, 10:12] = 1.0  # two evaluations, and down again
    assert GrokkingClock(hold=3).read(accuracies(20), test).generalise.time.item() == 800
    assert GrokkingClock(hold=2).read(accuracies(20), test).generalise.time.item() == 200


def test_cells_that_were_not_run_have_no_time_and_diverged_ones_are_censored():
    test = accuracies(200, 200, 200)
    test[1] = np.nan
    test[2, 5:] = np.nan
    times = GrokkingClock().read(accuracies(20, 20, 20), test)
    assert times.generalise.time.values[0] == 200
    assert np.isnan(times.generalise.time.values[1])
    assert times.generalise.censored == 1 and times.generalise.time.values[2] == 1000


def test_rise_of_a_straight_line_on_a_log_axis():
    steps = np.unique(np.geomspace(1, 10_000, 4001).round(3))
    line = xr.DataArray((np.log10(steps) / 4)[None], dims=("seed", "step"), coords={"step": steps})
    rise = GrokkingClock(test=0.9).read(line, line).rise
    assert rise.item() == pytest.approx(1 / 4, rel=0.01)


def test_curve_counts_censored_runs_as_later_than_all():
    runs = xr.concat([accuracies(100, 300, None), accuracies(100, None, None)], "fraction")
    curve = steps_to_generalise_curve(GrokkingClock().read(runs, runs).generalise)
    assert curve["median"].values.tolist() == [300, np.inf]
    assert curve.censored.values.tolist() == [1, 2] and curve.runs.values.tolist() == [3, 3]


def test_thresholds_are_shares():
    with pytest.raises(UserError, match="test takes a threshold"):
        GrokkingClock(test=95.0)
