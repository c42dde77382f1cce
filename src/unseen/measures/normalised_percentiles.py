"""Progress over many incomparable tasks: percentiles of scores in units of the best known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def normalised_by_best(
    score: Float[np.ndarray, "*runs tasks"], best: Float[np.ndarray, " tasks"] | None = None
) -> Float[np.ndarray, "*runs tasks"]:
    """Scores in units of the best in each task (by default over all runs given; NaN counts as a run not made), cut off
    at 1. Where the best is 0 or less nobody can be told apart: the score is NaN."""
    unit = np.nanmax(score.reshape(-1, score.shape[-1]), axis=0) if best is None else np.asarray(best)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(unit > 0, np.minimum(score / unit, 1), np.nan)


def normalised_percentiles(
    score: Float[np.ndarray, "*runs tasks"],
    best: Float[np.ndarray, " tasks"] | None = None,
    percentiles: Sequence[float | int] = (10, 20, 50),
) -> Float[np.ndarray, "*runs percentiles"]:
    """Percentiles over tasks of normalised scores, linear between tasks; a run with NaN scores has NaN.

    Returns of different games cannot be averaged; that of two policies one is better at every percentile can be said.
    Tasks in which nobody ever scored (best 0) count for nobody and are left out.

    Args:
        score: returns, 0 or more.
        best: the best known in each task; by default the best of all runs given.

    Source: Open-Ended Learning Team (2021), normalised percentiles, with the best score of any run where
    they have an equilibrium value of a pool of policies.
    """
    normalised = normalised_by_best(score, best)
    known = ~np.isnan(normalised.reshape(-1, normalised.shape[-1])).all(0)
    if not known.any():
        return np.full((*score.shape[:-1], len(percentiles)), np.nan)
    return np.moveaxis(np.percentile(normalised[..., known], list(percentiles), axis=-1), 0, -1)
