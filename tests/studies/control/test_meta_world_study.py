import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

pytest.importorskip("rejax")
import unseen
from unseen.lab import Learner, UserError
from unseen.studies.control.meta_world import TASKS, TRAINED, Demonstrations, MetaWorld

STUDY = MetaWorld()


def evidence(single=0.8, joint=0.6, trained=0.7, held_out=0.4, narrow=0.1, untrained=0.0) -> xr.Dataset:
    """Success by learner; that of a single-task policy off its own task is 0."""
    rng = np.random.default_rng(0)
    seeds, steps = range(4), [0, 1, 2]

    def noise(*shape):
        return 0.01 * rng.normal(size=shape)

    success = np.zeros((TRAINED, 4, 15)) + noise(TRAINED, 4, 15)
    success[np.arange(TRAINED), :, np.arange(TRAINED)] += single
    meta = np.zeros((2, 4, 3, 15, 4)) + noise(2, 4, 3, 15, 4)
    meta[0, :, -1, :TRAINED, -1] += trained
    meta[0, :, -1, TRAINED:, -1] += held_out
    meta[1, :, -1, :, -1] += narrow
    meta[:, :, 0] += untrained
    return xr.Dataset(
        {
            "success": (("task", "seed", "tested"), success),
            "joint_success": (("seed", "tested"), joint + noise(4, 15)),
            "meta_success": (("breadth", "seed", "meta_step", "tested", "episode"), meta),
            "expert_success": (("seed", "real_task"), np.ones((4, 15))),
            "clone_success": (("seed", "real_task"), np.full((4, 15), 0.5)),
        },
        dict(
            task=range(TRAINED), seed=seeds, tested=list(TASKS), breadth=[TRAINED, 1], meta_step=steps,
            episode=range(4), real_task=[f"{t}-v3" for t in TASKS],
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("parametric", {}, 0.8, "supported"),
        ("parametric", dict(single=0.5), 0.5, "refuted"),
        ("joint-struggle", {}, -0.2, "supported"),
        ("joint-struggle", dict(joint=0.8), 0.0, "refuted"),
        ("joint-struggle", dict(joint=0.725), -0.075, "inconclusive"),
        ("meta-gap", {}, 0.3, "supported"),
        ("meta-gap", dict(held_out=0.65), 0.05, "refuted"),
        ("narrow-vs-broad", {}, 0.3, "supported"),
        ("narrow-vs-broad", dict(narrow=0.4), 0.0, "refuted"),
        ("narrow-vs-broad", dict(narrow=0.38), 0.02, "inconclusive"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.015) and judgement.outcome == outcome


def test_the_untrained_network_is_told_beside_both():
    judgement = STUDY.judgement("narrow-vs-broad", evidence(untrained=0.1))
    assert "untrained 0.10" in judgement.note
    assert "broad minus untrained: 0.30" in judgement.note
    assert "narrow minus untrained: 0.00" in judgement.note


def test_fewer_tasks_leave_means_over_ten_open_and_still_draw():
    few = evidence().isel(task=[0, 3], seed=[0], breadth=[1])
    for claim in ("parametric", "joint-struggle"):
        with pytest.raises(UserError, match="task takes all numbers"):
            STUDY.judgement(claim, few)
    assert len(STUDY.figure(few).axes) == 3
    assert len(STUDY.figure(few.drop_vars(["expert_success", "clone_success"])).axes) == 2


def test_what_is_trained_on_is_what_is_drawn():
    """Single: its own task. Joint: ten. RL2 on one task: the narrow one; on three: two more."""
    weights = {}

    def remember(name):
        def learner(environment, params, **_):
            weights[name] = np.asarray(params.weight)
            return Learner.once(lambda key: {})

        return learner

    with pytest.MonkeyPatch.context() as patch:
        module = "unseen.studies.control.meta_world"
        patch.setattr(f"{module}.multi_task_ppo", remember("feed-forward"))
        patch.setattr(f"{module}.rl2", remember("recurrent"))
        study = MetaWorld(narrow_task="push")
        study.learner(jnp.array(3))
        assert np.flatnonzero(weights["feed-forward"]).tolist() == [3]
        study.joint()
        assert np.allclose(weights["feed-forward"], [0.1] * 10 + [0.0] * 5)
        study.meta(jnp.array(1))
        assert np.flatnonzero(weights["recurrent"]).tolist() == [TASKS.index("push")]
        study.meta(jnp.array(3))
        assert np.flatnonzero(weights["recurrent"]).tolist() == [0, 1, 2]
        study.meta(jnp.array(10))
        assert np.allclose(weights["recurrent"], [0.1] * 10 + [0.0] * 5)


def test_demonstrations_are_read_on_one_scale():
    seen = np.array([[0.0, 10.0], [2.0, 30.0]], np.float32)
    data = Demonstrations(seen, np.zeros((2, 4), np.float32))
    assert np.allclose(data.inputs[0], [[-1, -1], [1, 1]]) and data.train.shape == (2,)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (dict(task=(0, 12)), "task takes"),
        (dict(breadth=(0,)), "breadth takes"),
        (dict(narrow_task="lever-pull"), "narrow_task takes"),
        (dict(episodes=1), "episodes takes"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(UserError, match=named):
        MetaWorld(**settings).check()


def test_smoke(tmp_path):
    run = unseen.run("meta-world", scale="smoke", out=tmp_path, quiet=True)
    e = run.evidence
    assert e.success.sizes["tested"] == 15 and bool(np.isfinite(e.success).all())
    assert e.meta_success.sizes["episode"] == 2 and bool(np.isfinite(e.meta_success).all())
    untrained = e.meta_success.isel(meta_step=0)
    assert np.array_equal(untrained.sel(breadth=10), untrained.sel(breadth=1))  # the same network before training
    assert len(run.verdicts) == 4
