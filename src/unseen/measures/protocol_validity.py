"""Error rates of a behavioural instrument, and intervals for designs with crossed factors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from unseen.lab import UserError
from unseen.lab.interval import Interval
from unseen.lab.statistics import proportion_interval


def mean_test(values: Float[Array, " items"], level: float = 0.05) -> Bool[Array, ""]:
    """Whether the mean of `values` lies above 0: one-sided t-test at `level`; traceable.

    Values that are all the same and above 0 count as found, all the same and not above 0 as not found.
    """
    n = values.shape[0]
    mean, deviation = values.mean(), values.std(ddof=1)
    from scipy.stats import t as student

    return mean * math.sqrt(n) > float(student.ppf(1 - level, n - 1)) * deviation


@dataclasses.dataclass(frozen=True)
class ProtocolValidity:
    """What an instrument's test finds in subjects whose behaviour is known.

    Attributes:
        power: share of replicates found with the planted behaviour at the smallest effect of interest.
        false_positives: share found in the null subject.
        decoys: share found in each subject that looks alike for another reason.
    """

    power: Interval
    false_positives: Interval
    decoys: Mapping[str, Interval]
    power_bound: float = 0.80
    false_positive_bound: float = 0.075
    decoy_bound: float = 0.10

    @classmethod
    def of(
        cls,
        planted: tuple[int | float, int | float],
        null: tuple[int | float, int | float],
        decoys: Mapping[str, tuple[int | float, int | float]],
        **bounds: float,
    ) -> ProtocolValidity:
        """From (replicates found, replicates run) of each subject, with Clopper-Pearson intervals.

        Example:
            >>> ProtocolValidity.of((290, 300), (48, 1000), {"position habit": (12, 300)}).valid
            True
        """
        return cls(
            proportion_interval(*planted),
            proportion_interval(*null),
            {name: proportion_interval(*counts) for name, counts in decoys.items()},
            **bounds,
        )

    @property
    def valid(self) -> bool:
        """All intervals lie on the right side of their bounds."""
        return (
            self.power.low > self.power_bound
            and self.false_positives.high < self.false_positive_bound
            and all(rate.high < self.decoy_bound for rate in self.decoys.values())
        )

    @property
    def invalid(self) -> bool:
        """Some interval lies wholly on the wrong side of its bound."""
        return (
            self.power.high < self.power_bound
            or self.false_positives.low > self.false_positive_bound
            or any(rate.low > self.decoy_bound for rate in self.decoys.values())
        )

    @property
    def margin(self) -> Interval:
        """The part that is nearest to failing: distance to its bound as a share of the bound's room, above 0 when on
        the right side."""
        parts = [_shift(self.power, self.power_bound, 1 - self.power_bound)]
        parts.append(_shift(self.false_positives, self.false_positive_bound, -self.false_positive_bound))
        parts += [_shift(rate, self.decoy_bound, -self.decoy_bound) for rate in self.decoys.values()]
        return min(parts, key=lambda part: part.low)

    def __str__(self) -> str:
        decoys = ", ".join(f"{name} {rate}" for name, rate in self.decoys.items())
        return f"power {self.power}, false positives {self.false_positives}, decoys {decoys}"


def _shift(rate: Interval, bound: float, room: float) -> Interval:
    ends = sorted(((rate.low - bound) / room, (rate.high - bound) / room))
    return Interval((rate.estimate - bound) / room, ends[0], ends[1], rate.n, rate.missing, rate.method)


def power_curve(
    found: Callable[[PRNGKeyArray, Float[Array, ""]], Bool[Array, ""]],
    effects: Sequence[float],
    replicates: int,
    key: PRNGKeyArray,
) -> Float[Array, " effects"]:
    """Power of a test at each effect, by simulation.

    Args:
        found: (key, effect) -> whether the test finds it; traceable.
        effects: planted sizes.
        replicates: simulated experiments for each.
        key: randomness; shared between the effects.
    """
    keys = jax.random.split(key, replicates)
    over_keys = jax.vmap(found, (0, None))
    return jax.lax.map(lambda effect: over_keys(keys, effect).mean(), jnp.asarray(effects, float))


def smallest_detectable(effects: Sequence[float], power: Sequence[float] | Any, target: float = 0.8) -> float:
    """The smallest effect at which power reaches `target`, linear between the points; infinite if none does."""
    at, reached = np.asarray(effects, float), np.asarray(power, float)
    if not (reached >= target).any():
        return math.inf
    i = int(np.argmax(reached >= target))
    if i == 0:
        return float(at[0])
    share = (target - reached[i - 1]) / (reached[i] - reached[i - 1])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))


def crossed_bootstrap(
    values: xr.DataArray,
    over: Sequence[str] | None = None,
    *,
    draws: int = 5_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of a design whose factors (items, wordings, subjects) are all samples, with a percentile interval.

    Each factor's levels are resampled with replacement, independently of the other factors' (the "pigeonhole"
    bootstrap of crossed random effects: McCullagh, 2000; Owen, 2007). Pair conditions by item before: pass
    differences.

    Args:
        values: one number for each cell, one dimension a factor. NaN is an empty cell (the design is a fraction).
        over: the factors to resample, by default all.
        draws: number of resamples.
        level: of the interval.
        seed: of the resampling.

    Raises:
        UserError: if a dimension with several levels is not in `over` (an interval over items alone says nothing
            about other wordings and is too short), or if a resampled factor has one level only.
    """
    factors = list(map(str, values.dims)) if over is None else list(over)
    for name in map(str, values.dims):
        if name not in factors and values.sizes[name] > 1:
            raise UserError(f"crossed_bootstrap takes every factor that varies in over; {name!r} is missing.")
    for name in factors:
        if values.sizes.get(name, 0) < 2:
            raise UserError(f"crossed_bootstrap takes factors of two levels or more, got {name!r}.")
    rng = np.random.default_rng(seed)
    cells = values.transpose(*factors, ...).values.reshape([values.sizes[name] for name in factors])
    held = np.isfinite(cells)
    total, weight = np.where(held, cells, 0.0)[None], held.astype(float)[None]
    for size in cells.shape:  # contract one factor after the other with its multiplicities
        times = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(float)
        if total.shape[0] == 1:
            total, weight = (np.tensordot(times, x[0], axes=(1, 0)) for x in (total, weight))
        else:
            total, weight = (np.einsum("bi,bi...->b...", times, x) for x in (total, weight))
    with np.errstate(invalid="ignore"):
        means = total / weight
    tail = (1 - level) / 2
    low, high = np.nanquantile(means, [tail, 1 - tail]) if held.any() else (math.nan, math.nan)
    estimate = float(cells[held].mean()) if held.any() else math.nan
    return Interval(estimate, float(low), float(high), int(held.sum()), int(not held.any()), "crossed bootstrap")


def holm(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """p-values adjusted for the number of tests (Holm, 1979): reject those at most the level."""
    order = np.argsort(p_values)
    n = len(p_values)
    stepped = np.maximum.accumulate(np.minimum(1.0, np.asarray(p_values)[order] * (n - np.arange(n))))
    adjusted = np.empty(n)
    adjusted[order] = stepped
    return adjusted
