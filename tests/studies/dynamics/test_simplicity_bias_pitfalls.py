import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.simplicity_bias_pitfalls import (
    GRID,
    TRAININGS,
    Blocks,
    Ensemble,
    SimplicityBiasPitfalls,
    averaged,
    relies_on,
)
from unseen.worlds.clusters.graded_features import SlabData

STUDY = SimplicityBiasPitfalls.at_scale("laptop")
JITTER = np.array([-0.001, 0.0, 0.0, 0.001])


def evidence(*, without_linear=0.5, noisy=0.94, control=0.99, flips=(0.5, 0.0), cured=0.5) -> xr.Dataset:
    def over(**values):
        return (("training", "seed"), np.array([values.get(name, np.nan) for name in TRAININGS])[:, None] + JITTER)

    return xr.Dataset(
        {
            "linear_auc": over(clean=without_linear, noisy=0.5, adversarial=cured),
            "slabs_auc": over(clean=0.998, noisy=0.95, adversarial=0.95),
            "accuracy": over(clean=1.0, clean_slabs=0.97, noisy=noisy, noisy_slabs=control, adversarial=0.94),
            "linear_flips": over(clean=flips[0]),
            "slabs_flips": over(clean=flips[1]),
            "ensemble_auc": over(noisy=cured),
            "ensemble_accuracy": over(noisy=0.94),
            "plane": (("training", "seed", "slab", "linear"), np.zeros((5, 4, 41, 41))),
            "pair_easy_auc": (("view", "seed"), np.full((2, 4), 0.7)),
            "pair_hard_auc": (("view", "seed"), np.full((2, 4), 0.99)),
        },
        {"training": list(TRAININGS), "seed": range(4), "slab": GRID, "linear": GRID, "view": ["both", "hard"]},
    )


def test_claims_on_made_up_nets():
    e = evidence()
    assert {c: STUDY.judgement(c, e).outcome for c in STUDY.claims} == dict.fromkeys(STUDY.claims, "supported")
    other = evidence(without_linear=0.9, noisy=0.99, control=0.97, flips=(0.3, 0.3), cured=0.9)
    assert {c: STUDY.judgement(c, other).outcome for c in STUDY.claims} == dict.fromkeys(STUDY.claims, "refuted")
    assert STUDY.judgement("hurts-in-distribution", e).effect.estimate == pytest.approx(0.94)


def test_figures_do_without_what_was_not_run():
    e = evidence()
    assert STUDY.figure(e.isel(seed=[0], training=[1, 2], view=[1])) is not None
    assert STUDY.figure(e.where(e.seed < 2)) is not None
    assert STUDY.figure(e.isel(training=[1])[["accuracy"]]) is not None


def test_a_rule_on_the_linear_coordinate_relies_on_it_alone_and_is_flipped_through_it():
    world = SlabData(5)
    train = world.sample(jax.random.key(0), 10)
    data = Blocks.of(train, world.sample(jax.random.key(1), 2_000, rotation=train.rotation))
    assert data.train.sum() == 10 and data.test.sum() == 2_000

    def net(x):
        linear = (x @ train.rotation.T)[:, 0]
        return jnp.stack([-linear, linear], axis=1)

    assert data.mean_accuracy(net) == 1
    assert relies_on(net, data, "linear") == pytest.approx(0.5, abs=0.04)
    assert relies_on(net, data, "slabs") == pytest.approx(1)
    # An attack of radius 0.5 turns those with less than that: uniform on [0.1, 1].
    assert STUDY.flipped(net, data, "linear") == pytest.approx(4 / 9, abs=0.05)
    assert STUDY.flipped(net, data, "slabs") == 0


def test_ensembles_average_their_nets():
    nets = Ensemble.of(jax.random.key(0), 4, 8, 3)
    x = jax.random.normal(jax.random.key(1), (6, 4))
    each = jnp.stack([nets.nets(i)(x) for i in range(3)])
    np.testing.assert_allclose(nets(x), each, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(averaged(nets, x), each.mean(0), rtol=1e-4, atol=1e-6)
    assert (each[0] != each[1]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": "free"}, "training takes some of clean"),
        ({"noisy_steps": 1_500}, "noisy_steps takes a multiple"),
        ({"ambiguous": 1.0}, "ambiguous takes"),
        ({"clean_dims": 1}, "clean_dims and noisy_dims take"),
        ({"radius": -0.1}, "radius takes"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        SimplicityBiasPitfalls.at_scale("laptop", **changes)
