"""Shape of place fields on a track."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class FieldShape(NamedTuple):
    """Centre of mass of each field minus its cell's own place, in track units, and its skewness (no unit)."""

    shift: Float[Array, " cells"]
    skew: Float[Array, " cells"]


def place_field_skew(visits: Float[Array, "states cells"]) -> FieldShape:
    """Shift and skewness of place fields along a track.

    Args:
        visits: successor matrix of a track with as many cells as states; a column is the field of one cell, its
            firing in each state. Negative entries count as none.

    A negative shift or skewness is backward: the field reaches towards the start of the track. A field of a single
    state has skewness 0.

    Source: Stachenfeld et al., "The hippocampus as a predictive map" (2017), figure 2.
    """
    place = jnp.arange(visits.shape[0])[:, None]
    weight = jnp.maximum(visits, 0)
    weight = weight / jnp.maximum(weight.sum(0), 1e-12)
    centre = (weight * place).sum(0)
    variance = (weight * (place - centre) ** 2).sum(0)
    third = (weight * (place - centre) ** 3).sum(0)
    skew = jnp.where(variance > 1e-9, third / jnp.where(variance > 1e-9, variance, 1) ** 1.5, 0.0)
    return FieldShape(centre - jnp.arange(visits.shape[1]), skew)
