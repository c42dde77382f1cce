import jax
import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.learners.projection_ensemble import ProjectionEnsemble
from unseen.methods.value_heads import CategoricalHead, QuantileHead
from unseen.studies.control.projection_ensembles import METHODS, PAIRS, TASKS, ProjectionEnsembles, heads, unseen_input

STUDY = ProjectionEnsembles()
SEEDS = 6


def evidence(times=None, area=None, score=None, spread=0.01) -> xr.Dataset:
    """Episodes to the first solution at size 10, by explorer; areas under the ROC curve, by pair; scores."""
    times = {"diverse": 100, "2xQR": 400, "2xC51": 200, "bootstrapped": 300, "epsilon-greedy": 800} | (times or {})
    area = {"diverse": 0.95, "2xQR": 0.8, "2xC51": 0.7} | (area or {})
    score = {"diverse": 0.9, "epsilon-greedy": 0.9} | (score or {})
    rng = np.random.default_rng(0)
    sizes, x = [6, 10, 14], np.linspace(-1.5, 1.5, 121)
    seed = 1 + spread * rng.normal(size=SEEDS)
    first = np.array([times[m] for m in METHODS])[:, None, None] * np.sqrt(np.array(sizes) / 10)[:, None] * seed
    new = unseen_input(xr.DataArray(x)).values
    disagreement = np.zeros((3, SEEDS, x.size))
    for i, pair in enumerate(PAIRS):
        # Of the unseen inputs a share of area is above all seen ones, the rest below.
        high = np.flatnonzero(new)[: round(area[pair] * new.sum())]
        disagreement[i] = np.where(new, 0.0, 1.0)
        disagreement[i][:, high] = 2.0
    finals = np.array([score[a] for a in ("diverse", "epsilon-greedy")])[:, None] * seed
    curves = np.stack([0 * finals] * 2 + [finals], -1)
    return xr.Dataset(
        {
            "first_solve": (("explorer", "size", "seed"), np.minimum(first, 1500)),
            "found": (("explorer", "size", "seed"), first < 1500),
            "disagreement": (("pair", "seed", "x"), disagreement),
            "score": (("task", "agent", "seed", "tasks_step"), np.stack([curves] * 2)),
        },
        dict(
            explorer=list(METHODS), size=sizes, seed=range(SEEDS), pair=list(PAIRS), x=x, task=list(TASKS),
            agent=["diverse", "epsilon-greedy"], tasks_step=[0, 1200, 2400],
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("deep-exploration", {}, np.log10(100 / 800), "supported"),
        ("deep-exploration", dict(times={"diverse": 790}), np.log10(790 / 800), "refuted"),
        ("deep-exploration", dict(times={"diverse": 640}), np.log10(640 / 800), "inconclusive"),
        ("diversity", {}, np.log10(100 / 200), "supported"),
        ("diversity", dict(times={"2xQR": 50}), np.log10(100 / 50), "refuted"),
        ("ood-disagreement", {}, 0.2, "supported"),
        ("ood-disagreement", dict(area={"2xQR": 1.0, "2xC51": 1.0}), -0.05, "refuted"),
        ("harmless", {}, 0.0, "supported"),
        ("harmless", dict(score={"diverse": 0.5}), -0.4, "refuted"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.03) and judgement.outcome == outcome


def test_a_rival_that_was_not_run_leaves_diversity_open():
    e = evidence()
    e["first_solve"][dict(explorer=1, size=2, seed=3)] = np.nan
    assert STUDY.judgement("diversity", e).outcome == "inconclusive"


def test_pairs_have_the_heads_of_their_names():
    kinds = {pair: [type(head) for head in heads(pair, -1.0, 1.0, 5)] for pair in PAIRS}
    assert kinds["diverse"] == [QuantileHead, CategoricalHead]
    assert kinds["2xQR"] == [QuantileHead] * 2 and kinds["2xC51"] == [CategoricalHead] * 2


def test_the_bonus_and_epsilon_fall_within_their_share_of_a_run():
    task = TASKS["catch"](100)
    learner, acting = STUDY._agent("diverse", task, 3_000 * STUDY.lanes, 0.05, 1e-3, 4)
    assert isinstance(learner, ProjectionEnsemble) and acting["epsilon"] == 0.0
    assert float(learner.bonus_scale(0)) == STUDY.bonus and float(learner.bonus_scale(3_000 * STUDY.decay)) == 0
    _, acting = STUDY._agent("epsilon-greedy", task, 3_000 * STUDY.lanes, 0.05, 1e-3, 4)
    assert float(acting["epsilon"](0)) == 1.0 and float(acting["epsilon"](3_000 * STUDY.lanes)) == np.float32(0.05)


def test_figure_draws_also_what_a_user_left():
    e = evidence()
    assert len(STUDY.figure(e).axes) == 2
    few = e.sel(explorer=["epsilon-greedy"], pair=["2xQR"], size=[6]).isel(seed=[0])
    assert len(STUDY.figure(few).axes) == 2


def test_bad_settings_are_named():
    bad = dict(explorer=("ucb",), size=(1,), task=("pong",), episodes=7, decay=0.0, task_steps=1)
    for name, value in bad.items():
        with pytest.raises(UserError, match=name):
            ProjectionEnsembles(**{name: value})


def test_paper_scale_takes_its_first_steps():
    small = dict(size=(10,), episodes=30, rounds=3, atoms=101)
    study = ProjectionEnsembles(**(ProjectionEnsembles.paper | small | dict(task_steps=30)))
    learner = study.learner("diverse", 10)
    assert learner.steps == 300
    shapes = jax.eval_shape(lambda key: learner.advance(learner.init(key)).best, jax.random.key(0))
    assert shapes.shape == ()


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("projection-ensembles", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {v.claim for v in run.verdicts} == {"deep-exploration", "diversity", "ood-disagreement", "harmless"}
    e = run.evidence
    assert bool(((e.first_solve >= 1) & (e.first_solve <= 40)).all())
    assert bool(((e.score >= 0) & (e.score <= 1)).all()) and bool((e.disagreement > 0).all())
