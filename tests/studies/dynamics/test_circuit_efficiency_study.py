import dataclasses
import math

import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.dynamics.circuit_efficiency import CircuitEfficiency

STUDY = CircuitEfficiency.at_scale("laptop", steps=40, scratch_steps=80, seeds=4)
JITTER = xr.DataArray([-0.02, -0.01, 0.01, 0.02], dims="seed", coords={"seed": range(4)})


def over(name, values):
    return xr.DataArray(list(values), dims=name, coords={name: list(values)})


def evidence(critical=(0.13, 0.13), memorising=-0.5, generalising=0.0, level=0.5) -> xr.Dataset:
    """Test accuracy is logistic in the log share; efficiencies are power laws; nets near the critical share begin
    at 0 and stay at `level` from half of the training on."""
    share, decay = over("share", STUDY.share), over("weight_decay", STUDY.weight_decay)
    step, scratch_step = over("step", range(0, 81, 20)), over("scratch_step", range(0, 81, 20))
    at = over("weight_decay", STUDY.weight_decay).copy(data=list(critical)) * (1 + JITTER)
    ran = (step <= 40 / decay) & ((share < 0.7) | (decay == 1))
    test = (1 / (1 + (at / share) ** 6)).where(ran)
    fraction, random_fraction = over("fraction", STUDY.fraction), over("random_fraction", STUDY.random_fraction)
    late = xr.where(scratch_step >= 40, xr.where(fraction < 0.6, level, 1.0), 0.0) * (1 + 0 * JITTER)
    return xr.Dataset(
        {
            "test_accuracy": test,
            "train_accuracy": xr.ones_like(test).where(ran),
            "before_test_accuracy": xr.ones_like(test).isel(step=0),
            "efficiency": 200 * share**generalising * (1 + JITTER) * xr.ones_like(decay),
            "scratch_efficiency": 200 * fraction**generalising * (1 + JITTER),
            "random_efficiency": 50 * random_fraction**memorising * (1 + JITTER),
            "scratch_test_accuracy": late,
            "scratch_train_accuracy": (scratch_step >= 20) * xr.ones_like(late),
        }
    )


def test_evidence_that_follows_the_theory_supports_every_claim():
    e = evidence()
    assert {claim: STUDY.judgement(claim, e).outcome for claim in STUDY.claims} == dict.fromkeys(
        STUDY.claims, "supported"
    )
    assert STUDY.judgement("ungrokking", e).effect.estimate == pytest.approx(1 - 0.003, abs=0.01)
    assert STUDY.judgement("decay-independent", e).effect.estimate == pytest.approx(0, abs=1e-6)
    assert STUDY.judgement("efficiency-slopes", e).effect.estimate == pytest.approx(-0.5)
    assert "shares 0.25, 0.4, 0.6, 0.7" in STUDY.judgement("efficiency-slopes", e).note
    assert STUDY.judgement("semi-grokking", e).effect.estimate == 1


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("ungrokking", dict(critical=(0.01, 0.01))),
        ("decay-independent", dict(critical=(0.08, 0.14))),
        ("efficiency-slopes", dict(memorising=-0.05)),
        ("efficiency-slopes", dict(generalising=-0.7)),
        ("semi-grokking", dict(level=1.0)),
        ("semi-grokking", dict(level=0.1)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_semi_grokking_must_be_late_and_over():
    early = evidence()
    early["scratch_test_accuracy"] = early.scratch_test_accuracy.where(early.scratch_step != 20, 0.2)
    rising = evidence()
    rising["scratch_test_accuracy"] = rising.scratch_test_accuracy + 0.03 * (rising.scratch_step == 80)
    for e in (early, rising):
        assert STUDY.judgement("semi-grokking", e).outcome == "refuted"


def test_a_smaller_decay_gets_more_updates():
    steps = [STUDY.learner(share=0.1, weight_decay=decay).steps for decay in (1.0, 0.5, 0.3)]
    assert steps == [40, 80, 20 * math.ceil(40 / 0.3 / 20)]


@pytest.mark.parametrize("setting", [dict(share=0.8), dict(weight_decay=0.0), dict(fraction=1.0)])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=r"first_fraction|weight_decay|fraction takes"):
        CircuitEfficiency.at_scale("smoke", **setting)


def test_smoke_through_the_engine_with_other_conditions(tmp_path):
    run = unseen.run(
        "circuit-efficiency", scale="smoke", share=(0.2, 0.5), weight_decay=2.0, first_seed=0,
        out=str(tmp_path / "run"), quiet=True,
    )  # fmt: skip
    assert len(run.verdicts) == 4
    e = run.evidence
    assert np.isfinite(e.efficiency).all() and np.isfinite(e.random_efficiency).all()
    # Both shares come from one finished network, which was tested on the same pairs.
    assert (e.before_test_accuracy.sel(share=0.2) == e.before_test_accuracy.sel(share=0.5)).all()
    assert (e.test_accuracy.isel(step=0) == e.before_test_accuracy).all()
    study = dataclasses.replace(CircuitEfficiency.at_scale("smoke"), share=(0.2, 0.5), weight_decay=(2.0,))
    assert study.figure(e) is not None
