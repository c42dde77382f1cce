import dataclasses
import math

import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.dynamics.sharpness_is_not_all import SharpnessIsNotAll

STUDY = SharpnessIsNotAll.at_scale("laptop", seeds=8)
JITTER = xr.DataArray(np.linspace(-0.01, 0.01, 8), dims="seed", coords={"seed": range(8)})


def over(values: dict, dim: str) -> xr.DataArray:
    return xr.DataArray(list(values.values()), {dim: list(values)}, [dim])


def evidence(sam=(0.98, 0.7, 0.92), trace=(20.0, 23.0, 2.2), loss=0.001) -> xr.Dataset:
    """Three looks (two at the first two networks); radius 0.3 is the best one, and 0.5 does not fit."""
    accuracy = over(dict(zip(STUDY.network, sam, strict=True)), "network")
    bonus = over({0.0: 0.0, 0.1: -0.05, 0.3: 0.0, 0.5: 0.02}, "radius")
    step = over({0: 0.0, 100: 1.0, 200: 1.0}, "step")
    test = xr.where(bonus.radius == 0, 0.6, accuracy + bonus) * xr.ones_like(step)
    losses = xr.where(step == 0, 1.0, xr.where(bonus.radius == 0.5, 0.05, loss)) * xr.ones_like(accuracy)
    traces = over(dict(zip(STUDY.network, trace, strict=True)), "network") * xr.where(step == 0, 0.1, 1.0)
    run = xr.where((step.step == 200) & (accuracy.network != "normalised"), np.nan, 1.0)
    built = over({"plain": np.nan, "bias": 4 * math.sqrt(31), "normalised": 2.0}, "network")
    grid = xr.ones_like(bonus) * (1 + 0 * JITTER)
    return xr.Dataset(
        {
            "test_accuracy": test * run + JITTER,
            "train_loss": losses * run * (1 + JITTER),
            "trace": traces * run * grid * (1 + JITTER),
            "hessian_trace": built * grid,
            "built_trace": built * grid,
            "built_accuracy": 0.5 * grid * over(dict.fromkeys(STUDY.network, 1.0), "network"),
        }
    )


@pytest.mark.parametrize(
    ("claim", "effect"),
    [
        ("flat-generalises", 0.98),
        ("flat-memorises", math.log(4 * math.sqrt(31) / 23)),
        ("flat-memorises-yet-generalises", math.log(2 / 2.2)),
    ],
)
def test_evidence_that_follows_the_paper_supports_every_claim(claim, effect):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported" and verdict.effect.n == 4  # the seeds that did not choose the radius
    assert verdict.effect.estimate == pytest.approx(effect, abs=0.01)
    assert "radius 0.3" in verdict.note


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("flat-generalises", dict(sam=(0.8, 0.7, 0.9))),
        ("flat-memorises", dict(trace=(20.0, 18.0, 2.2))),
        ("flat-memorises", dict(sam=(0.98, 0.95, 0.92))),
        ("flat-memorises-yet-generalises", dict(trace=(20.0, 23.0, 1.5))),
        ("flat-memorises-yet-generalises", dict(sam=(0.98, 0.6, 0.7))),
        ("flat-memorises-yet-generalises", dict(sam=(0.98, 0.9, 0.92))),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_what_does_not_fit_is_not_compared():
    assert STUDY.judgement("flat-memorises", evidence(loss=0.007)).outcome == "inconclusive"
    assert STUDY.judgement("flat-generalises", evidence(loss=0.02)).outcome == "inconclusive"


@pytest.mark.parametrize(
    "setting", [dict(network=("deep",)), dict(radius=(-0.1,)), dict(hidden=50), dict(every=150), dict(steps=5)]
)
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        dataclasses.replace(STUDY, **setting)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("sharpness-is-not-all", scale="smoke", first_seed=0, quiet=True, out=str(tmp_path / "run"))
    e = run.evidence
    np.testing.assert_allclose(e.built_trace.sel(network="bias"), 12, rtol=1e-4)  # 4 sqrt(8 + 1)
    np.testing.assert_allclose(e.built_trace.sel(network="normalised"), 2, rtol=1e-4)
    assert (e.train_loss.isel(step=-1) < e.train_loss.isel(step=0)).all()
    assert (e.trace > 0).all() and (e.hessian_trace.sel(network=["plain", "bias"]) > 0).all()
