import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.open_ended_play import NAMES, OpenEndedPlay

STUDY = OpenEndedPlay()
FEW, WHOLE = STUDY.games
CELLS = {"fixed": (0, 0, 0), "uniform": (1, 0, 0), "dynamic": (1, 1, 0), "generations": (1, 1, 1)}
SEEDS, GAMES = 4, 40


def evidence(played=None, level=None, tuned=0.8, scratch=0.4, random=0.5, spread=0.01) -> xr.Dataset:
    """Shares `played` by way to train; final scores `level` times a line over games, in units that differ by game."""
    played = dict(fixed=0.6, uniform=0.85, dynamic=0.9, generations=0.96) | (played or {})
    level = dict(fixed=0.4, uniform=0.8, dynamic=1.0, generations=0.9) | (level or {})
    rng = np.random.default_rng(0)
    shape = (2, 2, 2, SEEDS)
    e = {name: np.full((*shape, *more), np.nan) for name, more in dict(
        played=(), final_score=(GAMES,), tuned=(4,), untuned=(4,), score=(3, GAMES)).items()}  # fmt: skip
    units, line = 10 ** rng.normal(size=GAMES), np.linspace(0, 1, GAMES)
    hard = np.array([1.0, 10.0, 0.1, 0.0])  # nobody ever scores in the last
    noise = spread * np.array([-1.0, 0.5, -0.5, 1.0])
    for name, cell in CELLS.items():
        e["played"][cell] = played[name] + noise * (1 + (name == "uniform"))
        e["final_score"][cell] = (
            level[name] * line + 0 * noise[:, None] + 0.01 * spread * rng.uniform(size=(SEEDS, 1))
        ) * units
        e["score"][cell] = e["final_score"][cell][:, None] * np.array([0.0, 0.5, 1.0])[:, None]
        e["tuned"][cell] = (tuned + noise)[:, None] * hard
        e["untuned"][cell] = 0.2 * hard
    base = ("games", "dynamic", "generations", "seed")
    dims = dict(played=(), final_score=("game",), tuned=("hard_game",), untuned=("hard_game",), score=("step", "game"))
    values = {name: ((*base, *dims[name]), e[name]) for name in e}
    values["scratch_tuned"] = (("seed", "hard_game"), scratch * hard + 0 * noise[:, None])
    values["random_played"] = (("seed",), random + noise)
    coords = dict(games=[FEW, WHOLE], dynamic=[0.0, 1.0], generations=[1, 2], seed=range(SEEDS), step=[0, 192, 384])
    return xr.Dataset(values, coords)


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("breadth", {}, 0.25, "supported"),
        ("breadth", dict(played=dict(uniform=0.6)), 0.0, "refuted"),
        ("breadth", dict(played=dict(uniform=0.67)), 0.07, "inconclusive"),
        ("dynamic", {}, 0.2, "supported"),
        ("dynamic", dict(level=dict(dynamic=0.6, generations=1.0)), -0.2, "refuted"),
        ("participation", {}, 0.96, "supported"),
        ("participation", dict(random=0.8), 0.96, "inconclusive"),
        ("participation", dict(played=dict(generations=0.8)), 0.8, "refuted"),
        ("finetune", {}, 0.37, "supported"),
        ("finetune", dict(tuned=0.3), -0.19, "refuted"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert judgement.outcome == outcome and np.isclose(judgement.effect.estimate, estimate, atol=0.02)


def test_scores_are_compared_in_units_of_each_games_best():
    e = evidence(spread=0.0)
    weak = STUDY.percentiles(e, e.final_score).sel(percentile=20)
    expected = {"fixed": 0.4, "uniform": 0.8, "dynamic": 1.0, "generations": 0.9}
    # The game at the lower end of the line is nobody's, so percentiles run over the other 39, all at the same ratio.
    for name, ratio in expected.items():
        assert np.allclose(STUDY.of(weak, name), ratio)
    tuned = STUDY.judgement("finetune", e)
    assert np.isclose(tuned.effect.estimate, 0.75 * (1 - 0.5))


def test_a_lost_run_leaves_its_claims_open():
    e = evidence()
    for name in ("played", "final_score", "tuned"):
        e[name][dict(games=1, dynamic=1, seed=2)] = np.nan
    for claim in ("dynamic", "participation", "finetune"):
        assert STUDY.judgement(claim, e).outcome == "inconclusive"


def test_what_a_user_left_out_is_said_and_the_rest_drawn():
    e = evidence()
    few = OpenEndedPlay(games=(8,))
    with pytest.raises(UserError, match="games"):
        few.breadth(e.sel(games=[8]))
    single = OpenEndedPlay(generations=(1,))
    with pytest.raises(UserError, match="generations"):
        single.participates(e.sel(generations=[1]))
    assert len(STUDY.figure(e).axes) == len(NAMES)
    assert len(single.figure(e.sel(generations=[1]).isel(seed=[0])).axes) == 3


def test_cells_are_four_by_default():
    cells = [
        (g, d, n) for g in STUDY.games for d in STUDY.dynamic for n in STUDY.generations if STUDY.includes(g, d, n)
    ]
    assert cells == [(FEW, 0.0, 1), (WHOLE, 0.0, 1), (WHOLE, 1.0, 1), (WHOLE, 1.0, 2)]


def test_bad_settings_are_named():
    for name, value in dict(
        games=(0,), dynamic=(0.5,), generations=(0,), iterations=7, distil=-1.0, side=4, horizon=0, episodes=0
    ).items():
        with pytest.raises(UserError, match=name):
            OpenEndedPlay(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("open-ended-play", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {"breadth", "dynamic", "participation", "finetune"}
    e = run.evidence
    cell = {name: STUDY.of(e.score, name) for name in NAMES}
    # Before the first update all are the same players; the filter and the new generation make runs differ.
    for name in ("uniform", "dynamic", "generations"):
        assert np.array_equal(cell["fixed"].isel(step=0), cell[name].isel(step=0))
    # Few returns of few short games may be alike by chance; those of 64 episodes each are not.
    assert not np.array_equal(STUDY.of(e.untuned, "dynamic"), STUDY.of(e.untuned, "generations"))
    assert not np.array_equal(STUDY.of(e.training_scored, "fixed"), STUDY.of(e.training_scored, "uniform"))
    assert bool(((e.random_score >= 0) & (e.random_score <= 1)).all())
    assert bool(np.isnan(e.played.sel(games=8, dynamic=1.0)).all())
