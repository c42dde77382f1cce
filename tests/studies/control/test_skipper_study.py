import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

pytest.importorskip("gymnax", reason="needs the extra control")

import unseen
from unseen.lab import UserError
from unseen.learners.skipper import Graph
from unseen.studies.control.skipper import ARMS, THEORY, Skipper, proxy

STUDY = Skipper()


def evidence(solved=None, trained=None, dqn=0.4, noise=0.3, outside=0.0, spread=0.02) -> xr.Dataset:
    """Shares solved by arm, the same at all difficulties; `noise` in the ranks of the value loss beside the edge error;
    a share of levels `outside` the bound."""
    solved = dict(zip(ARMS, (0.5, 0.6, 0.8, 0.75), strict=True)) | (solved or {})
    trained = dict.fromkeys(ARMS, 0.9) | (trained or {})
    rng, seeds, levels = np.random.default_rng(0), 5, 200
    share = lambda mean, *shape: np.clip(mean + spread * rng.normal(size=(seeds, *shape, 1)), 0, 1)  # noqa: E731
    success = np.stack([np.broadcast_to(share(solved[a], 4), (seeds, 4, levels)) for a in ARMS], 1)
    seen = np.stack([np.broadcast_to(share(trained[a]), (seeds, 25)) for a in ARMS], 1)
    error = rng.uniform(size=(seeds, 4, levels))
    loss = error + noise * rng.normal(size=error.shape)
    bound = loss + np.where(rng.uniform(size=error.shape) < outside, -0.1, 0.1)
    place, example = ("seed", "difficulty", "level"), ("seed", "example")
    values = dict(edge_error=error, value_loss=loss, plan_loss=loss, bound=bound, coarse_bound=bound + 5)
    path = np.tile(np.arange(9), (seeds, 3, len(ARMS), 1))
    return xr.Dataset(
        {
            "success": (("seed", "arm", *place[1:]), success),
            "seen_success": (("seed", "arm", "seen_level"), seen),
            "dqn_success": (place, np.broadcast_to(share(dqn, 4), error.shape)),
            "dqn_seen_success": (("seed", "seen_level"), np.broadcast_to(share(0.9), (seeds, 25))),
            **{name: (place, values[name]) for name in THEORY},
            "lava": ((*example, "cell"), rng.uniform(size=(seeds, 3, 64)) < 0.4),
            "checkpoint": ((*example, "vertex"), rng.integers(-1, 64, (seeds, 3, 7))),
            "edge": ((*example, "vertex", "onward"), rng.integers(0, 2, (seeds, 3, 7, 7))),
            "path": ((*example, "arm", "time"), path),
        },
        dict(seed=range(seeds), arm=list(ARMS), difficulty=list(STUDY.difficulties)),
    )


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("zero-shot", {}, 0.4, "supported"),
        ("zero-shot", dict(dqn=0.8), 0.0, "refuted"),
        ("zero-shot", dict(dqn=0.72), 0.08, "inconclusive"),
        ("temporal", {}, 0.3, "supported"),
        ("temporal", {"solved": {"direct goal": 0.9}}, -0.1, "refuted"),
        ("temporal", {"solved": {"direct goal": 0.78}}, 0.02, "inconclusive"),
        ("spatial", {}, 0.2, "supported"),
        ("spatial", {"solved": {"full-grid edges": 0.9}}, -0.1, "refuted"),
        # Better in training levels, too: the full grid was not fitted as well.
        ("spatial", {"trained": {"full-grid edges": 0.7}}, 0.2, "inconclusive"),
        ("guarantee", {}, 0.7, "supported"),
        ("guarantee", dict(noise=8.0), 0.0, "inconclusive"),
        ("guarantee", dict(outside=0.5), 0.7, "refuted"),
        ("guarantee", dict(outside=0.07), 0.7, "inconclusive"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert judgement.outcome == outcome and np.isclose(judgement.effect.estimate, estimate, atol=0.05)


def test_hard_levels_are_the_hard_ones():
    e = evidence()
    e["success"][dict(difficulty=[0, 1])] = 0.0
    assert np.isclose(STUDY.judgement("zero-shot", e).effect.estimate, 0.4, atol=0.03)
    assert np.isclose(STUDY.judgement("spatial", e).effect.estimate, 0.1, atol=0.03)


def test_a_lost_seed_or_a_missing_difficulty_leaves_claims_open():
    e = evidence()
    for name in ("success", "value_loss"):
        e[name][dict(seed=1)] = np.nan
    claims = ("zero-shot", "temporal", "spatial", "guarantee")
    assert {STUDY.judgement(c, e).outcome for c in claims} == {"inconclusive"}
    few = evidence().sel(difficulty=[0.25])
    with pytest.raises(KeyError, match="difficulty"):
        Skipper(difficulties=(0.25,)).judgement("zero-shot", few)


def test_figure_draws_also_one_seed():
    e = evidence()
    assert len(STUDY.figure(e).axes) == 2 and len(STUDY.figure(e.isel(seed=[0])).axes) == 2


def test_the_theory_of_a_graph_by_hand():
    """Start -> third -> goal looks better than start -> goal; truly the policy dies on the way to the third."""
    estimated = jnp.array([[0.0, 0.5, 0.9], [0, 0, 0], [0, 0.8, 0]])
    true = jnp.array([[0.0, 0.6, 0.0], [0, 0, 0], [0, 0.8, 0]])
    edges = estimated > 0
    problem = proxy(estimated, edges)
    plan = problem.plan()
    assert plan.following.tolist() == [2, -1, 1] and np.isclose(plan.values[0], 0.72)
    none = jnp.zeros(3, int)
    theory = STUDY.theory(Graph(none, none > 0, problem, plan, none), true, jnp.array(0.0))
    assert np.isclose(theory["edge_error"], (0.1 + 0.9) / 3)
    assert np.isclose(theory["plan_loss"], 0.6) and np.isclose(theory["value_loss"], 0.6)
    # The best plan is misjudged by 0.1, the one made by 0.9 on its first way and nothing on the second.
    assert np.isclose(theory["bound"], 1.0) and np.isclose(theory["coarse_bound"], 1.0)
    better = STUDY.theory(Graph(none, none > 0, problem, plan, none), true.at[0, 2].set(0.7), jnp.array(0.56))
    # Best and made are truly worth 0.6 and 0.56; errors are 0.1 and 0.2.
    assert np.isclose(better["value_loss"], 0.04) and np.isclose(better["bound"], 0.3)


def test_bad_settings_are_named():
    bad = dict(
        steps=7, vertices=1, cut=17, view="photo", dqn_view="", seen=26, examples=51
    )  # fmt: skip
    for name, value in bad.items():
        with pytest.raises(UserError, match=name):
            Skipper(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("skipper", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {"zero-shot", "temporal", "spatial", "guarantee"}
    e = run.evidence
    assert set(np.unique(e.success)) <= {0.0, 1.0} and set(np.unique(e.dqn_success)) <= {0.0, 1.0}
    # What is proved: on the graph, the plan loses no more than the bound along the two plans; that is the finer one.
    assert bool((e.plan_loss <= e.bound + 1e-4).all()) and bool((e.bound <= e.coarse_bound + 1e-4).all())
    assert bool((e.plan_loss >= -1e-4).all()) and bool((e.edge_error >= 0).all())
    first = e.path.isel(time=0)
    assert bool((first == e.checkpoint.isel(vertex=0)).all()) and bool((e.checkpoint.isel(vertex=1) >= 0).all())
    levels = STUDY.at_scale("smoke").test()
    assert not np.asarray(jax.device_get(levels.status))[np.arange(6), np.asarray(levels.start)].any()
