"""Each statistic against scipy or by hand, and the intervals against what they promise."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats as st
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as hs

from unseen import UserError
from unseen.lab import statistics as s

rng = np.random.default_rng(0)
numbers = hs.floats(-1e3, 1e3, allow_nan=False, width=32)


def over(values, *dims, **coords):
    return xr.DataArray(np.asarray(values), dims=dims, coords=coords)


def times(values, horizon=100.0):
    """Event times; None is censored at the horizon."""
    reached = over([v is not None for v in values], "seed")
    time = over([horizon if v is None else float(v) for v in values], "seed")
    return s.EventTimes(time, reached, xr.full_like(time, horizon))


# mean_interval ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 19])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_mean_is_students_t_below_20(n, level):
    x = rng.normal(size=n)
    peer = st.ttest_1samp(x, 0).confidence_interval(level)
    ours = s.mean_interval(x, level=level)
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high))
    assert ours.estimate == pytest.approx(x.mean()) and (ours.n, ours.missing, ours.method) == (n, 0, "t")


@pytest.mark.parametrize("n", [20, 35])
def test_mean_is_bca_from_20(n):
    x = rng.lognormal(size=n)
    peer = st.bootstrap((x,), np.mean, n_resamples=50_000, method="BCa", rng=1).confidence_interval
    ours = s.mean_interval(x)
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), rel=0.03)
    assert ours.method == "BCa" and ours == s.mean_interval(x)


def test_bca_of_discrete_data_counts_ties_half():
    x = np.repeat([0.0, 1.0], [4, 18])
    peer = st.bootstrap((x,), np.mean, n_resamples=50_000, method="BCa", rng=1).confidence_interval
    ours = s.mean_interval(x)
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), abs=0.03)


@pytest.mark.parametrize("n", [6, 24])
def test_log_is_the_interval_of_the_geometric_mean(n):
    x = rng.lognormal(size=n)
    plain, log = s.mean_interval(np.log(x)), s.mean_interval(x, log=True)
    assert log.estimate == pytest.approx(st.gmean(x))
    assert (log.low, log.high) == pytest.approx((math.exp(plain.low), math.exp(plain.high)))
    inverse = s.mean_interval(1 / x, log=True)  # the ratio the other way round: the same statement
    assert (1 / inverse.high, 1 / inverse.low) == pytest.approx((log.low, log.high), rel=1e-9 if n < 20 else 0.05)


@given(hs.lists(numbers, min_size=2, max_size=12), hs.floats(0.5, 8), numbers)
@settings(max_examples=50, deadline=None)
def test_mean_moves_with_the_units(x, scale, shift):
    a, b = s.mean_interval(x), s.mean_interval([scale * v + shift for v in x])
    expected = [scale * v + shift for v in (a.estimate, a.low, a.high)]
    assert (b.estimate, b.low, b.high) == pytest.approx(expected, rel=1e-6, abs=1e-2)
    assert a.low <= a.estimate <= a.high


def test_mean_of_few_flat_missing_and_infinite_values():
    assert (s.mean_interval([3.0]).low, s.mean_interval([3.0]).high) == (-math.inf, math.inf)
    assert (s.mean_interval([3.0], log=True).low, s.mean_interval([3.0], log=True).high) == (0, math.inf)
    for n in (7, 30):
        flat = s.mean_interval([0.1] * n)
        assert flat.low == flat.high == flat.estimate == pytest.approx(0.1)
    gone = s.mean_interval([1.0, math.nan, 2.0, math.nan])
    assert (gone.n, gone.missing, gone.estimate) == (2, 2, 1.5)
    nothing = s.mean_interval([math.nan] * 3)
    assert (nothing.n, nothing.missing, nothing.low, nothing.high) == (0, 3, -math.inf, math.inf)
    assert math.isnan(nothing.estimate)
    endless = s.mean_interval([1.0, math.inf, 2.0])
    assert (endless.estimate, endless.low, endless.high, endless.missing) == (
        math.inf,
        -math.inf,
        math.inf,
        0,
    )
    assert math.isnan(s.mean_interval([-math.inf, math.inf]).estimate)


def test_mean_takes_one_value_per_seed():
    x = over(rng.normal(size=(1, 5)), "decay", "seed")
    assert s.mean_interval(x) == s.mean_interval(x.values[0])
    assert s.mean_interval(over([True, False, True], "seed")).estimate == pytest.approx(2 / 3)
    for bad in (over(np.ones((2, 5)), "decay", "seed"), np.ones((2, 5)), np.ones(0)):
        with pytest.raises(UserError, match=r"takes one|one dimension"):
            s.mean_interval(bad)
    with pytest.raises(UserError, match=r"above 0, got -1\.0"):
        s.mean_interval([1.0, -1.0], log=True)


# Censored times --------------------------------------------------------------------------------------------


def test_first_step_by_hand():
    holds = [[0, 1, 0, 1, 1, 1], [1, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]]
    condition = over(np.array(holds, bool), "seed", "step", step=[10, 20, 30, 40, 50, 60], seed=[100, 101, 102])
    once, held = s.first_step(condition), s.first_step(condition, hold=3)
    assert once.time.values.tolist() == [20, 10, 60] and once.reached.values.tolist() == [True, True, False]
    assert held.time.values.tolist() == [40, 60, 60] and held.reached.values.tolist() == [True, False, False]
    assert (once.censored, held.censored) == (1, 2)
    assert held.sel(seed=100).time == 40 and held.isel(seed=[0, 1]).censored == 1
    assert s.first_step(condition, hold=7).censored == 3
    assert held.time_or_inf.values.tolist() == [40, math.inf, math.inf]


@given(hs.lists(hs.booleans(), min_size=1, max_size=12), hs.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_first_step_is_the_first_window(holds, hold):
    steps = np.arange(1, len(holds) + 1) * 5
    starts = [steps[i] for i in range(len(holds) - hold + 1) if all(holds[i : i + hold])]
    found = s.first_step(over(np.array(holds, bool), "step", step=steps), hold=hold)
    assert bool(found.reached) == bool(starts)
    assert float(found.time) == (starts[0] if starts else steps[-1])


def test_a_diverged_run_never_reaches_and_an_unrun_one_is_missing():
    accuracy = over([[0.1, 0.99, 1], [0.1, math.nan, math.nan], [0.1, 0.2, math.nan], [math.nan] * 3], "seed", "step")
    observed = over([[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]], "seed", "step").astype(bool)
    found = s.first_step(accuracy.assign_coords(step=[1, 2, 3]) > 0.9, observed=observed.assign_coords(step=[1, 2, 3]))
    np.testing.assert_array_equal(found.time, [2, 3, 2, math.nan])
    assert found.reached.values.tolist() == [True, False, False, False] and found.censored == 2
    assert s.mean_interval(found).missing == 1


def test_first_step_wants_a_comparison_over_steps():
    with pytest.raises(UserError, match="bool"):
        s.first_step(over([0.1, 0.9], "step"))
    with pytest.raises(UserError, match="over 'step'"):
        s.first_step(over([True], "seed"))
    with pytest.raises(UserError, match="hold"):
        s.first_step(over([True], "step"), hold=0)


def test_log_ratio_carries_bounds():
    slow, fast = times([10, None, 50, None]), times([1, 10, None, None])
    found = slow.log_ratio(fast, base=10)
    np.testing.assert_allclose(found.values, [1, 1, math.log10(0.5), math.nan])
    assert found.is_lower_bound.values[:3].tolist() == [False, True, False]
    assert found.is_upper_bound.values[:3].tolist() == [False, False, True]
    assert found.censored == 3
    both = s.mean_interval(found)
    assert (both.low, both.high, both.missing, both.n) == (-math.inf, math.inf, 1, 3)
    flipped = fast.log_ratio(slow, base=10)
    np.testing.assert_allclose(flipped.values, -found.values)
    np.testing.assert_array_equal(flipped.is_upper_bound, found.is_lower_bound)
    np.testing.assert_allclose((slow / fast).values, 10**found.values)
    np.testing.assert_allclose((slow - fast).values, [9, 90, -50, math.nan])
    with pytest.raises(UserError, match=r"above 0, got 0\.0"):
        times([0, 1]).log_ratio(fast.isel(seed=[0, 1]))


def test_bounds_enter_at_the_bound_and_open_one_side():
    slow, fast = times([80, None, 60, None]), times([1, 2, 3, 4])
    lower = s.mean_interval(slow.log_ratio(fast))
    plain = s.mean_interval(np.log(np.array([80, 100, 60, 100]) / [1, 2, 3, 4]))
    assert (lower.estimate, lower.low, lower.high) == (
        pytest.approx(plain.estimate),
        pytest.approx(plain.low),
        math.inf,
    )
    assert lower.method == "t, censored"
    upper = s.mean_interval(fast.log_ratio(slow))
    assert (upper.low, upper.high) == (-math.inf, pytest.approx(-plain.low))
    assert s.mean_interval(slow / fast, log=True).low == pytest.approx(math.exp(plain.low))


def test_a_mean_over_conditions_is_a_bound_if_one_of_them_is():
    values = over([[1.0, 3.0], [1.0, 5.0], [2.0, 4.0]], "seed", "size")
    none = xr.zeros_like(values, dtype=bool)
    lower = over([[False, True], [False, False], [True, False]], "seed", "size")
    upper = over([[False, False], [False, False], [False, True]], "seed", "size")
    mean = s.Censored(values, lower, none).mean("size")
    assert mean.values.values.tolist() == [2, 3, 3]
    assert mean.is_lower_bound.values.tolist() == [True, False, True]
    torn = s.Censored(values, lower, upper).mean("size").values
    assert np.isnan(torn.values).tolist() == [False, False, True]


# Median, interquartile mean, proportions, wins -------------------------------------------------------------


def test_median_by_hand():
    # P(Bin(6, 1/2) = 0) = 1/64: the whole range covers 1 - 2/64 = 96.9%; at n = 12, k = 3 does.
    six = s.median_interval([3, 1, 4, 1.5, 9, math.inf])
    assert (six.estimate, six.low, six.high) == (3.5, 1, math.inf)
    twelve = s.median_interval(np.arange(1.0, 13.0))
    assert (twelve.estimate, twelve.low, twelve.high) == (6.5, 3, 10)
    five = s.median_interval([1.0, 2, 3, 4, 5])
    assert (five.low, five.high) == (-math.inf, math.inf)
    assert s.median_interval(times([1, 2, 3, 4, None, None])).estimate == 3.5
    assert s.median_interval([1.0, math.nan]).missing == 1


@pytest.mark.parametrize("n", [6, 9, 15, 20, 31])
def test_median_interval_is_the_sign_tests(n):
    """Its ends are the smallest medians that an exact sign test does not reject."""
    x = np.sort(rng.normal(size=n))
    found = s.median_interval(x)
    kept = [m for m in x if st.binomtest(int((x > m + 1e-9).sum()), n).pvalue > 0.05]
    assert found.low == min(kept) and found.high in x and found.low == -s.median_interval(-x).high


@pytest.mark.parametrize("n", [5, 8, 19, 30])
def test_interquartile_mean_is_the_trimmed_mean(n):
    x = rng.standard_t(2, size=n)
    found = s.interquartile_mean(x)
    assert found.estimate == pytest.approx(st.trim_mean(x, 0.25))
    assert found.low < found.estimate < found.high


def test_interquartile_interval_against_scipy():
    x = rng.normal(size=12)
    # The winsorised variance and the trimmed mean are Yuen's; his two-sample test against a constant sample.
    constant = st.ttest_ind(x, np.zeros(12), equal_var=False, trim=0.25)
    found = s.interquartile_mean(x)
    half = st.t.ppf(0.975, 12 - 2 * 3 - 1) * found.estimate / constant.statistic
    spread = found.high - found.estimate
    # Yuen's squared standard error is (n-1) s_w² / (h (h-1)), Tukey and McLaughlin's s_w² / ((h/n)² n).
    assert spread == pytest.approx(abs(half) * math.sqrt(12 * 5 / (11 * 6)))
    y = rng.lognormal(size=25)
    peer = st.bootstrap(
        (y,), lambda v, axis: st.trim_mean(v, 0.25, axis=axis), n_resamples=20_000, rng=1
    ).confidence_interval
    found = s.interquartile_mean(y)
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high), rel=0.06)


def test_interquartile_mean_over_tasks_is_stratified():
    scores = over(rng.normal(size=(6, 4)) * 0.1 + np.arange(4), "seed", "task")
    found = s.interquartile_mean(scores)
    assert found.estimate == pytest.approx(st.trim_mean(scores.values.ravel(), 0.25))
    assert found == s.interquartile_mean(scores.transpose("task", "seed"))
    # Strata keep the tasks' shares fixed: the spread between tasks (sd 1.1) must not enter.
    assert found.high - found.low < 0.2
    torn = scores.copy()
    torn[2, 1] = math.nan
    assert (s.interquartile_mean(torn).missing, s.interquartile_mean(torn).n) == (1, 5)


@given(hs.integers(1, 40), hs.data())
@settings(max_examples=60, deadline=None)
def test_proportions_against_scipy(n, data):
    k = data.draw(hs.integers(0, n))
    for method, name in (("clopper-pearson", "exact"), ("wilson", "wilson")):
        peer = st.binomtest(k, n).proportion_ci(method=name)
        ours = s.proportion_interval(k, n, method=method)
        assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), abs=1e-9)
        assert ours.estimate == k / n


def test_proportions_refuse_what_is_none():
    for k, n in ((3, 2), (-1, 2), (0, 0), (0.5, 2)):
        with pytest.raises(UserError, match="successes"):
            s.proportion_interval(k, n)


def test_censored_comparison_by_hand():
    a, b = times([None, 50, None, 100, 7, 100]), times([90, None, None, None, 7, 100])
    found = s.censored_comparison(a, b)  # win, loss, open, loss (b is above the horizon), tie, tie
    assert (found.estimate, found.n) == (pytest.approx(2.5 / 6), 6)
    opposite = s.censored_comparison(b, a)
    assert (opposite.estimate, opposite.low, opposite.high) == pytest.approx(
        (1 - found.estimate, 1 - found.high, 1 - found.low)
    )


@pytest.mark.parametrize(("won", "n"), [(8, 8), (7, 8), (6, 6), (5, 5), (15, 20), (14, 20)])
def test_censored_comparison_is_the_sign_test(won, n):
    difference = np.repeat([1.0, -1.0], [won, n - won])
    found = s.censored_comparison(difference, np.zeros(n))
    assert (found.low > 0.5) == (st.binomtest(won, n).pvalue < 0.05)
    peer = st.binomtest(won, n).proportion_ci()
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high))
    assert s.censored_comparison(difference, np.full(n, math.nan)).missing == n


@pytest.mark.parametrize("n", [5, 8])
def test_halves_keep_the_win_interval_conservative(n):
    """Exactly: over all trinomial outcomes, for a grid of win and tie probabilities."""
    limits = [s._clopper_pearson(k / 2, n, 0.95) for k in range(2 * n + 1)]
    outcomes = np.array([(w, t, n - w - t) for w in range(n + 1) for t in range(n + 1 - w)])
    low, high = np.array([limits[2 * w + t] for w, t, _ in outcomes]).T
    for tie in (0.0, 0.2, 0.6, 0.95):
        for win in np.linspace(0, 1 - tie, 15):
            truth = win + tie / 2
            p = st.multinomial(n, [win, tie, max(0.0, 1 - win - tie)]).pmf(outcomes)
            assert p[(low <= truth + 1e-12) & (truth - 1e-12 <= high)].sum() >= 0.95 - 1e-9


def test_equivalence_needs_the_whole_interval_within_the_margin():
    inside = s.Interval(0.0, -0.04, 0.03, 8)
    assert s.equivalent(inside, 0.05) and not s.equivalent(inside, 0.04) and not s.equivalent(inside, 0.035)
    assert s.equivalent(s.Interval(1.0, 0.98, 1.03, 8), 0.05, around=1)
    assert not s.equivalent(s.mean_interval([0.0]), 1e9)
    with pytest.raises(UserError, match="margin"):
        s.equivalent(inside, 0)


# Comparisons seed by seed ----------------------------------------------------------------------------------


def test_pairs_are_seeds_and_a_lost_one_is_missing():
    a = over([1.0, 2, 3], "seed", seed=[100, 101, 102])
    b = over([1.0, 1, 1], "seed", seed=[102, 101, 100])
    assert s.paired_difference(a, b).sel(seed=[100, 101, 102]).values.tolist() == [0, 1, 2]
    fewer = s.paired_difference(a, b.isel(seed=[0, 1]))
    assert fewer.sizes["seed"] == 3 and s.mean_interval(fewer).missing == 1
    np.testing.assert_allclose(s.ratio(a, 2 * a), 0.5)
    np.testing.assert_allclose(s.log_ratio(100 * a, a, base=10), 2)
    with pytest.raises(UserError, match="same coordinates"):
        s.paired_difference([1.0, 2], [1.0])
    with pytest.raises(UserError, match="same coordinates"):
        s.paired_difference(over(np.ones(2), "x", x=[0, 1]), over(np.ones(2), "x", x=[0, 2]))
    with pytest.raises(UserError, match="above 0"):
        s.log_ratio(a, 0 * a)


def test_conditions_of_one_dataset_pair_up():
    e = xr.Dataset({"accuracy": (("decay", "seed"), rng.random((2, 5)))}, {"decay": [0.0, 1.0], "seed": range(5)})
    on, off = e.accuracy.sel(decay=1.0), e.accuracy.sel(decay=0.0)
    paired = s.mean_interval(s.paired_difference(on, off))
    peer = st.ttest_rel(on.values, off.values).confidence_interval()
    assert (paired.low, paired.high) == pytest.approx((peer.low, peer.high))


def test_gap_contrast_and_relative_error_by_hand():
    assert s.gap_contrast([0.5], [0.9], [0.8], [0.9]).values == pytest.approx([0.3])
    np.testing.assert_allclose(s.relative_error([1.1, 0, 1, -3], [1, 0, 0, -2]), [0.1, 0, math.inf, 0.5])
    np.testing.assert_allclose(s.relative_error([0.9, -3], [1, -2], signed=True), [-0.1, -0.5])


# Trends ----------------------------------------------------------------------------------------------------


@pytest.fixture
def curves():
    """Values with ties over `width` for five seeds, the coordinate first."""
    y = over(np.round(rng.normal(size=(5, 9)), 1), "seed", "width", width=np.arange(1.0, 10.0), seed=range(5))
    return y.width, y


def test_trends_against_scipy_for_each_seed(curves):
    x, y = curves
    for function, peer in (
        (s.slope, lambda a, b: st.linregress(a, b).slope),
        (s.r_squared, lambda a, b: st.linregress(a, b).rvalue ** 2),
        (s.spearman, lambda a, b: st.spearmanr(a, b).statistic),
        (s.kendall, lambda a, b: st.kendalltau(a, b).statistic),
    ):
        expected = [peer(x.values, row) for row in y.values]
        np.testing.assert_allclose(function(x, y, "width"), expected, err_msg=function.__name__)
        np.testing.assert_allclose(function(x, y.T, "width"), expected)
        per_seed = y.shift(seed=1).fillna(1.0) + x
        expected = [peer(a, b) for a, b in zip(per_seed.values, y.values, strict=True)]
        np.testing.assert_allclose(function(per_seed, y, "width"), expected)
        one = function(x.values, y.values[0], "width")
        assert one.dims == () and float(one) == pytest.approx(peer(x.values, y.values[0]))


def test_partial_rank_correlation_is_that_of_residual_ranks(curves):
    x, y = curves
    z = over(np.round(rng.normal(size=(5, 9)), 1), "seed", "width", width=x.values, seed=range(5))
    found = s.partial_spearman(y, z, x, "width")
    for seed in range(5):
        clock, a, b = (st.rankdata(v) for v in (x.values, y.values[seed], z.values[seed]))
        residual = [v - np.polyval(np.polyfit(clock, v, 1), clock) for v in (a, b)]
        assert float(found[seed]) == pytest.approx(np.corrcoef(*residual)[0, 1])
    assert np.isnan(s.partial_spearman(x, y, x, "width")).all()


def test_a_power_law_has_its_exponent_as_slope():
    x = over([1.0, 10, 100], "width")
    y = 3 * x**-0.5 * over([1.0, 2], "seed")
    np.testing.assert_allclose(s.slope(x, y, "width", log=True), -0.5)
    np.testing.assert_allclose(s.r_squared(x, y, "width", log=True), 1)
    with pytest.raises(UserError, match="above 0"):
        s.slope(x, -y, "width", log=True)


def test_coefficient_of_determination_by_hand():
    seen = over([[1.0, 2, 3], [1, 2, 3], [1, 1, 1]], "seed", "x")
    said = over([[1.0, 2, 3], [3, 2, 1], [1, 1, 1]], "seed", "x")
    np.testing.assert_allclose(s.coefficient_of_determination(seen, said, "x"), [1, -3, math.nan])


def test_trend_by_hand(curves):
    y = over([[1.0, 2, 3], [3, 2, 1], [1, 1, 1], [1, 3, 2], [1, math.inf, math.inf], [1, math.nan, 3]], "seed", "d")
    np.testing.assert_allclose(s.monotone_trend(y, "d"), [1, -1, 0, 1 / 3, 2 / 3, math.nan])
    _, y = curves
    pages = [np.mean([np.sign(b - a) for i, a in enumerate(r) for b in r[i + 1 :]]) for r in y.values]
    np.testing.assert_allclose(s.monotone_trend(y, "width"), pages)


def test_trends_of_nothing_are_missing():
    x = over([1.0, 2, 3], "d")
    y = over([[1.0, math.nan, 3], [2, 2, 2], [1, math.inf, 5], [0.1, 0.1, 0.1]], "seed", "d")
    for function in (s.slope, s.r_squared, s.spearman, s.kendall):
        found = function(x, y, "d")
        assert np.isnan(found[0]), function.__name__
        if function is s.slope:
            assert found[1] == found[3] == 0 and np.isnan(found[2])
        else:
            assert np.isnan(found[1]) and np.isnan(found[3]), function.__name__
    np.testing.assert_allclose(s.spearman(x, y, "d")[2], 0.5)
    with pytest.raises(UserError, match="two points"):
        s.spearman(x[:1], y[:, :1], "d")
    with pytest.raises(UserError, match="over 'width'"):
        s.slope(x, y, "width")


# What the intervals promise --------------------------------------------------------------------------------


def share_that_covers(draw, truth, limits, n, replicates):
    low, high = limits(draw(np.random.default_rng([7, n]), (replicates, n)), 0.95)
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("n", [5, 8])
def test_t_covers(n):
    """4,000 replicates: a standard error of 0.3 points."""
    assert 0.94 < share_that_covers(lambda r, shape: r.normal(3, 2, shape), 3, s._t_limits, n, 4_000) < 0.96


def test_bca_covers_as_the_docs_say_at_20():
    """Below nominal, and not by more than documented: 600 replicates, a standard error of one point."""
    assert 0.90 < share_that_covers(lambda r, shape: r.normal(size=shape), 0, s._bca_limits, 20, 600) < 0.96


def test_the_lower_limit_of_censored_times_is_safe_for_the_mean():
    """Log times N(0, 1), half of them censored: at most 2.5% of the lower limits lie above the mean."""
    r = np.random.default_rng(7)
    low, _ = s._t_limits(np.minimum(r.normal(size=(4_000, 8)), 0.0), 0.95)
    assert (low > 0).mean() < 0.025


def test_rows_are_what_mean_interval_returns():
    """The benchmark simulates the shipped intervals, not others like them."""
    for n, limits in ((8, s._t_limits), (20, s._bca_limits)):
        rows = rng.lognormal(size=(3, n))
        low, high = limits(rows, 0.95)
        for i, row in enumerate(rows):
            one = s.mean_interval(row)
            assert (one.low, one.high) == (pytest.approx(low[i]), pytest.approx(high[i]))


def test_statistics_do_not_import_jax():
    code = "import sys, unseen.lab.statistics; sys.exit('jax' in sys.modules or 'scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_examples_of_the_page_run_and_print_what_it_says(capsys):
    page = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile("\n".join(blocks), "docs/statistics.md", "exec"), {"__name__": "page"})
    said = re.findall(r"^print\(.*\)  # (.*)$", "\n".join(blocks), re.MULTILINE)
    assert said and capsys.readouterr().out.splitlines() == said


def test_bootstrap_interval_of_a_ratio_of_means_covers_it():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        data = xr.Dataset({k: ("seed", rng.normal(mean, 1, 10)) for k, mean in (("a", 4), ("b", 8))})
        found = s.bootstrap_interval(lambda d: d.a.mean() / d.b.mean(), data, resamples=200)
        assert found.low <= found.estimate <= found.high
        covered += found.low <= 0.5 <= found.high
    assert covered >= 52  # 95% of 60 are 57


def test_bootstrap_interval_says_when_it_cannot_tell():
    two = xr.DataArray([1.0, 2.0], dims="seed")
    assert s.bootstrap_interval(lambda d: d.mean(), two).high == np.inf
    flat = xr.DataArray(np.ones(6), dims="seed")
    assert s.bootstrap_interval(lambda d: d.mean(), flat, resamples=50).low == 1.0
    never = s.bootstrap_interval(lambda d: d.mean() * np.nan, flat, resamples=50)
    assert np.isnan(never.estimate) and never.missing == 6
    paired = xr.DataArray(np.arange(6.0), dims="seed", coords={"seed": np.arange(100, 106)})
    again = [
        s.bootstrap_interval(lambda d: s.paired_difference(d, d * 2).mean(), paired, resamples=50) for _ in range(2)
    ]
    assert again[0] == again[1]  # seeds drawn twice still pair, and the same data give the same interval


def test_logistic_crossing():
    x = xr.DataArray(np.linspace(0, 1, 9), dims="f")
    curves = xr.concat([1 / (1 + np.exp(-12 * (x - at))) for at in (0.3, 0.62)], "seed")
    np.testing.assert_allclose(s.logistic_crossing(x, curves, "f"), [0.3, 0.62], atol=2e-3)
    np.testing.assert_allclose(s.logistic_crossing(x, curves, "f", level=0.8)[0], 0.3 + np.log(4) / 12, atol=5e-3)
    assert np.isclose(s.logistic_crossing(x, (x > 0.5) * 1.0, "f"), 0.5625, atol=0.02)  # a jump: its middle
    assert np.isnan(s.logistic_crossing(x, x * 0 + 0.2, "f")) and np.isnan(s.logistic_crossing(x, x * 0.3, "f"))
    doubled = xr.DataArray([1.0, 2, 4, 8, 16], dims="f")
    assert np.isclose(s.logistic_crossing(doubled, xr.DataArray([0.0, 0, 0.5, 1, 1], dims="f"), "f", log=True), 4)
    with pytest.raises(UserError, match="from 0 to 1"):
        s.logistic_crossing(x, x * 2, "f")


def test_gini_and_roc_auc_against_their_definitions():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    v = rng.exponential(size=40)
    exact = np.abs(v[:, None] - v).mean() / (2 * v.mean())
    assert np.isclose(s.gini(xr.DataArray(v, dims="e"), "e"), exact)
    assert np.isclose(s.gini(xr.DataArray(np.eye(10)[0], dims="e"), "e"), 0.9)
    scores, labels = rng.integers(0, 5, (2, 50)), rng.random((2, 50)) < 0.3
    found = s.roc_auc(xr.DataArray(scores, dims=("seed", "e")), xr.DataArray(labels, dims=("seed", "e")), "e")
    np.testing.assert_allclose(
        found, [roc_auc_score(label, score) for label, score in zip(labels, scores, strict=True)]
    )
    assert np.isnan(s.roc_auc(xr.DataArray([1.0, 2.0], dims="e"), xr.DataArray([1, 1], dims="e"), "e"))
