import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.pad import LOOKS, MOVING, RANDOM_LOOKS, SHIFTS, TASKS, Pad, random_colours, random_reward
from unseen.worlds.control.pixels import PixelControl

STUDY = Pad()
WAYS = ("frozen", "adapted", "shuffled")


def evidence(spread=0.005, randomised=0.4, unchanged=0.0, **levels) -> xr.Dataset:
    """Returns of inverse dynamics where the look has changed, by way of deployment; without a change 0.9, and
    `unchanged` more when adapted."""
    levels = dict(frozen=0.3, adapted=0.5, shuffled=0.2) | levels
    rng = np.random.default_rng(0)
    shape = (2, 2, 2, 6, 3, len(LOOKS), 4)
    score = np.full(shape, np.nan)
    noise = spread * rng.normal(size=shape)
    for i, name in enumerate(WAYS):
        score[:, 0, 0, :, i] = levels[name]
        score[:, 0, 1, :, i] = randomised
        if i < 2:
            score[:, 1, 0, :, i] = 0.1 + 0.1 * i
    score[..., 0, :] = np.where(np.isnan(score[..., 0, :]), np.nan, 0.9)
    score[:, 0, 0, :, 1, 0] = 0.9 + unchanged
    return xr.Dataset(
        {"score": (("task", "objective", "colours", "seed", "deployed", "look", "window"), score + noise)},
        dict(task=list(TASKS), objective=["inverse", "rotation"], colours=[0.0, 1.0], seed=range(6),
             deployed=list(WAYS), look=list(LOOKS), window=[10, 20, 30, 40]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("improves", {}, 1.0, "supported"),
        ("improves", dict(adapted=0.2), 0.0, "refuted"),
        ("improves", dict(adapted=0.301, spread=0.05), 0.5, "inconclusive"),
        ("signal", {}, 0.3, "supported"),
        ("signal", dict(shuffled=0.5), 0.0, "refuted"),
        ("signal", dict(shuffled=0.49, spread=0.15), 0.01, "inconclusive"),
        ("no-harm", {}, 0.0, "supported"),
        ("no-harm", dict(unchanged=-0.1), -0.1, "refuted"),
        ("vs-randomisation", {}, 1.0, "supported"),
        ("vs-randomisation", dict(randomised=0.7), 0.0, "refuted"),
        ("vs-randomisation", dict(randomised=0.5, spread=0.0), 1.0, "supported"),  # as high is enough
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.06) and judgement.outcome == outcome


def test_a_gain_in_few_places_is_no_majority():
    e = evidence(adapted=0.29)
    e["score"][dict(objective=0, colours=0, deployed=1, look=list(LOOKS).index("colours"))] = 2.0
    judgement = STUDY.judgement("improves", e)
    assert np.isclose(judgement.effect.estimate, 1 / 6) and judgement.outcome == "refuted"


def test_a_lost_run_or_condition_leaves_claims_open():
    e = evidence()
    e["score"][dict(task=1, objective=0, colours=0, seed=3)] = np.nan
    assert {STUDY.judgement(c, e).outcome for c in ("improves", "signal", "no-harm", "vs-randomisation")} == {
        "inconclusive"
    }
    with pytest.raises(UserError, match="objective = inverse"):
        STUDY.judgement("signal", e.sel(objective=["rotation"]))
    with pytest.raises(UserError, match=r"colours = 1\.0"):
        STUDY.judgement("vs-randomisation", e.sel(colours=[0.0]))


def test_figure_draws_also_what_a_user_left():
    fig = STUDY.figure(evidence())
    assert len(fig.axes) == 2 and len(fig.axes[0].lines) == 3 and len(fig.axes[1].texts) == 12
    assert fig.axes[1].texts[0].get_text().endswith("6 of 6")
    few = evidence().sel(task=["pole"], objective=["rotation"]).isel(seed=[0])
    assert len(STUDY.figure(few).axes[1].texts) == 6


def test_looks_differ_and_randomised_colours_are_many():
    world = PixelControl()
    _, state = world.reset_env(jax.random.key(0), world.default_params)

    @jax.jit
    @jax.vmap
    def pictures(look):
        return world.get_obs(type(state)(state.physical, look, state.time))

    every = jax.tree.map(lambda *x: jnp.stack(x), *LOOKS.values())
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), every, random_colours(0.0), random_colours(1.0))
    plain, shifted, same, many = jnp.split(pictures(joined), [1, len(LOOKS), len(LOOKS) + RANDOM_LOOKS])
    assert MOVING in SHIFTS and bool((jnp.abs(shifted - plain).max((1, 2, 3)) > 0.2).all())
    assert np.allclose(same, plain, atol=1e-6)
    assert len(np.unique(np.round(np.asarray(many).reshape(RANDOM_LOOKS, -1).mean(1), 5))) > RANDOM_LOOKS / 2
    apart = jnp.abs(many[:, None] - many[None]).max((2, 3, 4)) + jnp.eye(RANDOM_LOOKS)
    assert float(apart.min()) > 0.02


def test_the_floor_of_returns_is_the_mean_reward_of_random_actions():
    world = PixelControl("pole", 8)
    params, keys = world.params(max_steps=12), jax.random.split(jax.random.key(5), 400)

    def episode(key):
        begin, go = jax.random.split(key)
        _, state = world.reset_env(begin, params)

        def step(state, key):
            _, state, reward, *_ = world.step_env(key, state, jax.random.uniform(key, (2,), minval=-1), params)
            return state, reward

        return jax.lax.scan(step, state, jax.random.split(go, 12))[1].mean()

    assert np.isclose(jax.jit(jax.vmap(episode))(keys).mean(), random_reward(world, 12), atol=0.03)


def test_bad_settings_are_named():
    bad = dict(task=("walk",), objective=("none",), colours=(0.5,), steps=7, deployment=301, size=22, batch=0)
    for name, value in bad.items():
        with pytest.raises(UserError, match=name):
            Pad(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("pad", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {"improves", "signal", "no-harm", "vs-randomisation"}
    e = run.evidence.sel(task="reach", objective="inverse")
    assert bool(e.score.notnull().all()) and bool((e.score <= 1).all())
    # Frozen policies learn nothing, the others do, and shuffled labels teach something else.
    frozen, adapted, shuffled = (e.deployed_loss.sel(deployed=name) for name in WAYS)
    assert bool((frozen == 0).all()) and bool((adapted > 0).all()) and not np.allclose(adapted, shuffled)
    # Randomised colours make another policy.
    assert not np.allclose(*(e.score.sel(deployed="frozen", colours=c) for c in (0.0, 1.0)))
