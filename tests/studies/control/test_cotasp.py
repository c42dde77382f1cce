import numpy as np
import pytest
import xarray as xr

pytest.importorskip("rejax")
import unseen
from unseen.lab import UserError
from unseen.studies.control import cotasp
from unseen.studies.control.cotasp import ARMS, FROZEN, JOINT, RANDOM, SCRATCH, SPARSE, TUNED, Cotasp

STUDY = Cotasp()
TASKS, KNOWN = STUDY.tasks, len(STUDY.sequence)


def evidence(
    lost=0.5, own=0.0, learned=0.9, tuned=0.9, sharing=1.0, frozen=0.3, related=0.8, scratch=0.5
) -> xr.Dataset:
    """Every arm learns each task to a level and then loses some of it; overlap follows the cosine more or less."""
    rng = np.random.default_rng(0)
    noise = lambda *shape: 0.01 * rng.normal(size=shape)  # noqa: E731
    arms, tasks = list(ARMS), list(TASKS)
    success = np.zeros((4, KNOWN + 1, len(arms), len(tasks)))
    levels = {TUNED: tuned, SPARSE: learned, FROZEN: learned, RANDOM: learned, JOINT: 0.9, SCRATCH: 0.9}
    falls = {TUNED: lost, SPARSE: own, FROZEN: own, RANDOM: own, JOINT: 0.0, SCRATCH: 0.9}
    for i, arm in enumerate(arms):
        for task in range(KNOWN):
            success[:, task + 1, i, task] = levels[arm] + noise(4)
            success[:, task + 2 :, i, task] = success[:, task + 1, i, task][:, None] - falls[arm]
    words = rng.normal(size=(len(tasks), 5))
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    cosine = np.broadcast_to(words @ words.T, (4, len(tasks), len(tasks)))
    weight = {SPARSE: sharing, FROZEN: frozen}
    overlap = np.zeros((4, len(arms), len(tasks), len(tasks)))
    for i, arm in enumerate(arms):
        other = rng.normal(size=(4, len(tasks), len(tasks)))
        overlap[:, i] = weight.get(arm, 0.0) * cosine + 0.4 * (other + other.transpose(0, 2, 1))
    adapted = np.full((4, len(arms), len(tasks) - KNOWN), scratch) + noise(4, len(arms), len(tasks) - KNOWN)
    adapted[:, arms.index(SPARSE), : len(STUDY.related)] += related - scratch
    return xr.Dataset(
        {
            "success": (("seed", "step", "arm", "task"), success),
            "adapted": (("seed", "arm", "unseen"), adapted),
            "overlap": (("seed", "arm", "task", "other"), overlap),
            "cosine": (("seed", "task", "other"), cosine),
            "active": (("seed", "arm", "task"), np.full((4, len(arms), len(tasks)), 0.2)),
            "used": (("seed", "arm"), np.full((4, len(arms)), 0.7)),
        },
        dict(seed=range(4), step=range(KNOWN + 1), arm=arms, task=tasks, other=tasks, unseen=tasks[KNOWN:]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("no-forgetting", {}, 0.5, "supported"),
        ("no-forgetting", dict(own=0.2), 0.3, "refuted"),  # it forgets too, though less
        ("no-forgetting", dict(lost=0.05), 0.05, "refuted"),
        ("no-forgetting", dict(lost=0.15), 0.15, "inconclusive"),
        ("plasticity", {}, 0.0, "supported"),
        ("plasticity", dict(learned=0.6), -0.3, "refuted"),
        ("semantic-sharing", dict(sharing=4.0), 0.95, "supported"),
        ("semantic-sharing", dict(sharing=4.0, frozen=40.0), 0.95, "refuted"),  # the frozen dictionary shares better
        ("semantic-sharing", dict(sharing=-1.0), -0.55, "refuted"),
        ("unseen-tasks", {}, 0.3, "supported"),
        ("unseen-tasks", dict(related=0.4), -0.1, "refuted"),
        ("unseen-tasks", dict(related=0.53), 0.03, "inconclusive"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.12 if claim == "semantic-sharing" else 0.02)
    assert judgement.outcome == outcome


def test_notes_tell_of_the_controls():
    said = {claim: STUDY.judgement(claim, evidence()).note for claim in ("no-forgetting", "plasticity", "unseen-tasks")}
    assert all(f"{arm} 0." in said["plasticity"] for arm in ARMS)
    assert "fine-tuning 0.48" in said["no-forgetting"] and "unrelated: " in said["unseen-tasks"]
    assert "unrelated tasks" in said["unseen-tasks"]


def test_one_seed_draws():
    assert len(STUDY.figure(evidence().isel(seed=[0])).axes) == 6


def test_the_tasks_sentences_are_what_is_read(monkeypatch):
    class Model:
        def encode(self, texts):
            assert texts == STUDY.suite().sentences
            return np.eye(len(texts), 3, dtype=np.float32)

    monkeypatch.setattr(cotasp, "embedder", Model)
    assert STUDY.embeddings().shape == (len(TASKS), 3)
    monkeypatch.setattr(cotasp, "embedder", lambda: None)
    with pytest.raises(UserError, match=r"pip install 'unseen\[control,atlas\]'"):
        STUDY.embeddings()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (dict(sequence=("reach",)), "sequence takes two tasks"),
        (dict(related=("fly",)), "different names"),
        (dict(unrelated=("door-open",)), "different names"),
        (dict(unrelated=()), "unrelated takes one task"),
        (dict(penalty=0.0), "penalty takes"),
        (dict(episodes=12), "multiple of minibatches"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(UserError, match=named):
        Cotasp(**settings).check()


def test_smoke(tmp_path):
    run = unseen.run("cotasp", scale="smoke", out=tmp_path, quiet=True)
    e = run.evidence
    assert e.success.sizes == {"seed": 2, "step": 3, "arm": 6, "task": 4} and bool(np.isfinite(e.success).all())
    assert bool(np.isfinite(e.adapted).all()) and e.overlap.sizes["task"] == 4
    for arm in (SPARSE, FROZEN, RANDOM):
        # With its own mask, the same episodes and protection the first task's success cannot change.
        assert np.array_equal(*(e.success.sel(arm=arm, task="reach").isel(step=step) for step in (1, 2)))
    assert (e.active.sel(arm=TUNED) == 1).all() and (e.active.sel(arm=SPARSE) < 1).all()
    assert np.array_equal(e.active.sel(arm=FROZEN, task="reach"), e.active.sel(arm=RANDOM, task="reach"))
    assert len(run.verdicts) == 4
