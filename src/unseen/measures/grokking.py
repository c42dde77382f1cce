"""Measures of delayed generalization, read from evidence, and their closed form for linear students."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from unseen.lab.errors import UserError
from unseen.lab.statistics import Censored, EventTimes, first_step
from unseen.worlds.clusters.teacher import expected_losses, marchenko_pastur

Scalar = float | Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class GrokkingTimes:
    """What a `GrokkingClock` reads off.

    Attributes:
        fit: steps at which the training set is fitted.
        generalise: steps at which the held-out examples are right.
        rise: steepness of the test accuracy's rise, in accuracy per decade of steps: from half the threshold
            to the threshold, over the log10 of the time between; NaN where a run does not get there, infinite
            where it takes less than one evaluation.
    """

    fit: EventTimes
    generalise: EventTimes
    rise: xr.DataArray

    @property
    def delay(self) -> Censored:
        """log10(generalise / fit) per run; a run that does not generalise gives a lower bound."""
        return self.generalise.log_ratio(self.fit, base=10)

    def sel(self, **indexers: Any) -> GrokkingTimes:
        """Select conditions by coordinate, as `xarray.DataArray.sel`."""
        return GrokkingTimes(self.fit.sel(**indexers), self.generalise.sel(**indexers), self.rise.sel(**indexers))


@dataclasses.dataclass(frozen=True)
class GrokkingClock:
    """When a run fits, when it generalises, and how long it waits in between.

    A threshold counts as reached at the first of `hold` consecutive evaluations at or above it. Runs that do
    not get there are right-censored at their horizon and carried as such.

    Attributes:
        train, test: accuracy thresholds in (0, 1].
        hold: evaluations at which the accuracy must stay.
    """

    train: float = 0.99
    test: float = 0.95
    hold: int = 3

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name} takes a threshold above 0 and up to 1, got {getattr(self, name)}.")

    def read(self, train_accuracy: xr.DataArray, test_accuracy: xr.DataArray) -> GrokkingTimes:
        """Times of all runs.

        Args:
            train_accuracy, test_accuracy: dims (..., step), with steps as the coordinate. Cells in which
                nothing was run (all NaN) have no time.
        """
        fit, generalise, half = (
            first_step(accuracy >= threshold, hold=self.hold, observed=_was_run(accuracy))
            for accuracy, threshold in (
                (train_accuracy, self.train),
                (test_accuracy, self.test),
                (test_accuracy, self.test / 2),
            )
        )
        decades = xr.DataArray(np.log10(generalise.time / half.time))
        rise = (self.test / 2 / decades).where(generalise.reached)
        return GrokkingTimes(fit, generalise, rise)


def steps_to_generalise_curve(times: EventTimes) -> xr.Dataset:
    """Steps to generalise against a condition: the median over seeds and how many runs are censored.

    Args:
        times: dims (condition, seed), for instance `clock.read(...).generalise`.

    Returns:
        median: over seeds, censored runs counted as later than all others; infinite if half of them are.
        censored: number of runs that did not get there.
        runs: number of runs.
    """
    time = times.time_or_inf
    return xr.Dataset(
        {
            "median": time.median("seed"),
            "censored": (time == np.inf).sum("seed"),
            "runs": time.notnull().sum("seed"),
        }
    )


def tolerance_accuracy(loss: Float[Array, "*times"], tolerance: Scalar, outputs: int = 1) -> Float[Array, "*times"]:
    """Share of examples whose squared error, averaged over the outputs, is at most `tolerance`, for Gaussian
    errors of variance `loss` in each output: P(chi^2_m <= m tolerance / loss), for one output
    erf(sqrt(tolerance / (2 loss))).

    Source: Levi et al. (2023, arXiv 2310.16441), equations 10 (section 3.1.2) and 13 (section 3.2).
    """
    half = jnp.asarray(outputs / 2)
    return jax.scipy.special.gammainc(half, half * tolerance / jnp.maximum(loss, jnp.finfo(float).tiny))


def grokking_time_linear(
    updates: Float[Array, " times"],
    rate: Scalar,
    *,
    ratio: Scalar,
    tolerance: Scalar,
    outputs: int = 1,
    decay: Scalar = 0.0,
    teacher: Scalar = 1.0,
    initial: Scalar = 1.0,
    level: float = 0.95,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Updates after which a linear student of a linear teacher reaches an accuracy, in training and on fresh
    inputs; their difference is the predicted delay.

    From the Marchenko-Pastur law alone: no data and no training. Linear interpolation in the logarithm of
    the updates between the given ones; infinite where the level is not reached by the last of them.

    Args:
        updates: increasing numbers of updates at which the curves are computed.
        rate, ratio, decay, teacher, initial: as in `expected_losses`.
        tolerance, outputs: as in `tolerance_accuracy`.
        level: the accuracy.

    Source: Levi et al. (2023, arXiv 2310.16441), section 3.1.3, solved numerically as for its figures; its
    equation 12 is the limit of a vanishing tolerance without decay.
    """
    losses = expected_losses(
        marchenko_pastur(ratio), updates, rate, ratio=ratio, decay=decay, teacher=teacher, initial=initial
    )
    train, test = tolerance_accuracy(jnp.stack(losses), tolerance, outputs)
    return _crossing(updates, train, level), _crossing(updates, test, level)


def _crossing(times: Float[Array, " times"], values: Float[Array, " times"], level: float) -> Float[Array, ""]:
    """The first time at which values reach a level, interpolated in log time; infinite if they do not."""
    there = values >= level
    after = jnp.argmax(there)
    before = jnp.maximum(after - 1, 0)
    step = values[after] - values[before]
    share = jnp.where(step > 0, (level - values[before]) / jnp.where(step > 0, step, 1), 0.0)
    log_before, log_after = jnp.log1p(times[before]), jnp.log1p(times[after])
    time = jnp.expm1(log_before + share * (log_after - log_before))
    return jnp.where(there.any(), time, jnp.inf)


def _was_run(values: xr.DataArray) -> xr.DataArray:
    """Cells with any value at all: a run that diverges was run up to its horizon."""
    return values.notnull().any("step") & xr.ones_like(values, dtype=bool)
