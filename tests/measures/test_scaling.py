import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.measures.scaling import scaling_slope


def test_slope_per_doubling_as_a_line_fit():
    rng = np.random.default_rng(0)
    amount, y = np.array([1, 4, 16, 64, 128]), rng.normal(size=(3, 5))
    score = xr.DataArray(y, {"seed": range(3), "n": amount}, ["seed", "n"])
    expected = [np.polyfit(np.log2(amount), row, 1)[0] for row in y]
    np.testing.assert_allclose(scaling_slope(score, "n"), expected, rtol=1e-6)
    assert np.isnan(scaling_slope(score.where(score.seed > 0), "n")[0])
    with pytest.raises(UserError):
        scaling_slope(score.isel(n=[0]), "n")
