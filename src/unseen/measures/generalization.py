"""How well trained policies do over regions of contexts, tasks or levels, on one scale."""

from __future__ import annotations

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from unseen.lab import UserError


def normalised_return(returns, random, reference):
    """`(R - R_random) / (R_reference - R_random)`: 0 is a random policy, 1 the reference that the study names.

    Works on floats, NumPy and JAX arrays, and on DataArrays (aligned by coordinate).
    """
    return (returns - random) / (reference - random)


def best_observed(returns: xr.DataArray, over: str | list[str]) -> xr.DataArray:
    """The best return that any policy of a set reached in each task: a reference where the optimum is unknown."""
    return returns.max(over)


class GeneralizationMatrix:
    """Returns of policies (rows, by the region that they were trained on) on test tasks (columns), normalised.

    Example:
        >>> returns, ones = np.array([[9.0, 5.0], [1.0, 7.0]]), np.ones(2)
        >>> m = GeneralizationMatrix(returns, random=ones, reference=9 * ones)
        >>> m.scores.tolist()
        [[1.0, 0.5], [0.0, 0.75]]
        >>> m.gap(train=np.array([True, False])).tolist()  # training tasks minus the others
        [0.5, -0.75]

    Attributes:
        returns: `R[i, j]`, return of policy i on task j.
        random, reference: returns of a random and of the reference policy on each task.

    Raises:
        UserError: if some reference is not better than random: such a task has no scale.
    """

    def __init__(
        self,
        returns: Float[np.ndarray, "policies tasks"],
        random: Float[np.ndarray, " tasks"],
        reference: Float[np.ndarray, " tasks"],
    ):
        self.returns, self.random, self.reference = returns, random, reference
        if worse := np.flatnonzero(~(self.reference > self.random)).tolist():
            raise UserError(f"reference takes returns above random ones, got none above at tasks {worse}.")

    @property
    def scores(self) -> Float[np.ndarray, "policies tasks"]:
        """Normalised returns."""
        return normalised_return(self.returns, self.random, self.reference)

    def gap(
        self, train: Bool[np.ndarray, "policies tasks"] | Bool[np.ndarray, " tasks"]
    ) -> Float[np.ndarray, " policies"]:
        """Mean score on a policy's training tasks minus its mean score on the others.

        Args:
            train: the training tasks, one row for all policies or one each.
        """
        mask = np.broadcast_to(train, self.scores.shape)
        inside = np.where(mask, self.scores, 0).sum(1) / mask.sum(1)
        outside = np.where(mask, 0, self.scores).sum(1) / (~mask).sum(1)
        return inside - outside

    def interquartile_mean(self) -> Float[np.ndarray, " policies"]:
        """25% trimmed mean over tasks (Agarwal et al., 2021)."""
        from scipy.stats import trim_mean

        return trim_mean(self.scores, 0.25, axis=1)

    def percentiles(self, levels: tuple[float | int, ...] = (10, 20, 50)) -> Float[np.ndarray, "levels policies"]:
        """Percentiles of the score over tasks: how bad it gets."""
        return np.percentile(self.scores, levels, axis=1)

    def share_with_reward(self) -> Float[np.ndarray, " policies"]:
        """Share of tasks in which a policy gets any reward at all (an undiscounted return above zero)."""
        return (self.returns > 0).mean(1)


def forgetting(scores: Float[np.ndarray, "stages tasks"]) -> Float[np.ndarray, " tasks-1"]:
    """For a sequence of tasks, `scores[i, j]` on task j after training on the i-th: the best score before the end
    minus the last one, for every task but the last (Chaudhry et al., 2018, equation 3)."""
    return np.array([scores[j:-1, j].max() - scores[-1, j] for j in range(scores.shape[1] - 1)])


def forward_transfer(
    scores: Float[np.ndarray, "stages tasks"], untrained: Float[np.ndarray, " tasks"]
) -> Float[np.ndarray, " tasks-1"]:
    """Score on each task but the first just before it is trained on, minus an untrained policy's score
    (Lopez-Paz and Ranzato, 2017, equation 4)."""
    return np.array([scores[j - 1, j] - untrained[j] for j in range(1, scores.shape[1])])
