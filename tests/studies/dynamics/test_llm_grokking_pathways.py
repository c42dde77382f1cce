import dataclasses

import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.dynamics.llm_grokking_pathways import DOMAINS, LLMGrokkingPathways

STUDY = LLMGrokkingPathways.at_scale("laptop")
STEP = np.arange(0, 2401, 40)


def over(name, values):
    return xr.DataArray(list(values), dims=name, coords={name: list(values)})


def ramp(step, middle, width=400.0):
    """0 before, 1 after, 1/2 at the middle."""
    return ((step - middle) / width + 0.5).clip(0, 1)


def evidence(fall=0.4, control=0.0, clock=False, swapped=False, together=False) -> xr.Dataset:
    """Test accuracy and pathway distance change together, the later the smaller the share and the larger the
    seed; with `clock` the distance falls in the opposite order."""
    fraction, structure, step = over("fraction", STUDY.fraction), over("structure", STUDY.structure), over("step", STEP)
    seed = over("seed", range(6))
    middle = 1_400 - 2_000 * (fraction - 0.55) + 40 * seed
    path = ramp(step, 2_500 - middle if clock else middle)
    ran = structure | (fraction == 0.6)
    test = (ramp(step, middle) * structure).where(ran)
    wiggle = 0.001 * np.sin(step / 7)
    domain, domains_step = over("domain", DOMAINS), over("domains_step", STEP)
    when = xr.where(domain == "add", 800, 820 if together else 1_600) + 0 * seed
    paths = xr.where(domain == "add", 1_600, 800) if swapped else when
    return xr.Dataset(
        {
            "train_accuracy": (step >= 200) * xr.ones_like(test).where(ran),
            "test_accuracy": test,
            "train_loss": (wiggle + 0.01) * xr.ones_like(test),
            "distance": 0.7 - path * xr.where(structure, fall, control).where(ran),
            "consistency": path.where(ran),
            "two_train_accuracy": (domains_step >= 200) * xr.ones_like(when) * 1.0,
            "two_test_accuracy": ramp(domains_step, when),
            "two_distance": 0.7 - 0.3 * ramp(domains_step, paths) * xr.ones_like(when),
        }
    )


def test_evidence_that_follows_the_paper_supports_every_claim():
    e = evidence()
    assert {claim: STUDY.judgement(claim, e).outcome for claim in STUDY.claims} == dict.fromkeys(
        STUDY.claims, "supported"
    )
    assert STUDY.judgement("paths-converge", e).effect.estimate == pytest.approx(0.4)
    assert STUDY.judgement("not-a-clock", e).effect.estimate == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("paths-converge", dict(control=0.4)),
        ("not-a-clock", dict(clock=True)),
        ("asynchronous", dict(swapped=True)),
        ("asynchronous", dict(together=True)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_a_loss_that_follows_better_refutes_tracking():
    e = evidence()
    e["train_loss"] = 1 - e.test_accuracy
    e["distance"] = e.distance + 0.3 * np.cos(e.step / 50)
    assert STUDY.judgement("tracks-test", e).outcome == "refuted"


def test_runs_that_never_settle_are_missing():
    e = evidence()
    e["train_accuracy"] = e.train_accuracy.where(e.seed != 3, 0.5).where(e.train_accuracy.notnull())
    assert STUDY.judgement("paths-converge", e).effect.missing == 1


def test_only_training_pairs_are_watched_and_taught():
    import jax

    data = dataclasses.replace(STUDY, modulus=7, samples=10).tables(jax.random.key(0), DOMAINS, (0.75, 0.5))
    train = np.asarray(data.train).reshape(2, -1)
    assert (np.take_along_axis(train, np.asarray(data.watched), 1) == 1).all()
    assert ((np.asarray(data.targets) >= 0) == (np.asarray(data.train) > 0)).all()
    grid = np.arange(7)[:, None], np.arange(7)[None]
    assert (data.labels[0] == (grid[0] + grid[1]) % 7).all() and (data.labels[1] == 7 + (grid[0] - grid[1]) % 7).all()
    assert np.asarray(data.train).sum((1, 2)).tolist() == [37, 24]


@pytest.mark.parametrize("setting", [dict(fraction=1.0), dict(samples=1), dict(blocks=1), dict(steps=30)])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        LLMGrokkingPathways.at_scale("smoke", **setting)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("llm-grokking-pathways", scale="smoke", first_seed=0, out=str(tmp_path / "run"), quiet=True)
    e = run.evidence
    assert len(run.verdicts) == 4
    assert ((e.distance >= 0) & (e.distance <= 1)).sum() == e.distance.notnull().sum()
    loss = e.train_loss.sel(structure=True)
    assert (loss.isel(step=-1) < loss.isel(step=0)).all()
    assert e.two_distance.dims == ("seed", "domains_step", "domain")
