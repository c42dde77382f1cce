import numpy as np
import xarray as xr

from unseen.measures import success_matrix


def test_rows_are_averaged_over_seeds_and_what_was_not_tested_is_left_open():
    some = xr.DataArray([[1.0, 0.0], [0.5, 1.0]], {"seed": [0, 1], "tested": ["push", "reach"]}, ["seed", "tested"])
    one = xr.DataArray([0.25], {"tested": ["sweep"]}, ["tested"])
    found = success_matrix({"joint": some, "single": one}, ["reach", "push", "sweep"])
    assert np.allclose(found, [[0.5, 0.75, np.nan], [np.nan, np.nan, 0.25]], equal_nan=True)
    assert found.learner.values.tolist() == ["joint", "single"]
    assert found.sel(learner="joint", task="push") == 0.75
