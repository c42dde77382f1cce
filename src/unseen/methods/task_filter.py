"""Which generated tasks are worth training on now, judged by the policy's and a control policy's episodes."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Key, PyTree

from unseen.methods.curriculum import DynamicFiltering

Scalar = float | Float[Array, ""]


class DynamicTaskFilter(eqx.Module):
    """Accept a task if the policy sometimes scores in it, a control policy rarely does, and it is not solved.

    Returns are normalised: the share of the episode's steps that are paid.

    Attributes:
        scores: an episode with a greater return has scored.
        sometimes: least share of the policy's episodes that score.
        rarely: greatest share of the control policy's episodes that score.
        good: an episode with a return of at least this counts as solved.
        solved: share of the policy's episodes; if as many are solved, so is the task.

    Source: Open-Ended Learning Team (2021), dynamic task generation: three thresholds on probabilities
    that episodes of the agent and of the control policy exceed others; there they are tuned by population-based
    training, here they are fixed.
    """

    scores: Scalar = 0.0
    sometimes: Scalar = 0.25
    rarely: Scalar = 0.5
    good: Scalar = 0.6
    solved: Scalar = 1.0

    def accepts(
        self, policy: Float[Array, "*tasks episodes"], control: Float[Array, "*tasks control"]
    ) -> Bool[Array, "*tasks"]:
        """Which tasks pass, from returns of episodes of both policies."""
        scored = (policy > self.scores).mean(-1) >= self.sometimes
        hard = (control > self.scores).mean(-1) <= self.rarely
        return scored & hard & ((policy >= self.good).mean(-1) < self.solved)

    def teacher(
        self, draw: Callable[[Key[Array, ""]], PyTree], slots: int = 256, explore: Scalar = 0.5
    ) -> DynamicFiltering:
        """The curriculum that keeps what the filter accepts: its evidence is `accepts` as a number, 0 or 1."""
        return DynamicFiltering(draw, 0.5, jax.numpy.inf, slots, explore)
