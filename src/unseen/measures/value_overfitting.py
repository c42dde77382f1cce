"""Overfitting that shows in the value function, and which remedy helps against which shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import jax.numpy as jnp
import xarray as xr
from jaxtyping import Array, Bool, Float, Int

from unseen.lab import UserError

Values = TypeVar("Values")


def td_errors(
    values: Float[Array, "states actions"],
    following: Int[Array, "states actions"],
    reward: Float[Array, "states actions"],
    ends: Bool[Array, "states actions"],
    discount: float,
) -> Float[Array, "states actions"]:
    """Size of the temporal-difference error of every deterministic step:
    `|reward + discount max_b Q(next, b) - Q(state, action)|`, without the second term where the episode ends.

    Zero everywhere, on finite MDPs whose states are all seen here, exactly for the optimal values.
    """
    ahead = jnp.where(ends, 0.0, values.max(1)[following])
    return jnp.abs(reward + discount * ahead - values)


def td_gap(test: Values, train: Values) -> Values:
    """Temporal-difference error in test over that in training: 1 where the value function does not overfit.

    Works on numbers, arrays and DataArrays (aligned by coordinate).
    """
    return test / train  # type: ignore[operator]


def remedy_by_shift_matrix(scores: xr.DataArray, control: str = "none") -> xr.DataArray:
    """What each remedy gains over no remedy under each shift.

    Args:
        scores: with dimensions `remedy` and `shift`, and any others (seeds, which pairs them).
        control: the name of no remedy.

    Raises:
        UserError: if there is no such remedy.
    """
    if control not in scores.remedy.values:
        raise UserError(f"scores takes a remedy named {control!r} to compare with, got none.")
    base = scores.sel(remedy=control, drop=True)
    return (scores - base).sel(remedy=[name for name in scores.remedy.values if name != control])


def matched_gain(gains: xr.DataArray, matches: Mapping[str, str]) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean gain of remedies under their matching shift, and mean gain of the same remedies under the other shifts.

    Args:
        gains: of `remedy_by_shift_matrix`.
        matches: remedy -> shift; remedies that are not in it are left out.

    Raises:
        UserError: if the gains lack one of them.
    """
    remedies, shifts = gains.remedy.values.tolist(), gains["shift"].values.tolist()
    if missing := [n for n in matches if n not in remedies] + [s for s in matches.values() if s not in shifts]:
        raise UserError(f"gains takes all remedies and shifts that match, got none for {missing[0]!r}.")
    own = gains.sel(remedy=list(matches))
    inside = xr.DataArray(
        [[match == shift for shift in shifts] for match in matches.values()],
        {"remedy": list(matches), "shift": shifts}, ["remedy", "shift"],
    )  # fmt: skip
    both = ["remedy", "shift"]
    # skipna=False: a run that diverged makes the mean unknown.
    inner = xr.where(inside, own, 0.0).sum(both, skipna=False) / int(inside.sum())
    outer = xr.where(inside, 0.0, own).sum(both, skipna=False) / int((~inside).sum())
    return inner, outer
