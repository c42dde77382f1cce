import jax
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.offline.stitching import Stitching

ROOMS = list("ABCD")


def evidence(study, *, rvs, iql, swapped, transformer, oracle=1.0, chance=0.0):
    """Evidence as the engine would give it: (seen, unseen) success of each policy, a little noise over seeds."""
    noise = np.random.default_rng(0).normal(0, 0.01, (8, 2))
    shape = (2, 2, 3, 8)
    seen, unseen = np.full(shape, np.nan), np.full(shape, np.nan)
    cells = {(0, 0, i): rvs for i in range(3)} | {(1, 0, 1): iql, (0, 1, 1): swapped}
    for cell, pair in cells.items():
        seen[cell], unseen[cell] = (np.asarray(pair) + noise).T
    sequence = np.full((2, 2, 8), np.nan)
    for i, pair in enumerate(transformer):
        sequence[:, i, :5] = (np.asarray(pair) + noise[:5]).T
    dims = ("policy", "augmentation", "size", "seed")
    return xr.Dataset(
        {
            "seen": (dims, seen),
            "unseen": (dims, unseen),
            "success": ((*dims, "start", "goal"), np.broadcast_to(seen[..., None, None], (*shape, 4, 4))),
            "transformer_seen": (("augmentation", "seed"), sequence[0]),
            "transformer_unseen": (("augmentation", "seed"), sequence[1]),
            **{f"oracle_{k}": ("seed", np.full(8, oracle)) for k in ("seen", "unseen")},
            **{f"random_{k}": ("seed", np.full(8, chance)) for k in ("seen", "unseen")},
        },
        coords={
            "policy": list(study.policy), "augmentation": list(study.augmentation), "size": list(study.size),
            "seed": range(100, 108), "start": ROOMS, "goal": ROOMS,
        },
    )  # fmt: skip


STUDY = Stitching()
AS_CLAIMED = dict(rvs=(0.9, 0.3), iql=(0.8, 0.7), swapped=(0.9, 0.6), transformer=((0.9, 0.2), (0.9, 0.4)))
CONTRARY = dict(rvs=(0.9, 0.8), iql=(0.9, 0.6), swapped=(0.7, 0.8), transformer=((0.9, 0.8), (0.9, 0.8)))
JUDGES = (STUDY.no_stitching, STUDY.size_no_cure, STUDY.augmentation_helps, STUDY.no_cost)


@pytest.mark.parametrize("judge", JUDGES)
def test_claims_are_judged_both_ways(judge):
    assert judge(evidence(STUDY, **AS_CLAIMED)).outcome == "supported"
    assert judge(evidence(STUDY, **CONTRARY)).outcome == "refuted"


@pytest.mark.parametrize("broken", [{"oracle": 0.9}, {"chance": 0.2}])
@pytest.mark.parametrize("judge", JUDGES)
def test_no_claim_is_judged_when_a_manipulation_check_fails(judge, broken):
    judgement = judge(evidence(STUDY, **AS_CLAIMED, **broken))
    assert judgement.outcome == "inconclusive" and "no judgement is valid" in judgement.note


def test_the_contrast_is_that_of_both_supervised_policies():
    effect = STUDY.no_stitching(evidence(STUDY, **AS_CLAIMED)).effect
    # RvS loses 0.6, the transformer 0.7, IQL 0.1.
    assert effect.estimate == pytest.approx(-0.55, abs=1e-6) and effect.n == 5


def test_only_the_needed_cells_run():
    cells = [tuple(c.values()) for c in STUDY.cells(STUDY.parts["learner"])]
    assert sorted(cells) == [
        ("iql", 0.0, 100_000), ("rvs", 0.0, 25_000), ("rvs", 0.0, 100_000), ("rvs", 0.0, 400_000),
        ("rvs", 0.5, 100_000),
    ]  # fmt: skip
    assert not list(STUDY.cells(STUDY.parts["real"]))
    assert len(list(Stitching.at_scale("paper").cells(STUDY.parts["real"]))) == 9


def test_the_figure_frames_the_unseen_pairs():
    figure = STUDY.figure(evidence(STUDY, **AS_CLAIMED))
    frames = [p for ax in figure.axes for p in ax.patches]
    assert len(figure.axes) == 3 and len(frames) == 3 * 6


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="named regions"):
        Stitching(layout="open")
    with pytest.raises(UserError, match="pairs takes"):
        Stitching(pairs="AB BX")
    with pytest.raises(UserError, match="policy takes rvs and iql"):
        Stitching(policy=("rvs", "sac"))


@pytest.mark.parametrize("policy", ["rvs", "iql"])
def test_the_real_part_runs_in_mujoco(policy, tmp_path, monkeypatch):
    pytest.importorskip("gymnasium_robotics")
    monkeypatch.setenv("UNSEEN_HOME", str(tmp_path))
    smoke = Stitching.at_scale("smoke", real_transitions=300, real_episodes=1, real_horizon=15, steps=4)
    learner = smoke.real("u-maze", policy, 0.0)
    assert learner.host and learner.steps == 4
    state = learner.init(jax.random.key(0))
    for _ in range(learner.rounds):
        state = learner.advance(state)
    assert np.isfinite(learner.measure(state)["real_loss"])
    found = learner.final(state)
    assert set(found) == {"real_seen", "real_unseen"} and 0 <= found["real_unseen"] <= 1
