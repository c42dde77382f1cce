import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.curiosity_snapshots import ARMS, TASKS, CuriositySnapshots
from unseen.worlds.control import PLAYROOM_EVENTS

STUDY = CuriositySnapshots()


def evidence(peak=(0.8, 0.5), end=(0.3, 0.4), areas=None, spread=0.01) -> xr.Dataset:
    """Under curiosity and the fixed reward each predicate has its `peak` at a snapshot of its own and is `end` last;
    success on every task is the arm's area all along."""
    areas = dict(zip(ARMS, (0.7, 0.5, 0.4, 0.4, 0.3), strict=True)) | (areas or {})
    rng = np.random.default_rng(0)
    names, steps = list(PLAYROOM_EVENTS), np.arange(21) * 20_480
    truth = np.full((2, 5, 21, len(names)), 0.2) + spread * rng.normal(size=(2, 5, 1, 1))
    for i in range(len(names)):
        truth[:, :, 3 + 2 * i, i] += (np.array(peak) - 0.2)[:, None]
    truth[:, :, -1] += (np.array(end) - 0.2)[:, None, None]
    truth[:, :, 0] = 0.99  # what the untrained policy does is no behaviour that emerged
    noise = 0.01 * rng.normal(size=(2, *truth.shape))
    dims = ("curious", "seed", "step", "predicate")
    success = np.array([areas[arm] for arm in ARMS])[:, None] + spread * rng.normal(size=(5, 16, len(ARMS), len(TASKS)))
    success[:, 0] = 0
    return xr.Dataset(
        {
            "chosen": (dims, truth + noise[0]),
            "fresh": (dims, truth + noise[1]),
            "success": (("seed", "transfer_step", "arm", "task"), success),
        },
        dict(
            curious=[1.0, 0.0], seed=range(5), step=steps, predicate=names, arm=list(ARMS),
            task=list(TASKS), transfer_step=np.arange(16) * 4096,
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("emerge-and-vanish", {}, 0.5, "supported"),
        ("emerge-and-vanish", dict(peak=(0.35, 0.35), end=(0.3, 0.3)), 0.05, "refuted"),
        ("emerge-and-vanish", dict(peak=(0.8, 0.95), end=(0.3, 0.3)), 0.5, "refuted"),  # the control loses more
        ("emerge-and-vanish", dict(peak=(0.45, 0.3), end=(0.3, 0.3)), 0.15, "inconclusive"),
        ("snapshots-help", {}, 0.4, "supported"),
        ("snapshots-help", dict(areas={"final only": 0.75}), 0.4, "refuted"),
        ("snapshots-help", dict(areas={"scratch": 0.69}), 0.01, "inconclusive"),
        ("content-control", {}, 0.3, "supported"),
        ("content-control", dict(areas={"untrained": 0.8}), -0.1, "refuted"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.02) and judgement.outcome == outcome


def test_a_snapshot_is_not_scored_on_the_episodes_that_chose_it():
    # Pure noise in both: the best of twenty looks good where it was chosen and is nothing special elsewhere.
    e = evidence(peak=(0.2, 0.2), end=(0.2, 0.2), spread=0.0)
    rng = np.random.default_rng(1)
    for name in ("chosen", "fresh"):
        e[name] = e[name] + 0.1 * rng.normal(size=e[name].shape)
    assert STUDY.judgement("emerge-and-vanish", e).outcome == "refuted"
    e["fresh"] = e.chosen
    assert STUDY.judgement("emerge-and-vanish", e).effect.estimate > 0.1


def test_a_lost_seed_leaves_its_claim_open():
    e = evidence()
    e["success"][dict(seed=2)] = np.nan
    assert STUDY.judgement("content-control", e).outcome == "inconclusive"
    e["fresh"][dict(seed=1)] = np.nan
    assert STUDY.judgement("emerge-and-vanish", e).outcome == "inconclusive"


def test_figure_draws_also_what_a_user_left():
    e = evidence()
    assert len(STUDY.figure(e).axes) == 6  # two of them colour bars
    assert len(STUDY.figure(e.sel(curious=[0.0]).isel(seed=[0])).axes) == 5


def test_bad_settings_are_named():
    for name, value in dict(curious=(0.5,), iterations=33, task_iterations=7, capacity=1000, snapshots=0).items():
        with pytest.raises(UserError, match=name):
            CuriositySnapshots(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("curiosity-snapshots", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {"emerge-and-vanish", "snapshots-help", "content-control"}
    e = run.evidence
    assert e.sizes["predicate"] == 6 and e.sizes["arm"] == 5 and e.sizes["task"] == 4
    assert bool(((e.fresh >= 0) & (e.fresh <= 1)).all()) and bool(((e.success >= 0) & (e.success <= 1)).all())
    # Before anything is learned the reward makes no difference; later it does.
    first, last = e.fresh.isel(step=0), e.curious_surprise.isel(step=-1)
    assert bool((first.sel(curious=1.0) == first.sel(curious=0.0)).all())
    assert bool((last.sel(curious=1.0) != last.sel(curious=0.0)).any())
