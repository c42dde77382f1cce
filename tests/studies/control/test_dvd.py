import jax
import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.dvd import START, Dvd, _maze

STUDY = Dvd()


def evidence(best=None, wall_free=0.0, redundant=2.0, spread=0.01) -> xr.Dataset:
    """Final normalised returns `best` by algorithm with the wall, 1 without it (adaptive: `wall_free` more)."""
    best = dict(independent=0.5, novelty=0.6, dvd=0.8, adaptive=0.8) | (best or {})
    rng = np.random.default_rng(0)
    names, seeds = list(STUDY.algorithm), range(6)
    values = np.ones((4, 2, 6, 3)) + spread * rng.normal(size=(4, 2, 6, 1))
    values[:, 1] += np.array([best[name] - 1 for name in names])[:, None, None]
    values[3, 0] += wall_free
    dims = ("algorithm", "wall", "seed", "step")
    coords = dict(algorithm=names, wall=[0.0, 1.0], seed=seeds, step=[0, 75, 150])
    free = 3.0 + spread * rng.normal(size=(2, 6, 1)) + np.array([redundant, 0.0])[:, None, None] * np.ones((2, 6, 3))
    path = START + np.cumsum(rng.normal(size=(4, 2, 6, 5, 10, 2)), 4) * 0.2
    return xr.Dataset(
        {
            "best_return": (dims, values),
            "effective": (dims, 2 * values),
            "free_effective": (("score", "seed", "reward_free_step"), free),
            "path": (("algorithm", "wall", "seed", "member", "time", "axis"), path),
        },
        coords | dict(score=["determinant", "pairwise"], reward_free_step=[0, 75, 150]),
    )


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("escape", {}, 0.2, "supported"),
        ("escape", dict(best=dict(novelty=0.9)), -0.1, "refuted"),
        ("escape", dict(best=dict(independent=0.78)), 0.02, "inconclusive"),
        ("no-cost", {}, 0.0, "supported"),
        ("no-cost", dict(wall_free=-0.2), -0.2, "refuted"),
        ("redundancy", {}, 2.0, "supported"),
        ("redundancy", dict(redundant=0.0), 0.0, "refuted"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.02) and judgement.outcome == outcome


def test_a_lost_run_of_a_rival_leaves_escape_open():
    e = evidence()
    e["best_return"][dict(algorithm=1, wall=1, seed=2)] = np.nan
    assert STUDY.judgement("escape", e).outcome == "inconclusive"


def test_references_know_the_way_and_the_straight_path_is_a_dead_end():
    (still, free), (same, around) = STUDY.references(False), STUDY.references(True)
    assert float(still) == pytest.approx(-60 * 11.0) == float(same)
    assert 0.5 * float(still) < float(around) <= float(free) < 0.4 * float(still)

    def straight(observation):
        return jax.numpy.array([1.0, 0.0])

    blocked, states = STUDY.episode(straight, _maze(True))
    assert 6.9 < float(states[-1, 0]) < 7.0 and float(states[-1, 1]) == 6.5
    open_way, _ = STUDY.episode(straight, _maze(False))
    assert float(blocked) < float(around) and float(open_way) > float(blocked)


def test_figure_draws_also_what_a_user_left():
    e = evidence()
    assert len(STUDY.figure(e).axes) == 6
    few = Dvd(algorithm=("adaptive",), wall=(0.0,))
    assert len(few.figure(e.sel(algorithm=["adaptive"], wall=[0.0]).isel(seed=[0])).axes) == 3


def test_bad_settings_are_named():
    for name, value in dict(algorithm=("ga",), wall=(0.5,), updates=7, weight_of_diversity=2.0).items():
        with pytest.raises(UserError, match=name):
            Dvd(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("dvd", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {"escape", "no-cost", "redundancy"}
    e = run.evidence
    assert bool((e.best_return <= 1.05).all()) and bool((e.effective >= 0.99).all())
    assert bool((e.effective <= 3.01).all()) and bool((e.free_weight == 1.0).all())
    assert bool((e.weight.sel(algorithm="independent") == 0).all())
    # Before the first update all algorithms have the same populations.
    first = e.best_return.isel(step=0)
    assert bool(np.allclose(first, first.isel(algorithm=0)))
