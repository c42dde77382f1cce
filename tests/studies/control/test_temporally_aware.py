import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.methods.learned_objective import LPO
from unseen.studies.control.temporally_aware import TemporallyAware

STUDY = TemporallyAware()


def evidence(gain=0.05, es=0.3, gradient=0.02, blind=0.0, far=0.2, blind_far=0.0, clock=0.03) -> xr.Dataset:
    """Aware earns `gain` more than blind, `clock` of it by its clock; last schedule indices; entropies far from the
    deadline are `far` higher."""
    rng = np.random.default_rng(0)
    horizon, seeds = list(STUDY.sweep), range(4)
    shape = (2, 2, 4, len(horizon))

    def noise(*shape):
        return 0.005 * rng.normal(size=shape)

    normalised = 0.8 + noise(*shape)
    normalised[:, 0] += gain
    index = np.full((2, 2, 4, 3), 0.05)
    index[0, 0, :, -1], index[1, 0, :, -1] = es + noise(4), gradient + noise(4)
    index[0, 1], index[1, 1] = blind, np.nan
    decided = np.full(shape, 0.5)
    decided[:, 0] += noise(2, 4, 1)
    decided[:, 0, :, -1] += far + noise(2, 4)
    decided[:, 1, :, -1] += blind_far
    dims = ("search", "aware", "seed")
    return xr.Dataset(
        {
            "normalised": ((*dims, "horizon"), normalised),
            "without_clock": ((*dims, "horizon"), normalised - clock),
            "schedule": ((*dims, "step"), index),
            "training_return": ((*dims, "step", "lifetime"), 0.5 + np.zeros((*index.shape, 2)) + [[0], [0.1], [0.3]]),
            "decided": ((*dims, "horizon"), decided),
            "entropy": ((*dims, "horizon", "moment"), np.ones((*shape, 20))),
            "ppo_normalised": (("anneal", "seed", "horizon"), 0.8 + noise(2, 4, len(horizon))),
        },
        dict(
            search=["es", "gradient"], aware=[1.0, 0.0], seed=seeds, horizon=horizon, anneal=[0.0, 1.0],
            lifetime=[20, 80], step=[0, 20, 40],
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("horizons", {}, 0.05, "supported"),
        ("horizons", dict(gain=-0.05), -0.05, "refuted"),
        ("horizons", dict(gain=0.0), 0.0, "inconclusive"),
        ("es-dynamic", {}, 0.28, "supported"),
        ("es-dynamic", dict(es=0.02), 0.0, "refuted"),
        ("es-dynamic", dict(es=0.08), 0.06, "inconclusive"),
        ("es-dynamic", dict(blind=0.1), 0.28, "inconclusive"),
        ("deadline", {}, 0.2, "supported"),
        ("deadline", dict(far=0.0), 0.0, "refuted"),
        ("deadline", dict(blind_far=0.1), 0.2, "inconclusive"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.01) and judgement.outcome == outcome


def test_notes_tell_what_the_clock_and_meta_training_are_worth():
    note = STUDY.judgement("horizons", evidence()).note
    assert "clock running minus stopped: 0.03 [" in note
    assert "aware, gained in meta-training: 0.3 [" in note and "blind, gained in meta-training: 0.3 [" in note
    assert "both at first 0.050" in STUDY.judgement("es-dynamic", evidence()).note


def test_claims_say_what_is_missing():
    with pytest.raises(KeyError):  # of which the laboratory makes "inconclusive"
        STUDY.judgement("horizons", evidence().sel(aware=[1.0]))
    lost = evidence()
    lost["normalised"][0, 0, 1] = np.nan
    assert STUDY.judgement("horizons", lost).outcome == "inconclusive"


def test_schedule_of_a_rule_that_knows_time_and_of_one_that_does_not():
    drift = LPO(4, key=jax.random.key(0))
    assert float(STUDY.schedule(drift, 0.0)) == 0 < float(STUDY.schedule(drift, 1.0)) < 1


def test_levels_of_training_and_test_differ_and_pay():
    small = TemporallyAware(side=3, objects=2)
    train, test = small.pool("train"), small.pool("test")
    assert bool((train.reward[:, 0] > 0).all()) and bool((test.reward[:, 0] > 0).all())
    seen = {tuple(np.asarray(row)) for row in train.reward}
    assert not seen & {tuple(np.asarray(row)) for row in test.reward} and len(seen) == 1024
    used = {tuple(np.asarray(row)) for row in small.evolution(1.0).levels.reward}
    assert used == {tuple(np.asarray(row)) for row in small.descent(1.0).levels.reward} < seen
    assert len(used) == 1024 - small.levels
    assert bool(jnp.isin(train.arrive, jnp.arange(9)).all())


def test_both_searches_simulate_as_many_updates():
    of_gradients = STUDY.meta_steps * STUDY.learners * (STUDY.updates + 1)
    assert abs(of_gradients / (STUDY.every * STUDY.evolution(1.0).updates) - 1) < 0.01


def test_figure_draws_also_what_a_user_left():
    e = evidence()
    assert len(STUDY.figure(e).axes) == 4
    few = e.sel(search=["es"], aware=[1.0]).isel(seed=[0]).drop_vars("ppo_normalised").drop_dims("anneal")
    assert len(TemporallyAware(search=("es",), aware=(1.0,)).figure(few).axes) == 4


def test_bad_settings_are_named():
    bad = dict(
        search=("ga",), aware=(0.5,), horizons=(0, 10), meta_horizons=(), deadline=500, pairs=3, generations=7,
        levels=300, width=0,
    )  # fmt: skip
    for name, value in bad.items():
        with pytest.raises(UserError, match=name):
            TemporallyAware(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("temporally-aware", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {"horizons", "es-dynamic", "deadline"}
    e = run.evidence.sel(search="es")
    aware, blind = e.sel(aware=1.0), e.sel(aware=0.0)
    assert bool((blind.schedule == 0).all()) and bool((aware.schedule.isel(step=-1) > 0).all())
    assert bool(e.normalised.notnull().all())
    # A blind rule does the same under every deadline, and has no clock to stop.
    assert np.array_equal(blind.decided.sel(horizon=2), blind.decided.sel(horizon=4))
    assert np.array_equal(blind.normalised, blind.without_clock)
    assert not np.array_equal(aware.normalised, aware.without_clock)
    assert bool((e.ppo_normalised <= 1.0).all()) and bool(e.ppo_normalised.notnull().all())
