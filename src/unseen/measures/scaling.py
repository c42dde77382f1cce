"""How performance grows with the amount of something."""

from __future__ import annotations

import numpy as np
import xarray as xr

from unseen.lab.statistics import slope


def scaling_slope(score: xr.DataArray, dim: str) -> xr.DataArray:
    """Gain of a score with each doubling of the amount along `dim`: slope of the least-squares line of the score on
    log2 of the coordinate, for each seed.

    Example:
        >>> amount = [1, 2, 4]
        >>> float(scaling_slope(xr.DataArray([0.1, 0.3, 0.5], {"bodies": amount}, ["bodies"]), "bodies"))
        0.2

    Raises:
        UserError: with fewer than two amounts.
    """
    return slope(np.log2(score[dim].astype(float)), score, dim)
