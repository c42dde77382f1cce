"""How feature vectors lie on the unit sphere: spread, alignment of positives, distance of class centres."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

Features = Float[Array, "n width"]

CLOSEST = 1e-3  # distances below it count as it, so that two equal vectors do not make the energy infinite


def unit(vectors: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
    """Vectors of length 1 in the same directions; a vector of length 0 stays what it is."""
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.square(vectors).sum(-1, keepdims=True), 1e-12))


def hyperspherical_energy(features: Features, *, power: float = 2.0) -> Float[Array, " n"]:
    """Mean of distance^-power from each vector to all others, at unit length; low where vectors spread evenly.

    Its mean over vectors is the energy of the set, its standard deviation over its mean the energy's coefficient
    of variation. Uniform random vectors in d dimensions have mean (d - 2) / (2 (d - 3)) at power 2.

    Source: Liu et al. (2018, arXiv 1805.09298), equation 1, divided by the number of pairs.
    """
    n = features.shape[0]
    directions = unit(features)
    squared = jnp.maximum(2 - 2 * directions @ directions.T, CLOSEST**2)
    return jnp.where(jnp.eye(n, dtype=bool), 0.0, squared ** (-power / 2)).sum(1) / (n - 1)


def feature_diversity(features: Features, *, power: float = 2.0) -> Float[Array, ""]:
    """Minus the log of the mean of distance^-power over all pairs, at unit length: high where vectors spread.

    Source: the energy by which Malviya and Sudhakar (2022, arXiv 2209.01275) and Chen et al. (2021, arXiv
    2104.02290, section 3.1) measure diversity, with its sign changed.
    """
    return -jnp.log(hyperspherical_energy(features, power=power).mean())


def null_diversity(
    key: PRNGKeyArray, n: int, width: int, *, draws: int = 100, power: float = 2.0
) -> Float[Array, " draws"]:
    """Diversity of sets of `n` uniform random unit vectors in `width` dimensions: what number and dimension
    alone would give."""
    keys = jax.random.split(key, draws)
    return jax.lax.map(lambda k: feature_diversity(jax.random.normal(k, (n, width)), power=power), keys)


class DiversityProfile(NamedTuple):
    """Diversity of the layers of a network.

    Attributes:
        raw: diversity of each layer.
        corrected: the same, minus the mean of random vectors of the same number and dimension.
    """

    raw: Float[Array, " layers"]
    corrected: Float[Array, " layers"]


def diversity_profile(
    layers: Mapping[str, Float[Array, "n ..."]], *, draws: int = 100, power: float = 2.0
) -> DiversityProfile:
    """Diversity of each layer's features, over depth; feature maps are averaged over their positions first.

    Works on the activations of any network: pass them by name, in forward order.

    Args:
        layers: name -> (n, width) or (n, positions..., width).
        draws: sets of random vectors behind each null value, from a fixed key: the same shapes give the same null.
    """
    pooled = [x.reshape(x.shape[0], -1, x.shape[-1]).mean(1) for x in layers.values()]
    raw = jnp.stack([feature_diversity(x, power=power) for x in pooled])
    null = {
        shape: null_diversity(jax.random.key(0), *shape, draws=draws, power=power).mean()
        for shape in dict.fromkeys(x.shape for x in pooled)
    }
    return DiversityProfile(raw, raw - jnp.stack([null[x.shape] for x in pooled]))


def positive_distance(a: Features, b: Features) -> Float[Array, ""]:
    """Mean distance of positive pairs relative to the mean distance of all pairs, at unit length: 0 if views agree,
    1 if they are no nearer than any two examples."""
    a, b = unit(a), unit(b)
    pairs = jnp.sqrt(jnp.maximum(2 - 2 * a @ b.T, 0.0))
    return jnp.linalg.norm(a - b, axis=-1).mean() / jnp.maximum(pairs.mean(), 1e-12)


def class_centres(
    features: Float[Array, "n width"], labels: Int[Array, " n"], classes: int
) -> Float[Array, "classes width"]:
    """Mean feature vector of each class; 0 for a class without examples."""
    members = jax.nn.one_hot(labels, classes, axis=0)
    return members @ features / jnp.maximum(members.sum(1, keepdims=True), 1)


def centre_cosine(features: Float[Array, "n width"], labels: Int[Array, " n"], classes: int) -> Float[Array, ""]:
    """Mean cosine between the centres of two classes, of features at unit length: 1 if all classes collapse on one
    point, -1 / (classes - 1) for a simplex."""
    centres = unit(class_centres(unit(features), labels, classes))
    return ((centres @ centres.T).sum() - jnp.square(centres).sum()) / (classes * (classes - 1))
