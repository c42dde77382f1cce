"""Whether a classifier uses a block of features: what is left of its ranking when the block is dealt out anew."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.worlds.clusters.graded_features import FeatureSample


def binary_auc(scores: Float[Array, " example"], labels: Int[Array, " example"]) -> Float[Array, ""]:
    """Area under the ROC curve: the share of (positive, negative) pairs that the scores order rightly, ties half.
    NaN where one class is empty. Can be traced, unlike `lab.statistics.roc_auc`."""
    ordered = jnp.sort(scores)
    below, up_to = (jnp.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    rank = (below + up_to + 1) / 2
    positive = jnp.sum(labels)
    pairs = positive * (len(labels) - positive)
    return (jnp.sum(rank * labels) - positive * (positive + 1) / 2) / pairs


def randomised_auc(
    score: Callable[[Float[Array, "n dims"]], Float[Array, " n"]], sample: FeatureSample, block: str, key: PRNGKeyArray
) -> Float[Array, ""]:
    """AUC on a sample one of whose blocks is permuted across examples: 0.5 if the score rests on that block alone,
    unchanged if it does not use it.

    Args:
        score: inputs -> one number an example, larger for label 1.
        sample: of a `GradedFeatures` world.
        block: name of the block that is made uninformative.

    Source: Shah et al. (2020, arXiv 2006.07710), section 3, "S-randomized AUC".
    """
    dealt = sample.randomise(block, key)
    return binary_auc(jax.lax.stop_gradient(score(dealt.x)), dealt.labels)
