import sys

import jax
import numpy as np
import pytest
import xarray as xr

pytest.importorskip("rejax")
import gymnasium

import unseen
from unseen.lab import UserError
from unseen.studies.control.carl import WORLDS, Carl, training_region
from unseen.worlds.control.context import context_protocol

AXIS = np.linspace(-1, 1, 9)


def test_training_regions_are_the_protocols_and_the_default():
    for world in WORLDS.values():
        grid = world.grid(9)
        wide, cross = (np.asarray(training_region(world, 1.0, share).contains(grid)) for share in (0.0, 0.25))
        assert np.array_equal(wide, context_protocol("B", world).contains(grid))
        assert np.array_equal(cross, context_protocol("C", world, narrow=0.75 / 2).contains(grid))
        assert wide.sum() == 49 and cross.sum() == 33
        default = jax.vmap(training_region(world, 0.0, 0.0).sample)(jax.random.split(jax.random.key(0), 50))
        assert np.allclose(default, world.default)


def evidence(study: Carl, *, needed=0.0, harder=0.0, shell=0.0, corner=0.0, spread=0.01) -> xr.Dataset:
    """Evidence with known effects: random is 10, the best specialist 110 everywhere, so 100 x is a score of x."""
    rng = np.random.default_rng(0)
    sizes = dict(env=2, visible=2, width=3, held_out=2, seed=5)
    coords = {n: list(getattr(study, n)) for n in sizes if n != "seed"}
    coords |= {"seed": range(5), "a": AXIS, "b": AXIS}
    grid = xr.DataArray(np.full((*sizes.values(), 9, 9), 60.0), coords, [*sizes, "a", "b"])
    grid += 100 * spread * xr.DataArray(rng.normal(size=tuple(sizes.values())), dims=list(sizes))
    grid = grid + 100 * needed * grid.visible
    inside = (abs(grid.a) < 0.8) & (abs(grid.b) < 0.8)
    corners = inside & (abs(grid.a) > 0.4) & (abs(grid.b) > 0.4)
    grid = grid - 100 * shell * ~inside - 100 * corner * (corners & (grid.held_out > 0))
    default = grid.isel(a=4, b=4, drop=True) + 100 * harder * (grid.width == 0)
    only = xr.where(grid.seed == 0, 1.0, np.nan) * xr.ones_like(grid.env, dtype=float)
    ones = xr.ones_like(grid.isel(env=0, visible=0, width=0, held_out=0, seed=0, drop=True))
    best = 110.0 * only * xr.DataArray([1.0, 0.5], dims="specialist", coords={"specialist": [0, 1]})
    return xr.Dataset(
        {
            "grid_return": grid,
            "default_return": default,
            "random_grid_return": 10.0 * only * ones,
            "random_default_return": 10.0 * only,
            "specialist_grid_return": best * ones,
            "specialist_default_return": best,
            "tabular_gap": (0.05 + 0.001 * xr.DataArray(rng.normal(size=40), dims="mdp")) * only.isel(env=0),
            "tabular_stochastic_gap": (("seed", "mdp"), np.full((5, 40), 0.04)),
        }
    )


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("context_needed", dict(needed=0.2), 0.2, "supported"),
        ("context_needed", dict(needed=0.0, spread=1e-3), 0.0, "refuted"),
        ("harder", dict(harder=0.1), 0.1, "supported"),
        ("harder", dict(harder=-0.1), -0.1, "refuted"),
        ("extrapolation", dict(shell=0.2, corner=0.1), 0.15, "supported"),
        ("extrapolation", dict(), 0.0, "refuted"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    study = Carl()
    judgement = getattr(study, claim)(evidence(study, **effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.02) and judgement.outcome == outcome


def test_a_diverged_policy_makes_its_claim_inconclusive():
    study = Carl()
    e = evidence(study, needed=0.2)
    e["grid_return"][dict(env=0, visible=1, width=2, held_out=0, seed=3)] = np.nan
    assert study.context_needed(e).outcome == "inconclusive" and study.context_needed(e).effect.missing == 1


def test_figure_draws_from_evidence():
    study = Carl()
    figure = study.figure(evidence(study, needed=0.2))
    assert len([ax for ax in figure.axes if ax.images]) == 6


def test_tabular_gaps_are_real_and_chance_never_widens_them():
    found = Carl(mdps=20).tabular().final(jax.random.key(0))
    blind, stochastic = np.asarray(found["tabular_gap"]), np.asarray(found["tabular_stochastic_gap"])
    assert np.all(blind > -1e-5) and np.all(blind < 1) and blind.mean() > 0.01
    assert np.all(stochastic <= blind + 1e-6) and np.all(stochastic > -1e-5)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match=r"package\.module:Name, got 'ant'"):
        Carl(env=("ant",))
    with pytest.raises(UserError, match="two features, but gymnasium:CartPole-v1 has 1"):
        Carl(env=("gymnasium:CartPole-v1",), context=("gravity:5:15",))
    wrong = dict(grid=8, held_out=(0.6,), width=(2.0,), env=("ant",), specialist=(25,))
    for name, value in wrong.items():
        with pytest.raises(UserError, match=name):
            Carl(**{name: value})


class Fragile(gymnasium.Env):
    """A mass with drag that shall come to rest; it breaks when its budget of steps is used up."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    budget, steps = None, 0

    def __init__(self):
        self.mass, self.drag = 1.0, 0.5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2)
        return self.state.astype(np.float32), {}

    def step(self, action):
        Fragile.steps += 1
        if Fragile.budget is not None and Fragile.steps > Fragile.budget:
            raise RuntimeError("a spring broke")
        x, v = self.state
        v = v + 0.1 * (action[0] - self.drag * v) / self.mass
        self.state = np.clip([x + 0.1 * v, v], -10, 10)
        return self.state.astype(np.float32), -float(x * x), False, False, {}


def test_an_environment_of_ones_own_runs_breaks_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("UNSEEN_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "fragile_package", sys.modules[__name__])
    settings = dict(
        scale="smoke", env="fragile_package:Fragile", context=("mass:0.5:2", "drag:0.1:1"), max_steps=4, visible=0.0,
        width=1.0, held_out=0.0, specialist=0, seeds=1, total_steps=64, specialist_steps=64, num_steps=16, mdps=1,
        quiet=True,
    )  # fmt: skip
    whole = unseen.run("carl", out=tmp_path / "whole", **settings)
    grid = whole.evidence.grid_return.squeeze()
    assert grid.shape == (9, 9) and np.isfinite(grid).all() and np.ptp(grid.values) > 0
    steps, Fragile.steps, Fragile.budget = Fragile.steps, 0, int(0.6 * Fragile.steps)
    with pytest.raises(UserError, match="fragile_package:Fragile raised RuntimeError: a spring broke at step"):
        unseen.run("carl", out=tmp_path / "broken", **settings)
    Fragile.steps, Fragile.budget = 0, None
    again = unseen.run("carl", out=tmp_path / "broken", **settings)
    assert 0 < Fragile.steps < steps  # what had finished was kept
    assert np.array_equal(again.evidence.grid_return, whole.evidence.grid_return)
