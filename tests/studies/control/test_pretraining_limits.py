import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.pretraining_limits import PretrainingLimits

STUDY = PretrainingLimits.at_scale("laptop", seeds=4, regret_seeds=3)
JITTER = xr.DataArray([-0.02, -0.01, 0.01, 0.02], dims="seed", coords={"seed": range(4)})


def over(name, values) -> xr.DataArray:
    return xr.DataArray(list(values), dims=name, coords={name: list(values)})


def evidence(closes=-1.0, floor=0.2, early=3.0, flattens=-0.1, apart=0.1, tried=0.0, explored=0.6) -> xr.Dataset:
    training, copies = over("training", [2**i for i in range(7)]), over("copies", STUDY.copies)
    pull = over("pull", range(100, STUDY.pulls + 1, 100))
    slopes = xr.DataArray([flattens, flattens + apart], dims="family", coords={"family": list(STUDY.family)})
    met = (JITTER * 0 + 1).where(JITTER.seed < 3)  # parts with fewer seeds are padded
    size = copies * STUDY.core
    return xr.Dataset(
        {
            "average_gap": 0.1 * training**closes * (1 + JITTER),
            "suboptimality": floor + 0.1 / training + JITTER / 10,
            "reference_suboptimality": floor + JITTER,
            "ratio": early * (pull / 100) ** (slopes + JITTER / 10) * met,
            "elimination_regret": 50 * size ** (tried + JITTER) * met,
            "ucbvi_regret": 50 * size ** (explored + JITTER) * met,
        }
    )


CLAIMS = {"average-sense": -1.0, "constant-factor": -0.1, "separated-control": 0.1, "size-free": 0.0}


@pytest.mark.parametrize(("claim", "estimate"), CLAIMS.items())
def test_evidence_that_follows_the_theory_supports_every_claim(claim, estimate):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported", verdict
    assert verdict.effect.estimate == pytest.approx(estimate, abs=0.02)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("average-sense", dict(closes=-0.05)),
        ("average-sense", dict(floor=-0.01)),
        ("constant-factor", dict(flattens=0.3)),
        ("separated-control", dict(apart=-0.1)),  # the control breaks it
        ("size-free", dict(tried=0.5, explored=1.2)),
        ("size-free", dict(explored=0.0)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_no_early_advantage_is_no_support():
    assert STUDY.judgement("constant-factor", evidence(early=1.1)).outcome == "inconclusive"


@pytest.mark.parametrize("setting", [dict(most=48), dict(pulls=150), dict(targets=9), dict(spread=2.0)])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        PretrainingLimits.at_scale("smoke", **setting)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("pretraining-limits", scale="smoke", first_seed=0, out=str(tmp_path / "run"), quiet=True)
    e = run.evidence
    assert len(run.verdicts) == 4
    # Exact: no policy is better than each environment's optimum, and one for all is worse than that.
    assert (e.suboptimality > 0).all() and (e.reference_suboptimality > 0).all()
    # Training on one environment is worse for others than training on eight.
    gap = e.average_gap.mean("seed")
    assert float(gap.sel(training=1)) > float(gap.sel(training=8))
    met = e.isel(seed=slice(0, 2))
    assert (met.ratio > 0).all() and np.isfinite(met.elimination_regret).all() and (met.ucbvi_regret > 0).all()
