import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.world_model_extraction import WorldModelExtraction

STUDY = WorldModelExtraction.at_scale("laptop", seeds=4)
JITTER = xr.DataArray([-0.02, -0.01, 0.01, 0.02], dims="seed", coords={"seed": range(4)})


def evidence(exponent=-0.5, within=1.0, agree=1.0, myopic=0.2, deep=0.03, tracks=1.0) -> xr.Dataset:
    """Errors 0.2 n^exponent that grow with failure rates if `tracks` is positive."""
    depth = xr.DataArray(np.array(STUDY.depths, float), dims="depth", coords={"depth": list(STUDY.depths)})
    step = xr.DataArray(np.arange(9) * 250, dims="step", coords={"step": np.arange(9) * 250})
    trained = xr.DataArray([3.0, 1.0], dims="trained_depth", coords={"trained_depth": [1, 64]})
    samples = xr.DataArray([500, 1000, 2000, 5000, 10000], dims="samples")
    samples = samples.assign_coords(samples=samples)
    skill = {"network": trained * (1 + 1 / (1 + step)), "planner": 1 + 100 / samples, "coin": xr.DataArray(9.0)}
    found = {}
    for name, badness in skill.items():
        found[f"{name}_error"] = 0.2 * depth**exponent * badness**tracks * (1 + JITTER)
        found[f"{name}_failure"] = 0.01 * badness * (1 + JITTER) * depth**0
        found[f"{name}_within"] = (within + 0 * badness) * depth**0 * JITTER**0
    twins = {"twins_agree": agree, "twins_right": 1.0, "twins_myopic_error": myopic, "twins_deep_error": deep}
    return xr.Dataset(found | {name: value * (1 + 0.1 * JITTER) for name, value in twins.items()})


CLAIMS = ("readable", "bound", "myopic", "capability-tracks-model")


@pytest.mark.parametrize("claim", CLAIMS)
def test_evidence_that_follows_the_theory_supports_every_claim(claim):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported", verdict
    expected = {"readable": -0.5, "bound": 1.0, "myopic": 0.17, "capability-tracks-model": 1.0}[claim]
    assert verdict.effect.estimate == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("readable", dict(exponent=-0.05)),
        ("bound", dict(within=0.8)),
        ("myopic", dict(agree=0.3)),
        ("myopic", dict(deep=0.2)),
        ("capability-tracks-model", dict(tracks=-1.0)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


@pytest.mark.parametrize(
    "setting", [dict(deepest=48), dict(updates=13), dict(trained_depth=3), dict(outcomes=30), dict(deep_pairs=99)]
)
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        WorldModelExtraction.at_scale("laptop", **setting)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("world-model-extraction", scale="smoke", first_seed=0, out=str(tmp_path / "run"), quiet=True)
    e = run.evidence
    assert len(run.verdicts) == 4 and not any("not in this evidence" in v.note for v in run.verdicts)
    # Exact: at depth one a bet can be wrong, but an estimate is 0 or 1; no failure rate is outside [0, 1].
    assert ((e.network_failure >= 0) & (e.network_failure <= 1)).all()
    # A counted model of 10,000 transitions between 36 triples fails hardly ever; a coin fails often.
    assert (e.planner_failure.sel(samples=10000, depth=32) < 0.01).all()
    assert (e.coin_failure.sel(depth=32) > 0.2).all()
    # The read-out of a good planner is the median of the successes, which is within 1/n of the mean.
    assert (e.planner_error.sel(samples=10000, depth=64) < 0.03).all()
    assert float(e.planner_within.min()) > 0.9
