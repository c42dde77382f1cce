import dataclasses

import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError

pytest.importorskip("gymnax")

from unseen.studies.control.embodiment_scaling import EmbodimentScaling

STUDY = EmbodimentScaling.at_scale("laptop")


def evidence(by_bodies=(0.0, 0.1, 0.6, 0.9, 0.9), data=0.15, base=0.05, short_loss=0.3, spread=0.01) -> xr.Dataset:
    rng = np.random.default_rng(0)
    coords = {n: list(getattr(STUDY, n)) for n in ("bodies", "episodes", "short")} | {"seed": range(5)}
    links = np.tile([3, 4, 5, 6, 7], 13)[:64]
    score = xr.DataArray(np.full((5, 5, 2, 5, 64), np.nan), coords, ["bodies", "episodes", "short", "seed", "body"])
    for n, value in zip(STUDY.bodies, by_bodies, strict=True):
        score.loc[dict(bodies=n, episodes=128 // n, short=0.0)] = value
    score.loc[dict(bodies=4, episodes=32, short=0.0)] = data
    score.loc[dict(bodies=4, episodes=1, short=0.0)] = base
    score.loc[dict(bodies=64, episodes=2, short=1.0)] = by_bodies[3] - short_loss * (links > 5)
    noise = xr.DataArray(spread * rng.normal(size=(5, 64)), dims=("seed", "body"))
    return xr.Dataset({"score": score + noise, "links": score.notnull() * xr.DataArray(links, dims="body")})


@pytest.mark.parametrize(("claim", "estimate"), [("scaling", 0.15), ("bodies-not-data", 0.75), ("class-gap", 0.3)])
def test_claims_measure_what_was_put_in(claim, estimate):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported"
    assert verdict.effect.estimate == pytest.approx(estimate, abs=0.02)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("scaling", dict(by_bodies=(0.5, 0.5, 0.5, 0.5, 0.5), data=0.5)),
        ("bodies-not-data", dict(data=0.9)),
        ("class-gap", dict(short_loss=-0.2)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_missing_conditions_are_named_and_the_figure_draws_what_is_there():
    few = dataclasses.replace(STUDY, bodies=(128,), episodes=(1,))
    e = evidence().sel(bodies=[128], episodes=[1], short=[0.0])
    with pytest.raises(UserError):
        few.scaling(e)
    with pytest.raises(KeyError):
        few.class_gap(e)
    few.figure(e.isel(seed=[0]))
    assert len(STUDY.figure(evidence()).axes[0].lines) >= 3


def test_conditions_divide_one_budget():
    cells = {(n, k, s) for n in STUDY.bodies for k in STUDY.episodes for s in STUDY.short if STUDY.includes(n, k, s)}
    whole = {(n, 128 // n, 0.0) for n in STUDY.bodies}
    assert cells == whole | {(4, 1, 0.0), (64, 2, 1.0)}


@pytest.mark.parametrize("setting", [dict(bodies=(0,)), dict(pool=3), dict(short_bodies=99), dict(updates=7)])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        dataclasses.replace(STUDY, **setting)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("embodiment-scaling", scale="smoke", first_seed=0, out=str(tmp_path / "run"), quiet=True)
    assert len(run.verdicts) == 3
    loss = run.evidence.train_loss.sel(bodies=8, episodes=1, short=0.0)
    assert (loss.isel(step=-1) < loss.isel(step=0)).all()
    assert (abs(run.evidence.score.sel(bodies=8, episodes=1, short=0.0)) <= 1.2).all()
    # Bodies of training and test are different ones; all runs meet the same test bodies.
    study = EmbodimentScaling.at_scale("smoke")
    from unseen.worlds.control.embodiments import generate_bodies

    everyone = generate_bodies(study.pool + study.test_bodies)
    plans = np.asarray(everyone.swimmers.length)
    assert len(np.unique(plans, axis=0)) == len(plans)
    np.testing.assert_array_equal(
        run.evidence.links.sel(bodies=8, episodes=1, short=0.0).isel(seed=0), everyone.swimmers.links[study.pool :]
    )
