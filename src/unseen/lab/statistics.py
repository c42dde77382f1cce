"""Statistics over per-seed values: intervals, censored times, paired comparisons.

A seed is the unit of replication. Statistics come in two kinds: those that reduce each seed's own numbers to
one (`slope`, `spearman`, `first_step`, `gap_contrast`, ...: any other dimensions are kept), and those that
turn one value per seed into an `Interval` (`mean_interval`, `median_interval`, `censored_comparison`, ...).

What is not a number is never dropped in silence. NaN means *missing*: a seed that diverged, or was not run.
It is left out of the estimate and counted in `Interval.missing`, and a judgement on an effect with missing
seeds is inconclusive. An infinite value is a value: ranks and medians use it, and a mean over it has no
finite interval. A time that was never reached is *censored*: it enters as a bound, and the side it says
nothing about is infinite.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from unseen.lab.errors import UserError
from unseen.lab.interval import Interval

__all__ = [
    "Censored",
    "EventTimes",
    "Interval",
    "bootstrap_interval",
    "censored_comparison",
    "coefficient_of_determination",
    "equivalent",
    "first_step",
    "gap_contrast",
    "gini",
    "interquartile_mean",
    "kendall",
    "log_ratio",
    "logistic_crossing",
    "mean_interval",
    "median_interval",
    "monotone_trend",
    "paired_difference",
    "partial_spearman",
    "proportion_interval",
    "r_squared",
    "ratio",
    "relative_error",
    "roc_auc",
    "slope",
    "spearman",
]

BOOTSTRAP_FROM = 20  # seeds from which on an interval is bootstrapped instead of Student's
RESAMPLES = 9_999
SEED_RESAMPLES = 2_000  # of `bootstrap_interval`, whose statistics are slower
RESAMPLING_SEED = 20_260  # fixed: the same values always get the same interval

Array = xr.DataArray | np.ndarray | Sequence[float | int]
Number = float | int | np.number


# Censored values -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Censored:
    """Numbers of which some are known only as a bound.

    Attributes:
        values: the numbers, or the bounds; NaN where nothing is known.
        is_lower_bound: bool, same dims: the truth is above `values` (right-censored).
        is_upper_bound: bool, same dims: the truth is below `values` (left-censored).

    Differences carry bounds along: a lower bound minus an exact number is a lower bound, minus a lower bound
    it is no information (NaN, and so missing).
    """

    values: xr.DataArray
    is_lower_bound: xr.DataArray
    is_upper_bound: xr.DataArray

    @property
    def censored(self) -> int:
        """How many of the values are bounds, or nothing at all because two bounds met."""
        return int((self.is_lower_bound | self.is_upper_bound).sum())

    def sel(self, *args: Any, **indexers: Any) -> Censored:
        """Select by coordinate, as `xarray.DataArray.sel`."""
        return self._each(lambda a: a.sel(*args, **indexers))

    def isel(self, *args: Any, **indexers: Any) -> Censored:
        """Select by position, as `xarray.DataArray.isel`."""
        return self._each(lambda a: a.isel(*args, **indexers))

    def mean(self, dim: str) -> Censored:
        """The mean over a dimension of conditions: a bound if any term is one; NaN if any term is, or if
        terms are bounded on opposite sides."""
        return _bounded(self.values.mean(dim, skipna=False), self.is_lower_bound.any(dim), self.is_upper_bound.any(dim))

    def __neg__(self) -> Censored:
        return Censored(-self.values, self.is_upper_bound, self.is_lower_bound)

    def __sub__(self, other: Censored | EventTimes | xr.DataArray | float | int) -> Censored:
        a, b = self, _censored(other)
        values, other_values = _aligned(a.values, b.values)
        lower, other_upper = _aligned(a.is_lower_bound, b.is_upper_bound, fill=False)
        upper, other_lower = _aligned(a.is_upper_bound, b.is_lower_bound, fill=False)
        return _bounded(values - other_values, lower | other_upper, upper | other_lower)

    def _each(self, f: Callable[[xr.DataArray], xr.DataArray]) -> Censored:
        return Censored(f(self.values), f(self.is_lower_bound), f(self.is_upper_bound))


def _bounded(values: xr.DataArray, lower: xr.DataArray, upper: xr.DataArray) -> Censored:
    return Censored(values.where(~(lower & upper)), lower, upper)


@dataclasses.dataclass(frozen=True)
class EventTimes:
    """Times of an event, right-censored where it did not happen.

    Attributes:
        time: the time of the event, or the horizon where it was not reached; NaN where nothing was run.
        reached: bool, same dims: whether the event was observed.
        horizon: same dims: the last time at which the event could have been observed.

    `a.log_ratio(b)`, `a / b` and `a - b` compare times seed by seed and give `Censored` values.
    """

    time: xr.DataArray
    reached: xr.DataArray
    horizon: xr.DataArray

    @property
    def censored(self) -> int:
        """How many runs (of those that were run) did not reach the event."""
        return int((~self.reached & self.time.notnull()).sum())

    @property
    def time_or_inf(self) -> xr.DataArray:
        """Times with infinity where the event was not reached: for ranks and medians under a common
        horizon."""
        return self.time.where(self.reached | self.time.isnull(), np.inf)

    def sel(self, *args: Any, **indexers: Any) -> EventTimes:
        """Select by coordinate, as `xarray.DataArray.sel`."""
        return self._each(lambda a: a.sel(*args, **indexers))

    def isel(self, *args: Any, **indexers: Any) -> EventTimes:
        """Select by position, as `xarray.DataArray.isel`."""
        return self._each(lambda a: a.isel(*args, **indexers))

    def bounds(self) -> Censored:
        """The times as censored values: the horizon is a lower bound where the event was not reached."""
        return Censored(self.time, ~self.reached & self.time.notnull(), xr.zeros_like(self.reached))

    def log(self, base: Number = math.e) -> Censored:
        """Logarithms of the times, censored times as lower bounds.

        Raises:
            UserError: if a time is zero: a condition that holds before the first step has no log time.
        """
        return dataclasses.replace(self.bounds(), values=_log(self.time, "log of event times") / math.log(base))

    def log_ratio(self, other: EventTimes, base: Number = math.e) -> Censored:
        """`log(self / other)` per seed, to `base`.

        A censored numerator makes a lower bound, a censored denominator an upper bound; if both are
        censored, nothing is known about the ratio and the seed is missing (NaN).

        Raises:
            UserError: if a time is zero, or coordinates other than the seeds differ.
        """
        return self.log(base) - other.log(base)

    def __truediv__(self, other: EventTimes) -> Censored:
        """`self / other` per seed, with the bounds of `log_ratio`; for `mean_interval(..., log=True)`."""
        logs = self.log_ratio(other)
        return dataclasses.replace(logs, values=np.exp(logs.values))

    def __sub__(self, other: EventTimes) -> Censored:
        """`self - other` per seed, with bounds."""
        return self.bounds() - other

    def _each(self, f: Callable[[xr.DataArray], xr.DataArray]) -> EventTimes:
        return EventTimes(f(self.time), f(self.reached), f(self.horizon))


def first_step(
    condition: xr.DataArray, hold: int = 1, *, observed: xr.DataArray | None = None, dim: str = "step"
) -> EventTimes:
    """The first step at which a condition holds and stays for `hold` consecutive evaluations.

    Args:
        condition: bool with a dimension `step` (others, such as `seed`, are kept), e.g. `e.accuracy >= 0.95`.
            A comparison with NaN is False, so a run that diverges never reaches.
        hold: number of consecutive evaluations, the first included. A condition that begins to hold within
            the last `hold - 1` evaluations is not confirmed and counts as not reached.
        observed: bool, same dims: False where nothing was run (a part with fewer seeds or steps, an early
            stop), e.g. `e.step <= e.stopped_at`. By default every step was. It moves the horizon of a run to
            its last observed step; a run without any has no time (NaN, missing). Not for divergence: what
            diverged was run, and never reaches.
        dim: the dimension of steps.

    Returns:
        `EventTimes` in the units of the coordinate `step`. Never reached is right-censored at the horizon:
        `time` is the horizon, `reached` False. Times are as coarse as the evaluations: the true time lies in
        the interval that ends at the step reported.

    Raises:
        UserError: if `condition` is not bool or has no such dimension, or if `hold` is below 1.
    """
    if condition.dtype != bool:
        raise UserError(f"first_step takes a comparison (bool), got values of type {condition.dtype}.")
    if dim not in condition.dims:
        raise UserError(f"first_step takes a condition over {dim!r}, got dimensions {condition.dims}.")
    if hold < 1:
        raise UserError(f"hold takes a whole number from 1 on, got {hold}.")
    steps = condition[dim]
    if observed is None:
        seen = xr.ones_like(condition)
    else:
        seen = observed.astype(bool).broadcast_like(condition).transpose(*condition.dims)
    holds = condition & seen
    stays = holds
    for ahead in range(1, hold):
        stays = stays & holds.shift({dim: -ahead}, fill_value=False)
    reached = stays.any(dim)
    horizon = steps.where(seen).max(dim)
    time = steps.isel({dim: stays.argmax(dim)}).drop_vars(dim).where(reached, horizon)
    return EventTimes(time.astype(float), reached, horizon.astype(float))


def _censored(values: Any) -> Censored:
    if isinstance(values, Censored):
        return values
    if isinstance(values, EventTimes):
        return values.bounds()
    array = _array(values)
    never = xr.zeros_like(array, dtype=bool)
    return Censored(array, never, never)


# Intervals -------------------------------------------------------------------------------------------------


def mean_interval(values: Array | Censored | EventTimes, *, log: bool = False, level: float = 0.95) -> Interval:
    """Interval of the mean over seeds: Student's t below 20 seeds, BCa bootstrap from 20 on.

    t: `mean ± t(1 - (1 - level)/2; n - 1) s / sqrt(n)`. BCa: Efron (1987), "Better bootstrap confidence
    intervals", 9,999 resamples with a fixed seed, so that the same values always give the same interval.

    Args:
        values: one value per seed (a DataArray over one dimension, or a 1-D array), exact or censored.
        log: work on the log scale: interval of the geometric mean, the natural one for ratios and times.
        level: nominal coverage.

    NaN is missing: left out, and counted in `missing`. An infinite value makes the mean infinite (or NaN) and
    the interval unbounded. One seed says nothing about the spread: the interval is unbounded too. Without any
    spread between seeds the interval is the estimate alone (low = high), which is what such data say; it is
    no proof that the next seed would agree, least of all with few seeds.

    Censored values enter at their bound. What is estimated is then the *restricted mean*, of min(T, horizon)
    for lower bounds. It lies at or below the mean of T, so `low`, a lower limit for the restricted mean, also
    is one for the mean of T, and errs on the safe side of a claim "at least". The other side is not known:
    `high` is infinite. Upper bounds mirror this (`low` infinite); with both kinds the interval is unbounded.
    Clipped values are skewed, so with few seeds `low` is above the restricted mean more often than the
    nominal 2.5%, and with few values censored the distance to the mean of T does not make up for all of it
    (5 seeds, 30% censored: 3.9%; docs/statistics.md has the table).

    Raises:
        UserError: if there is no value at all, more than one dimension, or with `log` a value at or below 0.
    """
    x, lower, upper, missing = _per_seed(values, "mean_interval")
    method = "t" if x.size < BOOTSTRAP_FROM else "BCa"
    if log:
        x = _log(x, "mean_interval with log=True")
        method = f"log {method}"
    if x.size == 0:
        estimate, low, high = math.nan, -math.inf, math.inf
    elif not np.isfinite(x).all():
        with np.errstate(invalid="ignore"):
            estimate, low, high = float(x.mean()), -math.inf, math.inf
    else:
        estimate = float(x.mean())
        limits = _t_limits if x.size < BOOTSTRAP_FROM else _bca_limits
        low, high = (float(limit[0]) for limit in limits(x[None], level))
    if lower.any():
        high = math.inf
    if upper.any():
        low = -math.inf
    if lower.any() or upper.any():
        method += ", censored"
    if log:
        estimate, low, high = (float(np.exp(v)) for v in (estimate, low, high))
    return Interval(estimate, low, high, x.size, missing, method)


def _t_limits(samples: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Student's interval of the mean for each row of `samples`."""
    from scipy.special import stdtrit

    n = samples.shape[1]
    mean = samples.mean(1)
    if n == 1:
        return np.full_like(mean, -np.inf), np.full_like(mean, np.inf)
    # Equal values have no spread, whatever rounding says.
    spread = np.where(np.ptp(samples, 1) == 0, 0.0, samples.std(1, ddof=1))
    half = stdtrit(n - 1, 0.5 + level / 2) * spread / math.sqrt(n)
    return mean - half, mean + half


