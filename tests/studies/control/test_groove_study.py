import jax
import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.groove import SCORES, SETS, GrooveStudy, Training
from unseen.worlds.control import level_keys
from unseen.worlds.control.grid_levels import TEST_LEVELS

STUDY = GrooveStudy()
MAZES = ["corridor", "spiral"]


def evidence(noise=None, returns=None, spread=0.01) -> xr.Dataset:
    """Scores that are regret plus `noise` each, and returns on all sets by rule."""
    noise = dict(zip(SCORES, (0.1, 1.0, 2.0), strict=True)) | (noise or {})
    returns = dict(random=0.5, regret=0.6, value=0.5) | (returns or {})
    rng, seeds, levels = np.random.default_rng(0), 4, 64
    cells = {(0.0, 1.0): "random", (0.5, 1.0): "regret", (0.5, 0.0): "value"}
    shape = (2, 2, seeds)
    regret = rng.random((*shape, levels))
    score = np.stack([regret + noise[s] * rng.normal(size=regret.shape) for s in SCORES], 3)
    value = np.full(shape, np.nan)
    for i, replay in enumerate((0.0, 0.5)):
        for j, weight in enumerate((1.0, 0.0)):
            if (replay, weight) in cells:
                value[i, j] = returns[cells[replay, weight]]
    value = value + spread * rng.normal(size=(1, 1, seeds)) + 0.1 * spread * rng.normal(size=shape)
    dims = ("replay", "regret", "seed")
    return xr.Dataset(
        {
            "score_of_level": ((*dims, "score", "level"), score),
            "regret_of_level": ((*dims, "level"), regret),
            "set_return": ((*dims, "set"), value[..., None] * np.ones(3)),
            "maze_return": ((*dims, "maze"), value[..., None] * np.ones(2)),
            "a2c_maze_return": (("seed", "maze"), np.full((seeds, 2), 0.7)),
        },
        dict(replay=[0.0, 0.5], regret=[1.0, 0.0], seed=range(seeds), score=list(SCORES), set=list(SETS), maze=MAZES),
    )


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("score", {}, 0.68, "supported"),
        ("score", dict(noise={SCORES[0]: 1.0, SCORES[2]: 0.1}), -0.68, "refuted"),
        ("score", dict(noise={SCORES[1]: 0.1}), 0.0, "inconclusive"),
        ("beats-lpg", {}, 0.1, "supported"),
        ("beats-lpg", dict(returns=dict(random=0.7)), -0.1, "refuted"),
        ("score-needed", dict(returns=dict(random=0.0)), 0.1, "supported"),
        ("score-needed", dict(returns=dict(value=0.7)), -0.1, "refuted"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.1) and judgement.outcome == outcome


def test_claims_without_their_control_or_with_a_lost_run_are_open():
    e = evidence()
    for claim, left in (
        ("beats-lpg", dict(replay=[0.5])),
        ("score-needed", dict(regret=[1.0])),
        ("score", dict(replay=[0.0])),
    ):
        with pytest.raises(UserError, match="not in this evidence"):
            STUDY.judgement(claim, e.sel(left))
    lost = e.copy(deep=True)
    lost["set_return"][dict(replay=1, regret=0, seed=2)] = np.nan
    assert STUDY.judgement("beats-lpg", lost).outcome == "inconclusive"


def test_no_training_level_is_a_test_level():
    keys = jax.vmap(Training(STUDY.kind(5)).level_key)(jax.random.split(jax.random.key(3), 1000))
    trained = {tuple(row) for row in jax.random.key_data(keys).tolist()}
    tested = {tuple(row) for row in jax.random.key_data(level_keys(4096, "test")).tolist()}
    assert len(trained) > 990 and not trained & tested
    # The ids behind them: fold_in is a bijection, and none is a test level's.
    which = jax.vmap(lambda key: jax.random.randint(key, (), 0, TEST_LEVELS))(jax.random.split(jax.random.key(3), 1000))
    same = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(which)
    assert bool((jax.random.key_data(same) == jax.random.key_data(keys)).all()) and int(which.max()) < TEST_LEVELS


def test_figure_draws_also_what_a_user_left():
    e = evidence()
    assert len(STUDY.figure(e).axes) == 2
    few = e.sel(replay=[0.0], regret=[1.0]).isel(seed=[0]).drop_vars("a2c_maze_return")
    assert len(STUDY.figure(few).axes) == 2


def test_bad_settings_are_named():
    for name, value in dict(replay=(2.0,), regret=(-1.0,), meta_steps=7, pupils=7, levels=0, side=1).items():
        with pytest.raises(UserError, match=name):
            GrooveStudy(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("groove", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {"score", "beats-lpg", "score-needed"}
    e = run.evidence
    random, regret, value = (dict(replay=r, regret=w) for r, w in ((0.0, 1.0), (0.5, 1.0), (0.5, 0.0)))
    assert bool(e.training_return.sel(replay=0.0, regret=0.0).isnull().all())
    # All ways to choose levels start with the same rules.
    first = e.training_return.isel(step=0)
    assert bool(np.allclose(first.sel(random), first.sel(regret)) and np.allclose(first.sel(random), first.sel(value)))
    assert not np.allclose(e.kept_score.sel(regret).isel(step=-1), e.kept_score.sel(value).isel(step=-1))
    ran = e.stack(cell=("replay", "regret")).isel(cell=[0, 2, 3])
    assert bool((ran.regret_of_level >= 0).all()) and bool((ran.maze_return <= 1.001).all())
    gap = ran.regret_of_level - ran.score_of_level.sel(score=SCORES[0])
    assert bool((gap > -1e-4).all())  # no antagonist earns more than the optimum
    assert bool((e.a2c_maze_return >= 0).all()) and e.sizes["maze"] == 9
