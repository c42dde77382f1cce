"""Accuracy as a function of length, and its two summaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int, PRNGKeyArray


def length_profile(
    evaluate: Callable[[PRNGKeyArray, Int[Array, ""]], Mapping[str, Float[Array, ""]]],
    lengths: Sequence[int],
    key: PRNGKeyArray,
) -> dict[str, Float[Array, " length"]]:
    """Every number that `evaluate(key, length)` returns, for each length of a grid.

    The lengths go through one compiled program, one after the other, so `evaluate` must take a traced length
    (one padded size and masks); each length has its own key.
    """
    keys = jax.random.split(key, len(lengths))
    return dict(jax.lax.map(lambda item: evaluate(*item), (keys, jnp.asarray(lengths))))


def score(accuracy: xr.DataArray, trained_to: int) -> xr.DataArray:
    """Mean accuracy over the lengths of the grid above the longest one in training.

    Source: Deletang et al. (2022), section 4, where the grid is every length up to 500.

    Args:
        accuracy: per-token accuracy with a dimension `length` and its coordinate; the other dimensions stay.
        trained_to: the longest length in training.

    Raises:
        ValueError: if the grid has no longer length.
    """
    beyond = accuracy["length"] > trained_to
    if not bool(beyond.any()):
        raise ValueError(f"the grid of lengths takes one above {trained_to}, got {accuracy['length'].values.tolist()}.")
    return accuracy.sel(length=beyond).mean("length", skipna=False)


class Reach(NamedTuple):
    """How far a model gets.

    Attributes:
        length: the largest length of the grid with exact match at least the threshold, 0 if there is none.
        censored: whether that is the end of the grid, so that the true reach may be larger.
    """

    length: xr.DataArray
    censored: xr.DataArray


def reach(exact: xr.DataArray, threshold: float = 0.9) -> Reach:
    """The largest length at which the share of exactly right sequences is at least `threshold`.

    Args:
        exact: exact match with a dimension `length` and its coordinate; NaN counts as failure.
        threshold: share of sequences.
    """
    lengths = exact["length"]
    longest = xr.where(exact >= threshold, lengths, 0).max("length")
    return Reach(longest, longest == np.max(lengths.values))