def _bca_limits(
    samples: np.ndarray, level: float, statistic: Callable[..., np.ndarray] = np.mean
) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected and accelerated interval of `statistic(rows, axis=1)` for each row of `samples`."""
    from scipy.special import ndtri

    estimate = statistic(samples, axis=1)
    resampled = np.sort(_resampled(samples, statistic), axis=1)
    count = resampled.shape[1]
    left_out = np.stack([statistic(np.delete(samples, i, axis=1), axis=1) for i in range(samples.shape[1])], axis=1)
    rounding = 1e-12 * np.ptp(samples, axis=1)  # ties of discrete data must stay ties
    position = _bca_positions(estimate, resampled, left_out, ndtri(_tails(level)), rounding)
    floor = position.astype(int)
    ceiling = np.minimum(floor + 1, count - 1)
    ends = np.take_along_axis(resampled, floor, 1)
    ends += (position - floor) * (np.take_along_axis(resampled, ceiling, 1) - ends)
    flat = np.ptp(samples, axis=1) == 0
    return np.where(flat, estimate, ends[:, 0]), np.where(flat, estimate, ends[:, 1])


def _tails(level: float) -> np.ndarray:
    return np.array([0.5 - level / 2, 0.5 + level / 2])


def _bca_positions(
    estimate: np.ndarray, resampled: np.ndarray, left_out: np.ndarray, z: np.ndarray, rounding: np.ndarray
) -> np.ndarray:
    """Where among the sorted `resampled` (rows, resamples) the two limits lie: (rows, 2), from 0.

    Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 14.3: bias correction from the
    share of resamples below the estimate (ties, within `rounding`, count half), acceleration from the
    jackknife (`left_out`: (rows, n)). `z` are the quantiles of the two tails.
    """
    from scipy.special import ndtr, ndtri

    count = resampled.shape[1]
    below = (resampled < (estimate - rounding)[:, None]).sum(1)
    not_above = (resampled <= (estimate + rounding)[:, None]).sum(1)
    bias = ndtri(np.clip((below + not_above) / (2 * count), 0.5 / count, 1 - 0.5 / count))[:, None]
    influence = left_out.mean(1, keepdims=True) - left_out
    with np.errstate(invalid="ignore", divide="ignore"):
        acceleration = (influence**3).sum(1) / (6 * (influence**2).sum(1) ** 1.5)
    acceleration = np.nan_to_num(acceleration)[:, None]  # no influence at all: no skewness to correct
    return ndtr(bias + (bias + z) / (1 - acceleration * (bias + z))) * (count - 1)


def _resampled(samples: np.ndarray, statistic: Callable[..., np.ndarray]) -> np.ndarray:
    """The statistic of every bootstrap resample, (rows, resamples); all rows share the resampled indices."""
    n = samples.shape[1]
    blocks = []
    for index in _indices(n):
        if statistic is np.mean:  # as a matrix product: how often each value was drawn
            drawn = np.zeros(index.shape)
            np.add.at(drawn, (np.arange(len(index))[:, None], index), 1 / n)
            blocks.append(samples @ drawn.T)
        else:
            blocks.append(statistic(samples[:, index], axis=2))
    return np.concatenate(blocks, axis=1)


def _indices(n: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(RESAMPLING_SEED)
    rows = max(1, 4_000_000 // n)  # 32 MB a block
    for start in range(0, RESAMPLES, rows):
        yield rng.integers(n, size=(min(rows, RESAMPLES - start), n))


def bootstrap_interval(
    statistic: Callable[[Any], Any],
    data: xr.Dataset | xr.DataArray,
    *,
    dim: str = "seed",
    level: float = 0.95,
    resamples: int | None = None,
) -> Interval:
    """Interval of any statistic of all seeds together, by resampling whole seeds.

    For what is no mean of per-seed values: a ratio of means, a correlation over the runs of all seeds, a
    crossing point of a mean curve. BCa (Efron, 1987) with the levels expanded for few seeds (Hesterberg, 2015,
    "What teachers should know about the bootstrap", section 3.4): a plain bootstrap of n seeds is too
    narrow by about the ratio of normal to Student quantiles and sqrt((n - 1) / n).

    Args:
        statistic: data -> number. Gets the data with seeds drawn with replacement, numbered from 0.
        data: whatever the statistic reads, with the dimension `dim`. Select the cells first: it is copied for
            every resample.
        level: nominal coverage.
        resamples: number of them, by default `SEED_RESAMPLES`; the random numbers are always the same.

    Resamples in which the statistic is NaN (an undefined correlation) are left out; where they are over a
    twentieth the interval is unbounded, as with fewer than three seeds.
    """
    from scipy.special import stdtrit

    n = data.sizes[dim]
    resamples = SEED_RESAMPLES if resamples is None else resamples
    data = data.assign_coords({dim: np.arange(n)})

    def value(index: np.ndarray) -> float:
        return float(statistic(data.isel({dim: index}).assign_coords({dim: np.arange(len(index))})))

    estimate = value(np.arange(n))
    method = "BCa over seeds"
    if math.isnan(estimate):
        return Interval(estimate, -math.inf, math.inf, 0, n, method)
    unbounded = Interval(estimate, -math.inf, math.inf, n, 0, method)
    if n < 3:
        return unbounded
    rng = np.random.default_rng(RESAMPLING_SEED)
    drawn = np.array([value(rng.integers(n, size=n)) for _ in range(resamples)])
    there = np.sort(drawn[~np.isnan(drawn)])
    if there.size < 0.95 * resamples:
        return unbounded
    if there[0] == there[-1]:
        return Interval(estimate, float(there[0]), float(there[0]), n, 0, method)
    left_out = np.array([value(np.delete(np.arange(n), i)) for i in range(n)])
    z = math.sqrt(n / (n - 1)) * stdtrit(n - 1, _tails(level))
    position = _bca_positions(
        np.array([estimate]), there[None], left_out[None], z, np.array([1e-12 * (1 + abs(estimate))])
    )[0]
    low, high = there[np.floor(position).astype(int)[0]], there[np.ceil(position).astype(int)[1]]
    return Interval(estimate, float(low), float(high), n, 0, method)


def median_interval(values: Array | EventTimes, *, level: float = 0.95) -> Interval:
    """Distribution-free interval of the median from order statistics.

    `[x(k), x(n+1-k)]` with the largest k for which `2 P(Binomial(n, 1/2) < k) <= 1 - level`; it covers the
    median of any continuous distribution at least at `level` (Conover, Practical Nonparametric Statistics,
    3.2). Below 6 seeds no k does at 95% and the interval is unbounded.

    Infinite values are fine: event times enter as infinite where they were never reached (which supposes one
    horizon for all runs), so that the median exists while fewer than half of the runs are censored.
    NaN is missing.
    """
    from scipy.special import bdtr

    x, _, _, missing = _per_seed(values.time_or_inf if isinstance(values, EventTimes) else values, "median_interval")
    x = np.sort(x)
    n = x.size
    if n == 0:
        return Interval(math.nan, -math.inf, math.inf, 0, missing, "order statistics")
    middle = x[[(n - 1) // 2, n // 2]]
    estimate = float(middle[0] if middle[0] == middle[1] else middle.mean())
    k = sum(2 * bdtr(j, n, 0.5) <= 1 - level for j in range(n // 2))
    low, high = (float(x[k - 1]), float(x[n - k])) if k else (-math.inf, math.inf)
    return Interval(estimate, low, high, n, missing, "order statistics")


def interquartile_mean(values: Array, *, level: float = 0.95) -> Interval:
    """Mean of the middle half, with its interval (Agarwal et al., 2021, "Deep RL at the edge of the
    statistical precipice").

    The estimate is the 25% trimmed mean of all values together, as `scipy.stats.trim_mean(values, 0.25)`. The
    interval for one value per seed is Tukey and McLaughlin's t for trimmed means (1963; winsorised variance,
    `n - 2 floor(n/4) - 1` degrees of freedom) below 20 seeds and BCa from 20 on. With further dimensions
    (tasks) the pool is all seeds of all tasks, and the interval is the percentile bootstrap stratified by
    task: each task's seeds are resampled on their own, as in the paper.

    NaN is missing: a seed with a NaN in any task is left out of all, and counted. Infinite values are trimmed
    away like others; if one is left in the middle half, estimate and interval are unbounded.

    Raises:
        UserError: if `values` has further dimensions but none called `seed`.
    """
    array = _array(values)
    array = array.squeeze([d for d in array.dims if d != "seed" and array.sizes[d] == 1], drop=True)
    if array.ndim > 1 and "seed" not in array.dims:
        raise UserError(f"interquartile_mean takes values over seed (and tasks), got {array.dims}.")
    seed = "seed" if "seed" in array.dims else (array.dims or ("seed",))[0]
    if array.ndim == 0:
        array = array.expand_dims("seed")
    x = array.transpose(seed, ...).to_numpy().reshape(array.sizes[seed], -1).astype(float)
    there = ~np.isnan(x).any(1)
    missing = int((~there).sum())
    x = x[there]
    n, tasks = x.shape
    if n == 0:
        return Interval(math.nan, -math.inf, math.inf, 0, missing, "IQM")
    estimate = float(_trimmed_mean(x.reshape(1, -1), axis=1)[0])
    if not math.isfinite(estimate) or not np.isfinite(_winsorised(x.ravel())).all():
        return Interval(estimate, -math.inf, math.inf, n, missing, "IQM")
    if tasks > 1:
        low, high = _stratified_percentiles(x, level)
        return Interval(estimate, low, high, n, missing, "IQM, stratified bootstrap")
    if n >= BOOTSTRAP_FROM:
        low, high = _bca_limits(x.T, level, _trimmed_mean)
        return Interval(estimate, float(low[0]), float(high[0]), n, missing, "IQM, BCa")
    from scipy.special import stdtrit

    kept = n - 2 * (n // 4)
    if kept < 2:
        return Interval(estimate, -math.inf, math.inf, n, missing, "IQM, trimmed t")
    spread = _winsorised(x[:, 0]).std(ddof=1) / (kept / n)
    half = float(stdtrit(kept - 1, 0.5 + level / 2) * spread / math.sqrt(n))
    return Interval(estimate, estimate - half, estimate + half, n, missing, "IQM, trimmed t")


def _trimmed_mean(x: np.ndarray, axis: int) -> np.ndarray:
    cut = x.shape[axis] // 4
    kept = np.arange(cut, x.shape[axis] - cut)
    return np.sort(x, axis=axis).take(kept, axis=axis).mean(axis=axis)


def _winsorised(x: np.ndarray) -> np.ndarray:
    ordered = np.sort(x)
    cut = x.size // 4
    return np.clip(x, ordered[cut], ordered[x.size - 1 - cut])


def _stratified_percentiles(x: np.ndarray, level: float) -> tuple[float, float]:
    n, tasks = x.shape
    rng = np.random.default_rng(RESAMPLING_SEED)
    rows = max(1, 2_000_000 // x.size)
    resampled = []
    for start in range(0, RESAMPLES, rows):
        index = rng.integers(n, size=(min(rows, RESAMPLES - start), n, tasks))
        drawn = x[index, np.arange(tasks)]
        resampled.append(_trimmed_mean(drawn.reshape(len(drawn), -1), axis=1))
    low, high = np.quantile(np.concatenate(resampled), [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def proportion_interval(
    successes: Any,
    n: Any,
    *,
    level: float = 0.95,
    method: Literal["clopper-pearson", "wilson"] = "clopper-pearson",
) -> Interval:
    """Interval of a proportion from `successes` in `n` independent trials.

    Clopper and Pearson (1934), "exact": covers at least at `level` whatever the proportion; beta quantiles
    `B(a/2; k, n-k+1)` and `B(1-a/2; k+1, n-k)`. Wilson (1927), shorter: covers at `level` on average over
    proportions, below it for some.

    Trials must be independent: runs of different seeds are; episodes of one trained agent are not independent
    draws of the method, and need `mean_interval` over the per-seed proportions.

    Raises:
        UserError: unless `0 <= successes <= n`, both whole, and `n >= 1`.
    """
    k, count = float(successes), float(n)
    if not (count >= 1 and 0 <= k <= count and k.is_integer() and count.is_integer()):
        raise UserError(f"proportion_interval takes whole 0 <= successes <= n, got {successes} of {n}.")
    if method == "wilson":
        low, high = _wilson(k, count, level)
        return Interval(k / count, low, high, int(count), 0, "Wilson")
    if method != "clopper-pearson":
        raise UserError(f"method takes 'clopper-pearson' or 'wilson', got {method!r}.")
    low, high = _clopper_pearson(k, count, level)
    return Interval(k / count, low, high, int(count), 0, "Clopper-Pearson")


def _wilson(k: float, n: float, level: float) -> tuple[float, float]:
    from scipy.special import ndtri

    z = float(ndtri(0.5 + level / 2))
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def _clopper_pearson(k: float, n: float | int, level: float) -> tuple[float, float]:
    from scipy.special import betaincinv

    tail = 0.5 - level / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high


def censored_comparison(
    a: Array | Censored | EventTimes, b: Array | Censored | EventTimes, *, level: float = 0.95
) -> Interval:
    """Win probability `P(a > b)` of values paired by seed, some of them censored: the interval of a sign
    test.

    Each seed scores 1 where `a > b` for certain, 0 where `a < b` for certain, and 1/2 for a tie or where
    censoring leaves it open (both arms never reached). An arm that never reached is above every time up to
    its horizon. The estimate is the mean score; the interval is Clopper and Pearson's at that many wins in n,
    so that without halves it excludes 1/2 exactly if the two-sided sign test rejects. Halves only narrow the
    distribution of the score, which keeps the interval conservative.

    It uses ranks alone: no assumption on the shape of the times or of the censoring beyond pairs being
    independent. The price is power: with n = 8 all eight pairs must agree (0.63 to 1), with 5 none can.

    NaN in either arm is missing.
    """
    first, second = _censored(a), _censored(b)
    wins, losses = _above(first, second), _above(second, first)
    there, there_too = _aligned(first.values, second.values)
    score = (0.5 + 0.5 * wins.astype(float) - 0.5 * losses.astype(float)).where(there.notnull() & there_too.notnull())
    x, _, _, missing = _per_seed(score, "censored_comparison")
    if x.size == 0:
        return Interval(math.nan, 0.0, 1.0, 0, missing, "paired wins")
    low, high = _clopper_pearson(float(x.sum()), float(x.size), level)
    return Interval(float(x.mean()), low, high, x.size, missing, "paired wins")


def _above(a: Censored, b: Censored) -> xr.DataArray:
    """Where a > b for certain. A bound is strict: what was not reached at the horizon is above the
    horizon."""
    x, y = _aligned(a.values, b.values)
    a_lower, b_lower = _aligned(a.is_lower_bound, b.is_lower_bound, fill=False)
    a_upper, b_upper = _aligned(a.is_upper_bound, b.is_upper_bound, fill=False)
    return ~a_upper & ~b_lower & ((x > y) | ((a_lower | b_upper) & (x >= y)))


def equivalent(interval: Interval, margin: Number, *, around: Number = 0.0) -> bool:
    """Whether the whole interval lies strictly within `around ± margin`.

    For a 95% interval these are two one-sided tests (Schuirmann, 1987) at 2.5% each. Not being different is
    not being equivalent: a wide interval is neither.

    Raises:
        UserError: if the margin is not above 0.
    """
    if not margin > 0:
        raise UserError(f"margin takes a number above 0, got {margin}.")
    return bool(around - margin < interval.low and interval.high < around + margin)


# Per-seed comparisons --------------------------------------------------------------------------------------


def paired_difference(a: Any, b: Any) -> Any:
    """`a - b` seed by seed.

    Arrays give a DataArray; event times or censored values give `Censored`. A seed that only one side has
    becomes NaN (missing) instead of vanishing; other coordinates must agree.

    Raises:
        UserError: if coordinates other than the seeds differ, or plain arrays have different lengths.
    """
    if isinstance(a, Censored | EventTimes) or isinstance(b, Censored | EventTimes):
        return _censored(a) - _censored(b)
    x, y = _aligned(_array(a), _array(b))
    return x - y


def ratio(a: Any, b: Any) -> Any:
    """`a / b` seed by seed, paired as in `paired_difference`; for `mean_interval(..., log=True)`.

    A zero denominator gives an infinite ratio, 0/0 a missing one.
    """
    if isinstance(a, EventTimes) and isinstance(b, EventTimes):
        return a / b
    x, y = _aligned(_array(a), _array(b))
    with np.errstate(divide="ignore", invalid="ignore"):
        return x / y


def log_ratio(a: Any, b: Any, base: Number = math.e) -> Any:
    """`log(a / b)` seed by seed to `base`, paired as in `paired_difference`; event times give `Censored`.

    Raises:
        UserError: if a value is at or below 0.
    """
    if isinstance(a, EventTimes) and isinstance(b, EventTimes):
        return a.log_ratio(b, base)
    x, y = _aligned(_array(a), _array(b))
    return (_log(x, "log_ratio") - _log(y, "log_ratio")) / math.log(base)


def gap_contrast(a_test: Any, a_train: Any, b_test: Any, b_train: Any) -> Any:
    """Difference of differences: generalization gap of a minus that of b, seed by seed.

    `(a_train - a_test) - (b_train - b_test)`; positive where a loses more from train to test than b. For
    losses, where higher is worse, exchange train and test.
    """
    return paired_difference(paired_difference(a_train, a_test), paired_difference(b_train, b_test))


def relative_error(measured: Any, exact: Any, *, signed: bool = False) -> xr.DataArray:
    """`|measured - exact| / |exact|`, or with its sign (positive: too large). 0 where both are 0, infinite
    where only `exact` is."""
    x, y = _aligned(_array(measured), _array(exact))
    error = x - y
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = (error / abs(y)).where(error != 0, error)
    return relative if signed else abs(relative)


# Trends within a seed --------------------------------------------------------------------------------------


def slope(x: Any, y: Any, dim: str, *, log: bool = False) -> xr.DataArray:
    """Slope of the least-squares line of `y` on `x` along `dim`, for each seed.

    Args:
        x: values over `dim`, e.g. `e.width` (a coordinate), or over `dim` and `seed`.
        y: values over `dim` and any other dimensions, which are kept.
        dim: the dimension to fit over.
        log: fit log y on log x: the exponent of a power law.

    NaN if any of the seed's points is NaN or infinite, or all its `x` are equal.

    Raises:
        UserError: with fewer than two points, or with `log` a value at or below 0.
    """
    x, y = _centred(x, y, dim, log, "slope")
    return _quotient((x * y).sum(dim, skipna=False), (x * x).sum(dim, skipna=False))


def r_squared(x: Any, y: Any, dim: str, *, log: bool = False) -> xr.DataArray:
    """Share of the variance of `y` that its least-squares line on `x` explains (the squared correlation), for
    each seed; arguments as in `slope`. NaN if `x` or `y` is constant."""
    x, y = _centred(x, y, dim, log, "r_squared")
    return _correlation(x, y, dim) ** 2


def coefficient_of_determination(observed: Any, predicted: Any, dim: str) -> xr.DataArray:
    """`1 - SSE/SST` of given predictions, for each seed: 1 is perfect, 0 no better than the mean, negative
    worse. NaN if any point is, or if `observed` is constant."""
    observed, predicted = _joined(observed, predicted, dim, "coefficient_of_determination")
    error = ((observed - predicted) ** 2).sum(dim, skipna=False)
    return 1 - _quotient(error, _sum_of_squares(_centre(observed, dim), dim))


def spearman(x: Any, y: Any, dim: str) -> xr.DataArray:
    """Spearman's rank correlation of `x` and `y` along `dim`, for each seed.

    Pearson's correlation of ranks, ties at their average rank, as `scipy.stats.spearmanr`. Infinite values
    rank first or last. NaN if any of the seed's points is NaN, or if `x` or `y` is constant.

    Raises:
        UserError: with fewer than two points.
    """
    x, y = _joined(x, y, dim, "spearman")
    return xr.apply_ufunc(_rank_correlation, x, y, input_core_dims=[[dim], [dim]])


def partial_spearman(x: Any, y: Any, given: Any, dim: str) -> xr.DataArray:
    """Rank correlation of `x` and `y` along `dim` with the ranks of `given` held fixed, for each seed.

    `(r_xy - r_xz r_yz) / sqrt((1 - r_xz²)(1 - r_yz²))` of Spearman's r. With `given` the step, what is left
    when both merely drift with training time. NaN where `given` explains one of the two fully.
    """
    xy, xz, yz = spearman(x, y, dim), spearman(x, given, dim), spearman(y, given, dim)
    unexplained = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / np.sqrt(unexplained.where(unexplained > 1e-12))


def kendall(x: Any, y: Any, dim: str) -> xr.DataArray:
    """Kendall's tau-b of `x` and `y` along `dim`, for each seed, as `scipy.stats.kendalltau`.

    Infinite values are ranked. NaN if any of the seed's points is NaN, or if `x` or `y` is constant.

    Raises:
        UserError: with fewer than two points.
    """
    x, y = _joined(x, y, dim, "kendall")
    x, y = _signs(x, dim), _signs(y, dim)
    return _correlation(x, y, "pair")


def monotone_trend(y: Any, dim: str) -> xr.DataArray:
    """How far `y` rises along the given order of `dim`, for each seed: from -1 (strictly falls) to 1
    (strictly rises).

    Concordant minus discordant pairs over all pairs (Kendall's tau-a against the order of conditions, Mann's
    1945 trend statistic). Pairs with equal `y` count nothing, so a constant `y` has trend 0. With
    `mean_interval` over seeds it is the blocked form of Jonckheere's test: order is compared within a seed,
    where runs are paired, and seeds are the replicates.

    NaN if any of the seed's points is NaN. Infinite values are ranked.

    Raises:
        UserError: with fewer than two conditions.
    """
    y = y.time_or_inf if isinstance(y, EventTimes) else _array(y)
    _check_points(y, dim, "monotone_trend")
    return _signs(y, dim).mean("pair", skipna=False)


def logistic_crossing(x: Any, y: Any, dim: str, *, level: Number = 0.5, log: bool = False) -> xr.DataArray:
    """Where along `x` a fitted logistic curve of `y` crosses `level`, for each seed.

    `1 / (1 + exp(-(a + b z)))` by binomial likelihood, z the standardised x, with a penalty of `0.001 b²` that
    only matters where the points jump from 0 to 1: the crossing is then near the middle of the jump.

    Args:
        x: values over `dim`, or over `dim` and `seed`.
        y: shares or accuracies in [0, 1] over `dim` and any other dimensions, which are kept.
        dim: the dimension to fit over.
        level: the height in (0, 1) to cross.
        log: fit over log x (and return x).

    NaN if any of the seed's points is, if the curve crosses outside of the range of `x`, or if it is flat.

    Raises:
        UserError: with fewer than two points, with `y` outside [0, 1], or with `log` and an x at or below 0.
    """
    x, y = _joined(x, y, dim, "logistic_crossing")
    if float(y.min()) < 0 or float(y.max()) > 1:
        raise UserError(f"logistic_crossing takes y from 0 to 1, got {float(y.min())} to {float(y.max())}.")
    z = _log(x, "logistic_crossing with log=True") if log else x

    def fit(z: np.ndarray, y: np.ndarray) -> float:
        if np.isnan(z).any() or np.isnan(y).any() or np.ptp(z) == 0 or np.ptp(y) == 0:
            return math.nan
        centre, scale = z.mean(), z.std()
        design = np.stack([np.ones_like(z), (z - centre) / scale], axis=1)
        weights = np.zeros(2)
        for _ in range(200):  # Newton's method, steps cut where they would overshoot
            share = 1 / (1 + np.exp(-np.clip(design @ weights, -50, 50)))
            slope = design.T @ (y - share) - np.array([0.0, 2e-3]) * weights
            curvature = (design.T * (share * (1 - share))) @ design + np.diag([1e-9, 2e-3])
            step = np.linalg.solve(curvature, slope)
            step *= min(1.0, 2.0 / np.abs(step).max()) if np.abs(step).max() > 0 else 1.0
            weights = weights + step
            if np.abs(step).max() < 1e-9:
                break
        if abs(weights[1]) < 1e-9:
            return math.nan
        at = (math.log(level / (1 - level)) - weights[0]) / weights[1] * scale + centre
        return float(at) if z.min() <= at <= z.max() else math.nan

    at = xr.apply_ufunc(fit, *xr.broadcast(z, y), input_core_dims=[[dim], [dim]], vectorize=True)
    return np.exp(at) if log else at


# Shapes of a distribution ----------------------------------------------------------------------------------


def gini(values: Any, dim: str) -> xr.DataArray:
    """Gini coefficient of non-negative values along `dim`, for each seed: 0 where all are equal, towards 1 where
    one holds all. NaN where any is, or all are 0.

    Raises:
        UserError: if a value is negative.
    """
    x = _array(values, dim)
    if float(x.min()) < 0:
        raise UserError(f"gini takes values from 0 on, got {float(x.min())}.")
    n = x.sizes[dim]
    return _quotient((_ranks(x, dim) * 2 - n - 1).dot(x, dim), n * x.sum(dim, skipna=False))


def roc_auc(scores: Any, positive: Any, dim: str) -> xr.DataArray:
    """Area under the ROC curve of `scores` for telling `positive` from the others along `dim`, for each seed.

    The share of (positive, other) pairs in which the positive one has the larger score, ties counting half.
    Infinite scores are ranked. NaN where a score is, or one of the two sides is empty.
    """
    scores, positive = _joined(scores, positive, dim, "roc_auc")
    here = positive.sum(dim)
    others = positive.sizes[dim] - here
    return _quotient((_ranks(scores, dim) * positive).sum(dim, skipna=False) - here * (here + 1) / 2, here * others)


def _ranks(x: xr.DataArray, dim: str) -> xr.DataArray:
    from scipy.stats import rankdata

    ranks = xr.apply_ufunc(lambda v: rankdata(v, axis=-1), x, input_core_dims=[[dim]], output_core_dims=[[dim]])
    return ranks.where(~x.isnull().any(dim))


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray | np.floating:
    """Correlation of the ranks along the last axis. In NumPy: intervals call it thousands of times."""
    from scipy.stats import rankdata

    middle = (x.shape[-1] + 1) / 2
    return _cosine(rankdata(x, axis=-1) - middle, rankdata(y, axis=-1) - middle)


def _signs(x: xr.DataArray, dim: str) -> xr.DataArray:
    """Signs of the differences of all pairs of points, over a new dimension `pair`."""
    i, j = np.triu_indices(x.sizes[dim], 1)
    bare = x.drop_vars(dim, errors="ignore")
    first, second = (bare.isel({dim: xr.DataArray(k, dims="pair")}) for k in (i, j))
    signs = (second > first).astype(float) - (second < first).astype(float)
    return signs.where(~x.isnull().any(dim))


def _centred(x: Any, y: Any, dim: str, log: bool, name: str) -> tuple[xr.DataArray, xr.DataArray]:
    x, y = _joined(x, y, dim, name)
    if log:
        x, y = _log(x, f"{name} with log=True"), _log(y, f"{name} with log=True")
    usable = (np.isfinite(x) & np.isfinite(y)).all(dim)
    return _centre(x.where(usable), dim), _centre(y.where(usable), dim)


def _joined(x: Any, y: Any, dim: str, name: str) -> tuple[xr.DataArray, xr.DataArray]:
    """`x` and `y` on the same dims."""
    x, y = (v.time_or_inf if isinstance(v, EventTimes) else _array(v, dim) for v in (x, y))
    x, y = xr.broadcast(*_aligned(x, y))
    _check_points(y, dim, name)
    x, y = x.transpose(..., dim), y.transpose(..., dim)
    empty = np.isnan(x.to_numpy()).any(-1, keepdims=True) | np.isnan(y.to_numpy()).any(-1, keepdims=True)
    if empty.any():
        x, y = (v.copy(data=np.where(empty, np.nan, v.to_numpy())) for v in (x, y))
    return x, y


def _check_points(y: xr.DataArray, dim: str, name: str) -> None:
    if dim not in y.dims:
        raise UserError(f"{name} takes values over {dim!r}, got dimensions {y.dims}.")
    if y.sizes[dim] < 2:
        raise UserError(f"{name} takes two points or more along {dim!r}, got {y.sizes[dim]}.")


def _centre(x: xr.DataArray, dim: str) -> xr.DataArray:
    constant = x.max(dim, skipna=False) == x.min(dim, skipna=False)  # the mean may be off by a rounding error
    return (x - x.mean(dim, skipna=False)).where(~constant, 0.0)


def _sum_of_squares(x: xr.DataArray, dim: str) -> xr.DataArray:
    return (x * x).sum(dim, skipna=False)


def _correlation(x: xr.DataArray, y: xr.DataArray, dim: str) -> xr.DataArray:
    """Cosine of `x` and `y`: the correlation if both are centred."""
    return xr.apply_ufunc(_cosine, x, y, input_core_dims=[[dim], [dim]])


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray | np.floating:
    """Along the last axis; NaN where one side has no length."""
    lengths = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.clip((x * y).sum(-1) / np.where(lengths == 0, np.nan, lengths), -1, 1)


def _quotient(numerator: xr.DataArray, denominator: xr.DataArray) -> xr.DataArray:
    return numerator / denominator.where(denominator != 0)


# Arrays ----------------------------------------------------------------------------------------------------


def _array(values: Any, dim: str = "seed") -> xr.DataArray:
    """`values` as floats in a DataArray; a bare 1-D array lies over `dim`."""
    if isinstance(values, xr.DataArray):
        return values.astype(float)
    array = np.asarray(values, dtype=float)
    if array.ndim > 1:
        raise UserError(f"an array without named dimensions takes one dimension, got {array.ndim}.")
    return xr.DataArray(array, dims=(dim,)[: array.ndim])


def _per_seed(values: Any, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Values that exist, where they are lower and upper bounds, and the number that are missing."""
    censored = _censored(values)
    array = censored.values
    array = array.squeeze([d for d in array.dims if d != "seed" and array.sizes[d] == 1], drop=True)
    if array.ndim > 1:
        raise UserError(f"{name} takes one value per seed, got {array.dims}; select or average the others first.")
    x = np.atleast_1d(array.to_numpy())
    if x.size == 0:
        raise UserError(f"{name} takes one value or more, got none.")
    there = ~np.isnan(x)
    lower, upper = (
        np.broadcast_to(bound.to_numpy().reshape(-1), x.shape)[there]
        for bound in (censored.is_lower_bound, censored.is_upper_bound)
    )
    return x[there], lower, upper, int((~there).sum())


def _log(x: Any, name: str) -> Any:
    bad = x <= 0
    if bad.any():
        raise UserError(f"{name} takes values above 0, got {float(x.min())}.")
    return np.log(x)


def _aligned(a: xr.DataArray, b: xr.DataArray, fill: Any = np.nan) -> tuple[xr.DataArray, xr.DataArray]:
    """Both on the union of their seeds, filled where one lacks a seed; all other coordinates must agree."""
    others = [d for d in {*a.dims, *b.dims} if d != "seed"]
    try:
        a, b = xr.align(a, b, join="outer", exclude=others, fill_value=fill)
        a, b = xr.align(a, b, join="exact")
    except ValueError as error:
        raise UserError(
            f"a comparison takes the same coordinates on both sides (seeds apart), got {dict(a.sizes)} "
            f"and {dict(b.sizes)} with different values or sizes."
        ) from error
    return a, b
