import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.measures.value_overfitting import matched_gain, remedy_by_shift_matrix, td_errors, td_gap


def test_td_errors_by_hand():
    """Two states: action 0 ends with reward 1 in both, action 1 goes to the other state for nothing."""
    following = jnp.array([[0, 1], [1, 0]])
    reward, ends = jnp.array([[1.0, 0.0]] * 2), jnp.array([[True, False]] * 2)
    optimal = jnp.array([[1.0, 0.5]] * 2)
    assert np.array_equal(td_errors(optimal, following, reward, ends, 0.5), np.zeros((2, 2)))
    wrong = optimal.at[1, 0].set(3.0)  # seen there, and half of it one step ahead
    assert np.array_equal(td_errors(wrong, following, reward, ends, 0.5), [[0.0, 1.0], [2.0, 0.0]])
    assert td_gap(3.0, 1.5) == 2.0


def table(values: list[list[float]]) -> xr.DataArray:
    return xr.DataArray(values, {"remedy": ["none", "a", "b", "c"], "shift": ["x", "y", "z"]}, ["remedy", "shift"])


def test_gains_and_matches_by_hand():
    scores = table([[0.1, 0.2, 0.3], [0.6, 0.2, 0.4], [0.1, 0.0, 0.9], [9.0, 9.0, 9.0]])
    gains = remedy_by_shift_matrix(scores)
    assert gains.remedy.values.tolist() == ["a", "b", "c"]
    assert np.allclose(gains.sel(remedy="a"), [0.5, 0.0, 0.1]) and np.allclose(gains.sel(remedy="b"), [0.0, -0.2, 0.6])
    inner, outer = matched_gain(gains, {"a": "x", "b": "z"})
    assert np.isclose(inner, 0.55) and np.isclose(outer, -0.1 / 4)
    seeds = xr.concat([scores, scores], "seed").copy()
    seeds[dict(seed=1, remedy=2, shift=0)] = np.nan
    inner, outer = matched_gain(remedy_by_shift_matrix(seeds), {"a": "x", "b": "z"})
    assert np.allclose(inner, 0.55) and np.isnan(outer.values).tolist() == [False, True]


def test_what_lacks_is_named():
    with pytest.raises(UserError, match="remedy named 'control'"):
        remedy_by_shift_matrix(table([[0.0] * 3] * 4), "control")
    gains = remedy_by_shift_matrix(table([[0.0] * 3] * 4))
    for matches in ({"d": "x"}, {"a": "w"}):
        with pytest.raises(UserError, match=r"got none for '[dw]'"):
            matched_gain(gains, matches)
