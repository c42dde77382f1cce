"""Measures of delayed generalization, read from evidence, and their closed form for linear students."""

from __future__ import annotations

import dataclasses

import numpy as np
import xarray as xr

from unseen.lab.errors import UserError
from unseen.lab.statistics import Censored, EventTimes, first_step


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

    def sel(self, **indexers: object) -> GrokkingTimes:
        """Select conditions by coordinate, as `xarray.DataArray.sel`."""
        fit, generalise, rise = (x.sel(**indexers) for x in (self.fit, self.generalise, self.rise))
        return GrokkingTimes(fit, generalise, rise)


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
        decades = np.log10(generalise.time / half.time)
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


def _was_run(values: xr.DataArray) -> xr.DataArray:
    """Cells with any value at all: a run that diverges was run up to its horizon."""
    return values.notnull().any("step") & xr.ones_like(values, dtype=bool)
