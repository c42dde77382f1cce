import jax
import numpy as np
import pytest
import xarray as xr

from unseen.measures.length_profile import length_profile, reach, score

EXACT = xr.DataArray(
    [[1.0, 0.95, 0.2, 0.0], [1.0, 1.0, 1.0, 0.9], [0.5, 0.0, 0.0, 0.0], [1.0, 0.8, 0.9, 0.1]],
    dims=("seed", "length"),
    coords={"length": [4, 8, 12, 16]},
)


def test_score_is_the_mean_beyond_training():
    np.testing.assert_allclose(score(EXACT, 8), [0.1, 0.95, 0.0, 0.5])
    with pytest.raises(ValueError, match="above 16"):
        score(EXACT, 16)


def test_reach_is_the_largest_length_above_the_threshold():
    length, censored = reach(EXACT)
    assert length.values.tolist() == [8, 16, 0, 12]
    assert censored.values.tolist() == [False, True, False, False]


def test_profile_evaluates_every_length_with_its_own_key():
    lengths = [3, 5, 9]
    profile = length_profile(lambda key, n: {"a": n * 2.0, "b": jax.random.uniform(key)}, lengths, jax.random.key(0))
    assert profile["a"].tolist() == [6, 10, 18]
    assert len(set(profile["b"].tolist())) == 3
