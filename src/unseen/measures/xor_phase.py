"""Where a network stands between overfitting and understanding an exclusive-or world."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

PHASES = ("fitting", "harmful overfitting", "between", "benign overfitting")


class XorPhase(NamedTuple):
    """Accuracies of one network, and what they add up to.

    Attributes:
        train_accuracy: on the training points, inverted labels counted as right.
        flipped_accuracy: on those whose label is inverted; NaN if there are none.
        test_accuracy: on fresh points with clean labels.
        linear_share: R^2 of the outputs on fresh points regressed on the linear rule.
        phase: index into `PHASES`.
    """

    train_accuracy: Float[Array, ""]
    flipped_accuracy: Float[Array, ""]
    test_accuracy: Float[Array, ""]
    linear_share: Float[Array, ""]
    phase: Int[Array, ""]


def xor_cluster_phase(
    outputs: Float[Array, " points"],
    linear: Float[Array, " points"],
    labels: Float[Array, " points"],
    targets: Float[Array, " points"],
    train: Float[Array, " points"],
    test: Float[Array, " points"],
    *,
    fit: float = 0.99,
    chance: float = 0.6,
    learned: float = 0.95,
) -> XorPhase:
    """Phase of a network on noisy clusters: still fitting; overfitting harmfully (it fits all labels, the inverted
    ones too, and is near chance on fresh points); benignly (it fits all and is right on fresh points); or between.

    Args:
        outputs: of the network; their sign is its answer.
        linear: what the linear rule sum_i y_i x_i says, the first step of gradient descent.
        labels, targets: 1 or -1; right ones, and those that are trained on.
        train, test: weights of the points.
        fit, chance, learned: the train accuracy from which on a network fits; the test accuracies up to which it is
            near chance and from which on it is right.

    Source: the regimes of the main theorem of Xu et al. (2023, arXiv 2310.02541).
    """

    def mean(values: Float[Array, " points"], weights: Float[Array, " points"]) -> Float[Array, ""]:
        return jnp.sum(values * weights) / jnp.sum(weights)

    right = (outputs * targets > 0).astype(outputs.dtype)
    flipped = train * (targets != labels)
    seen, told, unseen = mean(right, train), mean(right, flipped), mean((outputs * labels > 0).astype(float), test)
    x, y = linear - mean(linear, test), outputs - mean(outputs, test)
    spread = mean(x**2, test) * mean(y**2, test)
    share = jnp.where(spread > 0, mean(x * y, test) ** 2 / jnp.where(spread > 0, spread, 1), jnp.nan)
    after = jnp.where(unseen < chance, 1, jnp.where(unseen > learned, 3, 2))
    return XorPhase(seen, told, unseen, share, jnp.where(seen < fit, 0, after))
