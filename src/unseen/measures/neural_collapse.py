"""How far last-layer features and a linear classifier have collapsed to one point a class, for many unequal classes."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class StreamingClassMoments(eqx.Module):
    """Number, mean and scatter of the features of every class, kept up to date batch by batch.

    Memory is one vector a class, whatever the number of examples, so it works for a vocabulary of classes; the
    result does not depend on how examples are divided into batches (but for rounding).

    Attributes:
        count: examples seen of each class.
        mean: their mean; 0 where there are none.
        scatter: sum of their squared distances to the mean.
    """

    count: Float[Array, " classes"]
    mean: Float[Array, "classes width"]
    scatter: Float[Array, " classes"]

    @classmethod
    def empty(cls, classes: int, width: int) -> StreamingClassMoments:
        """Nothing seen yet."""
        return cls(jnp.zeros(classes), jnp.zeros((classes, width)), jnp.zeros(classes))

    def update(
        self,
        features: Float[Array, "examples width"],
        labels: Int[Array, " examples"],
        weights: Float[Array, " examples"] | None = None,
    ) -> StreamingClassMoments:
        """With a further batch.

        Args:
            labels: class of each example, from 0 on.
            weights: how often an example counts, 0 for padding; 1 by default.
        """
        weight = jnp.ones(labels.shape) if weights is None else weights

        def total(values: Array) -> Array:
            return jax.ops.segment_sum(values, labels, num_segments=self.count.shape[0])

        # Scatter around the batch's own means, then both means merged (Chan, Golub and LeVeque, 1983, equation 2.1):
        # sums of squares of the features would cancel.
        more = total(weight)
        mean = total(weight[:, None] * features) / jnp.maximum(more, 1e-30)[:, None]
        scatter = total(weight * jnp.sum(jnp.square(features - mean[labels]), -1))
        count = self.count + more
        share, away = more / jnp.maximum(count, 1e-30), mean - self.mean
        between = self.count * share * jnp.sum(jnp.square(away), -1)
        return StreamingClassMoments(count, self.mean + share[:, None] * away, self.scatter + scatter + between)

    @property
    def variance(self) -> Float[Array, " classes"]:
        """Mean squared distance to the class mean, summed over dimensions."""
        return self.scatter / jnp.maximum(self.count, 1e-30)


class CollapseReport(NamedTuple):
    """The four properties of neural collapse, in forms for unequal classes of which there may be more than
    dimensions. At full collapse (a simplex of class means without spread, the classifier equal to the centred means)
    `variability`, `damped_variability`, `norm_variation`, `simplex_error`, `kernel_variation` and
    `alignment_variation` are 0, and `alignment` is 1.

    Attributes:
        classes: how many were seen often enough.
        variability: (v_i + v_j) / (2 |m_i - m_j|^2), mean over pairs of classes (Galanti et al., 2022,
            arXiv 2112.15121, definition 1); the same in all units.
        damped_variability: the same over |m_i - m_j|^4, which the paper's code uses, so that pairs far apart count
            less. It has units: features twice as large make it a quarter.
        norm_variation: coefficient of variation of the centred means' norms.
        simplex_error: root mean square of cos(m_i, m_j) + 1 / (classes - 1) over pairs of centred means.
        kernel_variation: coefficient of variation of log(1 / distance) over pairs of normalised centred means, 0 if
            they are spread evenly over the sphere.
        alignment: mean cosine between a class's row of the classifier and its centred mean.
        alignment_variation: coefficient of variation of these cosines (uniform duality).
    """

    classes: Float[Array, ""]
    variability: Float[Array, ""]
    damped_variability: Float[Array, ""]
    norm_variation: Float[Array, ""]
    simplex_error: Float[Array, ""]
    kernel_variation: Float[Array, ""]
    alignment: Float[Array, ""]
    alignment_variation: Float[Array, ""]


def collapse_report(
    moments: StreamingClassMoments, classifier: Float[Array, "classes width"], *, minimum: float | int = 1
) -> CollapseReport:
    """Neural collapse of features and classifier (agreement of decisions: `decisions_agree`).

    Means are centred at the plain mean of the class means. Coefficients of variation are population standard
    deviations over the mean's absolute value.

    Args:
        moments: of the features that the classifier reads.
        classifier: one row a class.
        minimum: classes with fewer examples are left out. NaN comes out if fewer than two are left.

    Source: Wu and Papyan (2024, arXiv 2405.17767), section 3, and their code.
    """
    kept = moments.count >= minimum
    classes = kept.sum()
    centre = _mean(moments.mean, kept[:, None], 0)
    means = jnp.where(kept[:, None], moments.mean - centre, 0)
    norms = jnp.linalg.norm(means, axis=-1)
    unit = means / jnp.where(norms > 0, norms, 1)[:, None]
    pair = jnp.triu(kept[:, None] & kept[None, :], 1)
    # Squared distances of many vectors from their inner products; centring keeps the cancellation small.
    inner, squares = means @ means.T, jnp.square(norms)
    apart = jnp.where(pair, jnp.maximum(squares[:, None] + squares[None, :] - 2 * inner, 0), 1)
    noise = (moments.variance[:, None] + moments.variance[None, :]) / 2
    cosine = unit @ unit.T
    nearness = -0.5 * jnp.log(jnp.where(pair, jnp.maximum(2 - 2 * cosine, 1e-12), 1))
    rows = classifier / jnp.linalg.norm(classifier, axis=-1, keepdims=True)
    alignment = jnp.sum(rows * unit, -1)
    return CollapseReport(
        classes.astype(float),
        _mean(noise / apart, pair),
        _mean(noise / jnp.square(apart), pair),
        _variation(norms, kept),
        jnp.sqrt(_mean(jnp.square(cosine + 1 / (classes - 1)), pair)),
        _variation(nearness, pair),
        _mean(alignment, kept),
        _variation(alignment, kept),
    )


def decisions_agree(
    features: Float[Array, "*batch width"],
    means: Float[Array, "classes width"],
    classifier: Float[Array, "classes width"],
    kept: Bool[Array, " classes"],
) -> Bool[Array, "*batch"]:
    """Whether a linear classifier without bias and the nearest class mean name the same class, both choosing among
    the classes kept. Its mean is the agreement of Wu and Papyan (2024), section 3.7, best taken on held-out
    features."""
    by_score = jnp.argmax(jnp.where(kept, features @ classifier.T, -jnp.inf), -1)
    nearness = features @ means.T - 0.5 * jnp.sum(jnp.square(means), -1)
    return by_score == jnp.argmax(jnp.where(kept, nearness, -jnp.inf), -1)


def random_moments(key: PRNGKeyArray, classes: int, width: int, spread: float | int = 0.0) -> StreamingClassMoments:
    """What features without any structure give, for null values of the report: class means at random on the unit
    sphere, with `spread` as their variance summed over dimensions."""
    means = jax.random.normal(key, (classes, width))
    means = means / jnp.linalg.norm(means, axis=-1, keepdims=True)
    return StreamingClassMoments(jnp.ones(classes), means, jnp.full(classes, spread))


def _mean(values: Array, kept: Array, axis: int | None = None) -> Array:
    """Mean over the places kept; NaN if there are none."""
    kept = jnp.broadcast_to(kept, values.shape)
    return jnp.sum(jnp.where(kept, values, 0), axis) / jnp.sum(kept, axis)


def _variation(values: Array, kept: Array) -> Array:
    mean = _mean(values, kept)
    return jnp.sqrt(_mean(jnp.square(values - mean), kept)) / jnp.abs(mean)
