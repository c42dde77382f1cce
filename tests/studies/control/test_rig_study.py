import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.learners.rig import Perception, Prior
from unseen.models.patch_vae import PatchVAE
from unseen.studies.control.rig import MOVES, NOWHERE, Puck, Rig, gap
from unseen.worlds.control.pixels import PixelControl, PixelState, visuals

STUDY = Rig()
ARMS = list(STUDY.arms())


def evidence(distances=None, pixels=0.6, latent=0.5, spread=0.005) -> xr.Dataset:
    """Distances where random moves end at 0.8: by arm, the same at all tests after the first. `latent` is the share of
    noise in the latent distance's ranks (pixels have 1)."""
    distances = dict(zip(ARMS, (0.4, 0.7, 0.5, 0.3), strict=True)) | (distances or {})
    rng = np.random.default_rng(0)
    steps, seeds = np.arange(5) * 4000, 6
    curves = np.array([distances[a] for a in ARMS]) + spread * rng.normal(size=(seeds, 5, len(ARMS)))
    curves[:, 0] = 9.0  # before any practice: what claims must not look at
    flat = pixels + spread * rng.normal(size=(seeds, 5))
    flat[:, 0] = 9.0
    true = rng.uniform(size=(seeds, 400))
    noisy = lambda share: true + share * rng.normal(size=true.shape)  # noqa: E731
    image = ("seed", "example", "row", "column", "colour")
    return xr.Dataset(
        {
            "distance": (("seed", "step", "arm"), curves),
            "pixels_distance": (("seed", "pixels_step"), flat),
            "random_distance": ("seed", np.full(seeds, 0.8)),
            "still_distance": ("seed", np.full(seeds, 0.7)),
            "unexplained": ("seed", np.full(seeds, 0.3)),
            "true_distance": (("seed", "pair"), true),
            "image_distance": (("seed", "pair"), noisy(1.0)),
            "latent_distance": (("seed", "pair"), noisy(latent)),
            "shown": (image, rng.uniform(size=(seeds, 2, 8, 8, 3))),
            "ended": (("seed", "arm", *image[1:]), rng.uniform(size=(seeds, len(ARMS), 2, 8, 8, 3))),
            "pixels_ended": (image, rng.uniform(size=(seeds, 2, 8, 8, 3))),
        },
        dict(seed=range(seeds), step=steps, pixels_step=steps, arm=ARMS),
    )


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("latent-reward", {}, -0.25, "supported"),
        ("latent-reward", dict(pixels=0.36), 0.05, "refuted"),
        ("latent-reward", dict(pixels=0.44), -0.05, "inconclusive"),
        ("relabelling", {}, -0.375, "supported"),
        ("relabelling", dict(distances={"no relabelling": 0.35}), 0.0625, "refuted"),
        ("relabelling", dict(distances={"no relabelling": 0.42}), -0.025, "inconclusive"),
        ("metric", dict(latent=0.1), None, "supported"),
        ("metric", dict(latent=4.0), None, "refuted"),
        ("metric", dict(latent=1.0), None, "inconclusive"),
        ("near-oracle", {}, 0.8, "supported"),
        ("near-oracle", dict(distances={"RIG": 0.6}), 0.4, "refuted"),
        ("near-oracle", dict(distances={"RIG": 0.5}, spread=0.02), 0.6, "inconclusive"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert judgement.outcome == outcome
    if estimate is not None:
        assert np.isclose(judgement.effect.estimate, estimate, atol=0.03)


def test_relabelling_counts_the_way_and_not_only_the_end():
    e = evidence()
    e["distance"][dict(step=-1)] = 0.4
    judgement = STUDY.judgement("relabelling", e)
    assert np.isclose(judgement.effect.estimate, -0.75 * 0.375, atol=0.02)


def test_a_lost_seed_leaves_its_claims_open():
    e = evidence()
    e["distance"][dict(seed=1)] = np.nan
    e["latent_distance"][dict(seed=1)] = np.nan
    assert {STUDY.judgement(c, e).outcome for c in ("latent-reward", "relabelling", "metric", "near-oracle")} == {
        "inconclusive"
    }


def test_figure_draws_also_one_seed():
    e = evidence()
    assert len(STUDY.figure(e).axes) == 2
    assert len(STUDY.figure(e.isel(seed=[0])).axes) == 2


def test_the_world_is_the_pushing_task_as_it_looks():
    world, plain = Puck(20, 5), PixelControl("push", 20)
    places = jax.vmap(world.draw)(jax.random.split(jax.random.key(0), 20))
    physical = jnp.concatenate([places, jnp.tile(jnp.array(NOWHERE), (20, 1))], 1)
    look = lambda s: plain.render(PixelState(s, visuals(), jnp.zeros((), int)))[0]  # noqa: E731
    np.testing.assert_allclose(jax.vmap(world.picture)(places), jax.vmap(look)(physical), atol=1e-5)
    photographs = Puck(20, 5).photographs(jnp.tile(places, (13, 1)))
    np.testing.assert_allclose(photographs[:20] / 255, jax.vmap(world.picture)(places), atol=0.003)
    # A hand that pushes, an episode that ends.
    place, state = jnp.array([-0.5, 0.0, 0.0, 0.0]), None
    state = (place, jnp.zeros((), int))
    right, ends = MOVES.index((1.0, 0.0)), []
    for _ in range(5):
        _, state, reward, terminated, late, info = world.step(jax.random.key(1), state, jnp.array(right))
        ends.append(bool(late))
        assert float(reward) == 0 and not terminated
    assert ends == [False] * 4 + [True]
    last = info["final_observation"]
    np.testing.assert_allclose(last, [0.1, 0.0, 0.44, 0.0], atol=1e-3)
    assert not np.allclose(state[0], last) and int(state[1]) == 0
    assert float(gap(place, last)) == pytest.approx((0.6 + 0.44) / 2, abs=1e-3)


def test_arms_differ_in_what_they_see_practise_and_are_paid_for():
    study = Rig(vae_width=8, vae_features=4, latent=5)
    vae = PatchVAE(20, 5, features=4, width=8, key=jax.random.key(0))
    latents = 7 + jax.random.normal(jax.random.key(1), (6, 5))
    perception = Perception(vae, Prior(jnp.full(5, -30.0), jnp.ones(5)), latents, jnp.array(4.0))
    place, other, key = jnp.array([0.1, 0.2, 0.3, 0.4]), jnp.array([0.1, 0.2, 0.3, 0.0]), jax.random.key(2)
    roles = {name: study.roles(perception, arm) for name, arm in study.arms().items()}
    for name in ("RIG", "no relabelling", "future only"):
        seen = roles[name]["see"](place)
        np.testing.assert_allclose(seen, perception.see(study.world.picture(place)), atol=1e-6)
        assert float(roles[name]["reward"](jnp.zeros(5), jnp.full(5, 0.8))) == pytest.approx(-0.8 * 5**0.5 / 4)
    oracle = roles["state oracle"]
    np.testing.assert_allclose(oracle["see"](place), [*place, 0.0], atol=1e-6)
    assert float(oracle["reward"](oracle["see"](place), oracle["see"](other))) == pytest.approx(-0.4, abs=1e-4)
    goals = {name: np.asarray(role["goals"](key, 50)) for name, role in roles.items()}
    assert goals["RIG"].max() < -20 and (goals["no relabelling"] == goals["RIG"]).all()
    assert {tuple(row) for row in goals["future only"]} <= {tuple(row) for row in np.asarray(latents)}
    assert np.abs(goals["state oracle"]).max() <= 0.9 and np.ptp(goals["state oracle"][:, :4], axis=0).min() > 0.5
    shares = {name: (arm.future, arm.imagination) for name, arm in study.arms().items()}
    assert shares["no relabelling"] == (0, 0) and shares["future only"][1] == 0 < shares["RIG"][1]
    assert sum(shares["future only"]) == sum(shares["RIG"]) == sum(shares["state oracle"])


def test_bad_settings_are_named():
    for name, value in dict(every=3, steps=5000, size=22, latent=3, future=0.9, examples=0).items():
        with pytest.raises(UserError, match=name):
            Rig(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("rig", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {"latent-reward", "relabelling", "metric", "near-oracle"}
    e = run.evidence
    assert list(e.arm.values) == ARMS and e.sizes["step"] == e.sizes["pixels_step"] == 3
    # Arms in the latent space begin with one network; all are shown the same goals.
    first = e.distance.isel(step=0)
    assert bool((first.sel(arm="RIG") == first.sel(arm="no relabelling")).all())
    assert bool((e.random_distance > 0.3).all()) and bool((e.still_distance > 0.3).all())
