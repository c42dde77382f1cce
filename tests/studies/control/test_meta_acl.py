import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.meta_acl import MetaACL

STUDY = MetaACL.at_scale("laptop", seeds=4, body_seeds=4)
JITTER = np.array([-0.004, -0.002, 0.002, 0.004])


def evidence(random=0.01, alp=0.4, again=0.5, far=0.42, plain=0.5, taught=0.6) -> xr.Dataset:
    """Shares of mastered skills, and of contexts solved by PPO learners, at the end."""
    steps = [0, 5000, 10000]
    ramp = np.array([0.0, 0.5, 1.0])
    shares = np.array([random, alp, 1.0])
    mastered = (shares[:, None] + JITTER)[..., None] * ramp
    matched = np.array([again, again - 0.01, again - 0.02, far])
    met = (matched[:, None] + 2 * JITTER)[..., None] * ramp
    solved = (np.array([plain, taught])[:, None] + np.stack([JITTER, -JITTER]))[..., None] * ramp
    return xr.Dataset(
        {
            "mastered": (("teacher", "seed", "step"), mastered),
            "again_mastered": (("match", "seed", "again_step"), met),
            "solved_share": (("real_teacher", "seed", "bodies_step"), solved),
            "shown_tasks": (("seed", "when", "task", "axis"), np.full((4, 3, 5, 2), 0.5)),
            "shown_skill": (("seed", "when", "row", "column"), np.zeros((4, 3, 10, 10))),
        },
        coords={
            "teacher": ["random", "alp-gmm", "oracle"], "match": STUDY.matches, "seed": range(4), "step": steps,
            "again_step": [0, 4500, 9000], "real_teacher": ["alp-gmm", "again"], "bodies_step": [0, 1, 2],
            "when": [500, 5000, 9750],
        },
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "estimate"), [("beats-acl", 10), ("acl-sanity", 39), ("matching", 8), ("real-learners", 0.1)]
)
def test_what_supports_the_claims(claim, estimate):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported" and verdict.effect.estimate == pytest.approx(estimate, rel=1e-3)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("beats-acl", dict(again=0.35)),
        ("acl-sanity", dict(random=0.38)),
        ("matching", dict(far=0.55)),
        ("real-learners", dict(taught=0.4)),
    ],
)
def test_what_refutes_them(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("beats-acl", dict(again=0.43)),
        ("acl-sanity", dict(alp=0.15)),
        ("matching", dict(far=0.48)),
        ("real-learners", dict(taught=0.51)),
    ],
)
def test_what_leaves_them_open(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "inconclusive"


def test_the_notes_say_where_the_numbers_lie():
    verdict = STUDY.judgement("beats-acl", evidence())
    assert "mastered under random 1%, alp-gmm 40%, oracle 100%" in verdict.note
    assert "nearest of 16: 9 " in verdict.note and "nearest of 4: 8 " in verdict.note


def test_the_figure_is_drawn_without_some_conditions():
    STUDY.figure(evidence())
    STUDY.figure(evidence().sel(teacher=["random"], seed=[0]).drop_vars(["again_mastered", "shown_skill"]))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(episodes=10_100), "episodes takes a multiple of fit_every"),
        (dict(episodes=1_250), "two rounds or more"),
        (dict(classroom=2), "classroom takes 4 learners"),
        (dict(teacher="human"), "teacher takes random"),
        (dict(real_teacher="human"), "real_teacher takes"),
    ],
)
def test_bad_settings(settings, says):
    with pytest.raises(UserError, match=says):
        MetaACL.at_scale("laptop", **settings)


def test_smoke_through_the_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("UNSEEN_HOME", str(tmp_path / "home"))
    # One of the two PPO programs and one of the three teachers: compiling is nearly all of the time.
    settings = dict(first_seed=0, seeds=1, teacher="oracle", real_teacher="alp-gmm", quiet=True)
    run = unseen.run("meta-acl", scale="smoke", out=str(tmp_path / "run"), **settings)
    e = run.evidence
    assert len(run.verdicts) == 4
    # 80 visits of the oracle, who masters a skill in 76; the others cannot do better.
    assert e.mastered.sel(teacher="oracle").isel(step=-1, seed=0) == pytest.approx(1 / 9)
    assert (e.again_mastered <= 1 / 9 + 1e-6).all() and e.again_mastered.sizes["match"] == 3
    assert np.isfinite(e.test_return).all() and e.solved_share.sizes["bodies_step"] == 2
