"""A view of what is near."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unseen.lab import UserError


def local_field(
    planes: Float[Array, "rows columns planes"], cell: Int[Array, "2"], size: int = 5
) -> Float[Array, "{size} {size} planes"]:
    """The `size` x `size` cells around one of a grid, zeros beyond its border; the cell itself is in the middle.

    Networks on it cannot overfit to what is far, and do not know where in the grid they are.

    Args:
        planes: what is in each cell.
        cell: row and column, inside the grid.

    Raises:
        UserError: if `size` is not odd.

    Source: the local perceptive field of Zhao et al. (2024, arXiv 2310.00229), in its fixed form.
    """
    if size < 1 or size % 2 == 0:
        raise UserError(f"size takes an odd number from 1 on, got {size}.")
    wide = jnp.pad(planes, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    return jax.lax.dynamic_slice(wide, (cell[0], cell[1], 0), (size, size, planes.shape[-1]))
