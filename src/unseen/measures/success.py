"""Success of learners on tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr


def success_matrix(rows: Mapping[str, xr.DataArray], tasks: Sequence[str], dim: str = "tested") -> xr.DataArray:
    """Success rates as a matrix (learner, task): what was not tested is NaN, further dims (seeds) are averaged.

    Args:
        rows: name of a learner -> its success with a dimension `dim` of task names.
        tasks: the columns, in this order.
    """
    cells = []
    for values in rows.values():
        mean = values.mean([d for d in values.dims if d != dim])
        cells.append(mean.reindex({dim: list(tasks)}).values)
    coords = {"learner": list(rows), "task": list(tasks)}
    return xr.DataArray(np.array(cells, float), coords, ["learner", "task"])
