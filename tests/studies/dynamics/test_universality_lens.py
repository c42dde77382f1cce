import dataclasses
import math

import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.dynamics.universality_lens import UniversalityLens

STUDY = UniversalityLens.at_scale("laptop", seeds=6, orders=4)
JITTER = xr.DataArray(np.linspace(-0.05, 0.05, 6), dims="seed", coords={"seed": range(6)})
WEIGHT = xr.DataArray(np.linspace(2, 11, 10), {"truth": range(10)}, ["truth"])  # minus its log


def evidence(steep=1.0, rise=0.0, uniform=11.1, near=1.0, sgld=0.1, single=1.0) -> xr.Dataset:
    """Regret is `steep` times minus the log weight, plus `rise` at 64 units; at 12 labels it follows `near` times the
    neighbourhood, which orders the truths the other way round, plus the weight."""
    width = xr.DataArray(np.ones(4), {"width": list(STUDY.width)}, ["width"])
    neighbourhood = 0.3 * (13 - WEIGHT) * width
    final = steep * WEIGHT * width + rise * (width.width == 64)
    early = near * neighbourhood + (1 - near) * WEIGHT
    regret = xr.concat([early.expand_dims(labels=[12]), final.expand_dims(labels=[200])], "labels")
    control = xr.DataArray([uniform, 14.0], {"control": list(STUDY.control)}, ["control"])
    last = (control + 0 * WEIGHT).expand_dims(labels=[12, 200])
    grid = xr.DataArray(
        np.ones((2, 2, 3)),
        {"temperature": [1.0, 0.0], "precision": [1.0, 0.0], "step": range(3)},
        ["temperature", "precision", "step"],
    )
    run = xr.where((grid.temperature == 1) & (grid.precision == 0), np.nan, 1.0)
    ordered = JITTER.where(JITTER.seed < 4)
    return xr.Dataset(
        {
            "regret": regret + ordered,
            "minus_log_weight": WEIGHT * width + 0 * ordered,
            "neighbourhood": neighbourhood + 0 * ordered,
            "control_regret": last + ordered,
            "ensemble_divergence": sgld * grid * run * (1 + JITTER),
            "single_divergence": single * grid * run * (1 - JITTER),
            "effective_draws": 500 * grid * run * (1 + JITTER),
        }
    )


@pytest.mark.parametrize(
    ("claim", "effect"),
    [("regret-is-weight", 1), ("size-harmless", 0), ("neighbourhood", 2), ("sgld-mixture", math.log(0.1))],
)
def test_evidence_that_follows_the_paper_supports_every_claim(claim, effect):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported"
    assert verdict.effect.estimate == pytest.approx(effect, abs=0.01)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("regret-is-weight", dict(steep=0.5)),
        ("regret-is-weight", dict(steep=1.4)),
        ("size-harmless", dict(rise=2.0)),
        ("size-harmless", dict(uniform=4.0)),
        ("neighbourhood", dict(near=0.0)),
        ("sgld-mixture", dict(sgld=0.9)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


@pytest.mark.parametrize(
    "setting",
    [dict(truths=1), dict(early=500), dict(rate=0.0), dict(updates=10), dict(control=("none",)), dict(flip=0.7)],
)
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        dataclasses.replace(STUDY, **setting)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("universality-lens", scale="smoke", first_seed=0, quiet=True, out=str(tmp_path / "run"))
    e = run.evidence
    # The theorem: regret is at most minus the log weight, for the mixture and for the uniform control.
    assert (e.regret <= e.minus_log_weight + 1e-3).all()
    assert (e.control_regret.sel(control="uniform") <= 16 * math.log(2) + 1e-3).all()
    study = UniversalityLens.at_scale("smoke")
    assert set(e.truth.values) == set(study.chosen())
    weights = study.weights(8)[e.truth.values]
    np.testing.assert_allclose(e.minus_log_weight.sel(width=8).isel(seed=0), -np.log(weights), rtol=1e-4)
    assert e.ensemble_divergence.sel(temperature=1.0, precision=0.0).isnull().all()  # not run
    # A mixture of predictions is no further away than they are in the mean.
    mixed, single = (x.sel(temperature=0.0) for x in (e.ensemble_divergence, e.single_divergence))
    assert (mixed <= single + 1e-6).all()
    with pytest.raises(UserError, match="truths takes up to"):
        unseen.run("universality-lens", scale="smoke", truths=5_000, quiet=True, out=str(tmp_path / "other"))
