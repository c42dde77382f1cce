import dataclasses
import math

import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.dynamics.heavy_tailed_stability import HeavyTailedStability

STUDY = HeavyTailedStability.at_scale("laptop", seeds=4)
JITTER = 1 + xr.DataArray([-0.02, -0.01, 0.01, 0.02], dims="seed", coords={"seed": range(4)})


def evidence(power=-1.0, held=1.0, free=2.0, gaps=(0.1, 0.2, 0.3, 0.2, 0.1), wild=10.0, tame=1.0) -> xr.Dataset:
    axes = {name: list(getattr(STUDY, name)) for name in ("samples", "alpha", "pull")}
    grid = xr.DataArray(np.ones([len(v) for v in axes.values()]), axes, list(axes))
    growth = xr.where(grid.pull == 0.1, held, free) * grid
    start = grid.samples.astype(float) ** power * grid
    distance = xr.concat([start.expand_dims(update=[500]), (start * growth).expand_dims(update=[1500])], "update")
    copies = xr.DataArray([1.0, 1.0, 1.0], {"copy": range(3)}, ["copy"])
    one = xr.where(copies["copy"] == 2, 1.0, 0.0)

    def changes(excess: float) -> xr.DataArray:
        return (copies + one * 3 * (xr.where(grid.alpha == 1.4, excess, 1.0) - 1)) * grid * JITTER

    gap = xr.DataArray(list(gaps), {"alpha": axes["alpha"]}, ["alpha"]) * grid
    return xr.Dataset(
        {
            "distance": distance * JITTER,
            "bounded_change": changes(tame),
            "squared_change": changes(wild),
            "test_loss": gap * JITTER + 1,
            "train_loss": xr.ones_like(gap) * xr.ones_like(JITTER),
        }
    )


@pytest.mark.parametrize(
    ("claim", "effect"),
    [("one-over-n", -1), ("time-uniform", 0), ("not-monotone", 0.2), ("surrogate-needed", math.log(10))],
)
def test_evidence_that_follows_the_paper_supports_every_claim(claim, effect):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported"
    assert verdict.effect.estimate == pytest.approx(effect, abs=0.01)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("one-over-n", dict(power=-0.5)),
        ("one-over-n", dict(power=-1.5)),
        ("time-uniform", dict(held=2.0)),
        ("time-uniform", dict(free=0.5)),
        ("not-monotone", dict(gaps=(0.1, 0.2, 0.3, 0.4, 0.5))),
        ("not-monotone", dict(gaps=(0.5, 0.4, 0.3, 0.2, 0.1))),
        ("surrogate-needed", dict(wild=1.2)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_a_step_and_a_plateau_are_neither():
    assert STUDY.judgement("not-monotone", evidence(gaps=(0.1, 0.2, 0.2, 0.2, 0.2))).outcome == "inconclusive"
    assert STUDY.judgement("not-monotone", evidence(gaps=(0.3, 0.2, 0.1, 0.2, 0.3))).outcome == "supported"


@pytest.mark.parametrize("setting", [dict(alpha=(2.5,)), dict(samples=(0,)), dict(rate=0.0), dict(steps=150)])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        dataclasses.replace(STUDY, **setting)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("heavy-tailed-stability", scale="smoke", first_seed=0, quiet=True, out=str(tmp_path / "run"))
    e = run.evidence
    assert (e.distance.isel(update=0).dropna("seed", how="all").fillna(0) == 0).all()
    assert (e.distance.sel(pull=0.1).isel(update=-1) > 0).all()
    assert (e.test_loss.sel(pull=0.1) > 0).all() and (e.test_loss.sel(pull=0.1) < 1).all()
    # Without the pull only the cell that is compared.
    assert int(e.test_loss.sel(pull=0.0).notnull().all("seed").sum()) == 1
