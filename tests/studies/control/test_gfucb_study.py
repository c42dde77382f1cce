import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.gfucb import Gfucb

STUDY = Gfucb.at_scale("laptop", seeds=4, neural_seeds=3)
JITTER = xr.DataArray([-0.02, -0.01, 0.01, 0.02], dims="seed", coords={"seed": range(4)})


def over(name, values) -> xr.DataArray:
    return xr.DataArray(list(values), dims=name, coords={name: list(values)})


def evidence(falls=-0.4, own=1.0, neural=0.5) -> xr.Dataset:
    """Regret 100 M^falls of a task with a shared map, and 100 `own` with maps of their own."""
    tasks, shared, rounds = over("tasks", STUDY.tasks), over("shared", STUDY.shared), over("round", [10, 500])
    late = over("neural_round", [10, 250])
    padded = (JITTER * 0 + 1).where(JITTER.seed < 3)
    regret = xr.where(shared == 1, 100.0 * tasks**falls, 100.0 * own * tasks**0) * (1 + JITTER) * rounds / 500
    alone = 100 * (1 + JITTER) * rounds / 500 + 0 * tasks + 0 * shared
    return xr.Dataset(
        {
            "regret": regret,
            "independent_regret": alone,
            "greedy_regret": regret,
            "neural_regret": 60 * neural * (1 + JITTER) * padded * late / 250,
            "neural_independent_regret": 60 * (1 + JITTER / 2) * padded * late / 250,
            "neural_chance_regret": 200 * padded + 0 * late,
        }
    )


CLAIMS = {"sharing": -0.4, "vs-independent": 10**-0.4 - 1, "unshared-control": 1 - 10**-0.4}


@pytest.mark.parametrize(("claim", "estimate"), CLAIMS.items())
def test_evidence_that_follows_the_theory_supports_every_claim(claim, estimate):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported", verdict
    assert verdict.effect.estimate == pytest.approx(estimate, abs=0.02)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("sharing", dict(falls=0.1)),
        ("vs-independent", dict(falls=0.1)),
        ("vs-independent", dict(neural=1.5)),
        ("unshared-control", dict(own=0.2)),  # the control: as good without anything shared
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_the_figure_takes_one_condition():
    Gfucb.at_scale("laptop", tasks=10, shared=1.0, neural_seeds=3).figure(evidence().sel(tasks=[10], shared=[1.0]))


@pytest.mark.parametrize("setting", [dict(maps=1), dict(rounds=15), dict(tasks=0), dict(neural_tasks=1)])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        Gfucb.at_scale("smoke", **setting)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("gfucb", scale="smoke", first_seed=0, out=str(tmp_path / "run"), quiet=True)
    e = run.evidence
    assert len(run.verdicts) == 3
    # One task is no joint learning: the joint and the independent learner are the same.
    one = e.sel(tasks=1)
    np.testing.assert_allclose(one.regret, one.independent_regret, rtol=1e-4)
    np.testing.assert_allclose(one.regret.sel(shared=1.0), one.regret.sel(shared=0.0), rtol=1e-4)
    assert (e.regret.diff("round") >= -1e-4).all() and (e.neural_regret >= 0).all()
