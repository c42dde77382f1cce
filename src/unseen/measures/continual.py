"""What a learner keeps, learns and transfers along a sequence of tasks."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unseen.lab import UserError


class ContinualSequence:
    """Scores on tasks that are learned one after the other, as numbers about keeping and learning.

    Example:
        >>> told = ContinualSequence(np.array([[0.9, 0.0], [0.4, 0.8]]))
        >>> told.learned.tolist(), told.forgotten.tolist(), round(float(told.average), 2)
        ([0.9, 0.8], [0.5], 0.6)

    Attributes:
        scores: `[..., i, j]` on the j-th task of the sequence after the training on the i-th.

    Raises:
        UserError: if there is not one row a task.

    Source: Wolczyk et al., "Continual World" (2021), whose forgetting is counted from the end of a task's own phase.
        `unseen.measures.forgetting` takes the best score until the end instead.
    """

    def __init__(self, scores: Float[np.ndarray, "*batch stages tasks"]):
        if scores.shape[-1] != scores.shape[-2]:
            raise UserError(f"scores takes as many rows as columns, got {scores.shape[-2]} and {scores.shape[-1]}.")
        self.scores = scores

    @property
    def learned(self) -> Float[np.ndarray, "*batch tasks"]:
        """Score on each task at the end of its own phase: plasticity."""
        return np.diagonal(self.scores, axis1=-2, axis2=-1)

    @property
    def forgotten(self) -> Float[np.ndarray, "*batch earlier"]:
        """Score at the end of a task's own phase minus that at the end of the sequence, all tasks but the last."""
        return (self.learned - self.scores[..., -1, :])[..., :-1]

    @property
    def average(self) -> Float[np.ndarray, "*batch"]:
        """Mean score over tasks at the end of the sequence."""
        return np.asarray(self.scores[..., -1, :].mean(-1))

    def transferred(self, alone: Float[np.ndarray, "*batch tasks"]) -> Float[np.ndarray, "*batch tasks"]:
        """Score at the end of a task's own phase minus that of a learner that was trained on this task only."""
        return self.learned - alone


def mask_overlap(one: Float[Array, "*shape"], other: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Neurons that both masks switch on, as a share of those that either does; 1 if none does.

    Source: Yang et al. (2023), as in their code (the Jaccard index).
    """
    either = ((one > 0) | (other > 0)).sum()
    both = ((one > 0) & (other > 0)).sum()
    return jnp.where(either > 0, both / jnp.maximum(either, 1), 1.0)
