import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.sgqn import LOOKS, METHODS, SHOWN, USUAL, Sgqn, _Bare, random_state
from unseen.worlds.control.context import episode_return
from unseen.worlds.control.discrete_pixels import DiscretePixels
from unseen.worlds.control.pixels import PixelControl, PixelParams

STUDY = Sgqn(algorithm=tuple(METHODS))


def evidence(returns=None, masses=None, training=1.0, spread=0.01) -> xr.Dataset:
    """Last normalised returns and masses under shift, by algorithm; `training` is the return where nothing changed."""
    returns = dict.fromkeys(METHODS, 0.4) | dict(sgqn=0.8, overlay=0.6) | (returns or {})
    masses = dict.fromkeys(METHODS, 0.3) | dict(sgqn=0.5) | (masses or {})
    rng = np.random.default_rng(0)
    names, looks = list(METHODS), list(LOOKS)
    score = np.array([returns[n] for n in names])[:, None, None, None] + spread * rng.normal(size=(6, 6, 3, 5))
    score[..., 0] = training * np.arange(6)[:, None, None]  # what claims must not look at
    score[:, :, 0] = 9.0
    mass = np.array([masses[n] for n in names])[:, None, None] + spread * rng.normal(size=(6, 6, 5))
    mass[..., 0] = np.arange(6)[:, None]
    return xr.Dataset(
        {
            "score": (("algorithm", "seed", "step", "look"), score),
            "mass": (("algorithm", "seed", "look"), mass),
            "chance": (("algorithm", "seed", "look"), np.full(mass.shape, 0.07)),
            "picture": (("algorithm", "seed", "view", "row", "column", "colour"), rng.uniform(size=(6, 6, 3, 8, 8, 3))),
            "saliency": (("algorithm", "seed", "view", "row", "column"), rng.uniform(size=(6, 6, 3, 8, 8))),
        },
        dict(algorithm=names, seed=range(6), step=[0, 500, 1000], look=looks, view=list(SHOWN)),
    )


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("gap", {}, 0.4, "supported"),
        ("gap", dict(returns=dict(dqn=0.79)), 0.01, "refuted"),
        ("gap", dict(returns=dict(dqn=0.72)), 0.08, "inconclusive"),
        ("beyond-augmentation", {}, 0.2, "supported"),
        ("beyond-augmentation", dict(returns=dict(overlay=0.9)), -0.1, "refuted"),
        ("looks-right", {}, 0.2, "supported"),
        ("looks-right", dict(masses=dict(overlay=0.6)), -0.1, "refuted"),
        ("mask-control", {}, 0.4, "supported"),
        ("mask-control", {"returns": {"random masks": 0.9}}, -0.1, "refuted"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.02) and judgement.outcome == outcome


def test_a_lost_run_leaves_its_claims_open():
    e = evidence()
    e["score"][dict(algorithm=2, seed=3)] = np.nan
    assert {STUDY.judgement(c, e).outcome for c in ("gap", "beyond-augmentation", "mask-control")} == {"inconclusive"}


def test_the_scale_of_returns():
    """The best steps are worth 1 and random ones 0; standing still is worth as little, always the same way less."""
    score_of, looks = Sgqn(episodes=32).scorer(DiscretePixels()), jax.tree.map(lambda *x: jnp.stack(x), *[USUAL] * 4)
    looks = jax.tree.map(lambda x: x[None], looks)

    def score(number):
        return float(score_of(lambda key, image: jnp.array(number), looks, jax.random.key(0))[0])

    assert abs(score(0)) < 0.2
    away = [score(i) for i in (1, 2, 3, 4)]
    assert np.mean(away) < -0.1 and max(away) < 0.3


def test_the_best_controller_arrives():
    world, table = _Bare("reach", 20), jnp.array([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])

    def best(_, physical):
        return table[jax.vmap(lambda a: world.advance(None, physical, a)[1])(table).argmax()]

    params = PixelParams(jax.tree.map(lambda x: x[None], USUAL), 60)
    keys = jax.random.split(jax.random.key(0), 16)
    total = jax.vmap(lambda k: episode_return(world, params, best, k))(keys)
    assert float(total.min()) > 60 * 0.75  # 1 a step at the goal, which is at most two image widths of travel away


def test_looks_differ_only_in_looks():
    world = PixelControl()
    state = random_state(world, USUAL, 20, jax.random.key(0))
    assert 0 <= int(state.time) <= 20 and (jnp.abs(state.physical) <= 0.8).all()
    pictures, truths = zip(
        *(
            PixelControl("reach").render(random_state(PixelControl(), group[1], 20, jax.random.key(0)))
            for group in LOOKS.values()
        ),
        strict=True,
    )
    for picture, truth in zip(pictures[1:], truths[1:], strict=True):
        np.testing.assert_array_equal(truth, truths[0])
        assert float(jnp.abs(picture - pictures[0]).max()) > 0.2


def test_figure_draws_also_what_a_user_left():
    e = evidence()
    assert len(STUDY.figure(e).axes) == 10
    few = Sgqn(algorithm=("overlay",))
    assert len(few.figure(e.sel(algorithm=["overlay"]).isel(seed=[0])).axes) == 7


def test_bad_settings_are_named():
    for name, value in dict(algorithm=("ppo",), steps=7, size=22, quantile=1.0).items():
        with pytest.raises(UserError, match=name):
            Sgqn(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("sgqn", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {"gap", "beyond-augmentation", "looks-right", "mask-control"}
    e = run.evidence
    assert bool((e.score <= 1.5).all()) and bool(((e.mass >= 0) & (e.mass <= 1)).all())
    # Before the first update both algorithms have the same network, and afterwards not.
    first, last = (e.score.isel(step=i) for i in (0, -1))
    np.testing.assert_allclose(first.sel(algorithm="sgqn"), first.sel(algorithm="overlay"), atol=1e-5)
    assert not np.allclose(e.saliency.sel(algorithm="sgqn"), e.saliency.sel(algorithm="overlay"))
    assert bool(last.notnull().all())
