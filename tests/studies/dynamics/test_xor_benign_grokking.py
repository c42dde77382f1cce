import dataclasses

import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.dynamics.xor_benign_grokking import XorBenignGrokking

STUDY = XorBenignGrokking.at_scale("laptop", steps=2, seeds=4)
JITTER = xr.DataArray([-0.002, -0.001, 0.001, 0.002], dims="seed", coords={"seed": range(4)})


def evidence(first=1.0, test=(0.5, 0.5, 0.98), weak=0.5, flipped=1.0, linear=(0.0, 0.9, 0.1)) -> xr.Dataset:
    """Three steps with strong signal; with the weak one the test accuracy is `weak` throughout."""
    grid = xr.DataArray(np.ones((4, 3)), {"signal": list(STUDY.signal), "step": range(3)}, ["signal", "step"])
    step = grid.step.copy(data=np.arange(3.0))
    strong = grid.signal == 400.0
    train = xr.where(step == 1, first, xr.where(step == 0, 0.5, 1.0)) * grid
    unseen_ = xr.where(strong, xr.DataArray(list(test), dims="step", coords={"step": range(3)}), weak)
    share = grid * xr.DataArray(list(linear), dims="step", coords={"step": range(3)})
    cells = {"train_accuracy": train, "test_accuracy": unseen_, "flipped_accuracy": flipped * grid}
    return xr.Dataset({name: cell + JITTER for name, cell in {**cells, "linear_share": share}.items()})


@pytest.mark.parametrize(
    ("claim", "effect"),
    [("one-step-overfit", 1), ("benign-later", 0.98), ("linear-first", 0.8), ("signal-needed", 0.48)],
)
def test_evidence_that_follows_the_paper_supports_every_claim(claim, effect):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported"
    assert verdict.effect.estimate == pytest.approx(effect, abs=0.001)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("one-step-overfit", dict(first=0.9)),
        ("one-step-overfit", dict(test=(0.5, 0.8, 0.98))),
        ("benign-later", dict(test=(0.5, 0.5, 0.9))),
        ("benign-later", dict(flipped=0.5)),
        ("linear-first", dict(linear=(0.0, 0.9, 0.8))),
        ("signal-needed", dict(weak=0.9)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


@pytest.mark.parametrize("setting", [dict(samples=9_000), dict(test_points=1), dict(rate=0.0), dict(signal=(-1.0,))])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        dataclasses.replace(STUDY, **setting)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("xor-benign-grokking", scale="smoke", first_seed=0, quiet=True, out=str(tmp_path / "run"))
    e = run.evidence
    assert len(run.verdicts) == 4
    assert (e.linear_share.isel(step=1) > 0.5).all()  # the first step is a linear rule
    assert (e.train_accuracy.isel(step=-1) == 1).all()
    assert ((e.phase >= 0) & (e.phase <= 3)).all()
    assert STUDY.figure(e.isel(signal=[0], seed=[0])) is not None
