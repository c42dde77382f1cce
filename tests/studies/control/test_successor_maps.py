import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.successor_maps import SuccessorMaps

STUDY = SuccessorMaps.at_scale("laptop", seeds=4)
JITTER = xr.DataArray([-0.02, -0.01, 0.01, 0.02], dims="seed", coords={"seed": range(4)})
SCORES = {  # after reward change, after transition change
    "q-learning": (0.0, 0.0),
    "sr-walk": (0.95, 0.2),
    "sr-learned": (0.5, 0.2),
    "model-based": (1.0, 0.95),
}


def evidence(shift=-2.0, least=0.0, mean=0.5, **scores) -> xr.Dataset:
    table = SCORES | scores
    regained = xr.DataArray(
        [[list(table[a])] * 2 for a in STUDY.agent],
        dims=("agent", "world", "change"),
        coords={"agent": list(STUDY.agent), "world": list(STUDY.world), "change": ["reward", "transition"]},
    )
    after = xr.DataArray([0, 25], dims="after", coords={"after": [0, 25]})
    runs = xr.DataArray([shift, 0.0], dims="runs", coords={"runs": ["one-way", "random walk"]})
    place = xr.DataArray(np.eye(STUDY.track), dims=("place", "cell"))
    return xr.Dataset(
        {
            "regained": regained + 0 * after + JITTER,
            "learned": regained.isel(change=0, drop=True) * 0 + 1 + JITTER,
            "improvement_least": least + 0 * JITTER,
            "improvement_mean": mean + JITTER,
            "shift": runs + JITTER,
            "skew": 0.5 * runs + JITTER,
            "field": place + 0 * runs + 0 * JITTER,
        }
    )


CLAIMS = {"reward-revaluation": 0.95, "transition-revaluation": 0.70, "gpi": 0.5, "predictive-skew": -2.0}


@pytest.mark.parametrize(("claim", "estimate"), CLAIMS.items())
def test_the_reviews_distinctions_support_every_claim(claim, estimate):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported"
    assert verdict.effect.estimate == pytest.approx(estimate, abs=0.02)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("reward-revaluation", {"q-learning": (0.95, 0.0)}),  # the control, a learner without a map, does as well
        ("transition-revaluation", {"sr-walk": (0.2, 0.2)}),  # a deficit, but of any change
        ("transition-revaluation", {"sr-walk": (0.95, 0.95)}),
        ("gpi", dict(least=-0.1)),
        ("gpi", dict(mean=-0.5)),
        ("predictive-skew", dict(shift=0.0)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_one_seed_slightly_below_the_stored_policies_decides_nothing():
    assert STUDY.judgement("gpi", evidence(least=-1e-3)).outcome == "inconclusive"


def test_the_figure_takes_fewer_agents():
    SuccessorMaps.at_scale("laptop", agent=("sr-walk",)).figure(evidence())


@pytest.mark.parametrize("setting", [dict(agent="dyna"), dict(world="maze"), dict(discount=1.0), dict(track=2)])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        SuccessorMaps.at_scale("smoke", **setting)


def test_smoke_through_the_engine(tmp_path):
    settings = dict(world="two-stage", first_seed=0, out=str(tmp_path / "run"), quiet=True)
    run = unseen.run("successor-maps", scale="smoke", **settings)
    e = run.evidence
    assert len(run.verdicts) == 4 and not any("not in this evidence" in v.note for v in run.verdicts)
    assert (e.learned > 0.9).all()
    assert (e.regained.sel(agent="model-based", after=0) > 0.9).all()
    assert (e.improvement_least > -1e-6).all()
    assert (e["shift"].sel(runs="one-way") < 0).all()
