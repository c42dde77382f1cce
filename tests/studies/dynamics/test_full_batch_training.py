import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.models.batch_norm import BatchNormMLP
from unseen.studies.dynamics.full_batch_training import ARMS, FullBatchTraining
from unseen.worlds.clusters.digit_split import Digits

STUDY = FullBatchTraining.at_scale("laptop")
JITTER = np.array([-0.0005, 0.0, 0.0, 0.0005])


def evidence(arms=ARMS, factors=(1.0,), **accuracy) -> xr.Dataset:
    """Final accuracies by arm, those not named 0.9."""
    values = [[accuracy.get(arm, 0.9) + JITTER * (i + 1) for _ in factors] for i, arm in enumerate(arms)]
    coords = {"arm": list(arms), "rate_factor": list(factors), "seed": range(4)}
    return xr.Dataset({"final_accuracy": (("arm", "rate_factor", "seed"), values)}, coords)


def outcomes(e):
    return {claim: STUDY.judgement(claim, e).outcome for claim in STUDY.claims}


def test_claims_compare_the_arms_that_the_rules_name():
    e = evidence(sgd=0.98, full=0.96, longer=0.975, clipped=0.97, penalised=0.979)
    assert outcomes(e) == dict.fromkeys(STUDY.claims, "supported")
    part = STUDY.optimization_part(e).effect
    assert part.estimate == pytest.approx(0.75) and part.low > 0.5
    e = evidence(sgd=0.98, full=0.979, longer=0.979, clipped=0.97, penalised=0.97)
    refuted = ("naive-gap", "no-noise-needed", "explicit-regulariser")
    assert {claim: outcomes(e)[claim] for claim in refuted} == dict.fromkeys(refuted, "refuted")


def test_full_batch_losses_do_not_see_the_test_digits():
    data = Digits.of("digits", 800).split(jax.random.key(0))
    net = BatchNormMLP(64, 10, widths=(16,), ghost=32, key=jax.random.key(1))
    changed = data.images.at[800:].set(7.0)
    losses = [STUDY.first_rows(net, (x,), data.targets, jax.random.key(2)) for x in (data.images, changed)]
    np.testing.assert_array_equal(*losses)
    assert not losses[0][800:].any()
    rows = jnp.arange(32, 64)
    block = STUDY.first_rows(net, (data.images[rows],), data.targets[rows], jax.random.key(2))
    np.testing.assert_allclose(block, losses[0][32:64], rtol=1e-4, atol=1e-5)


def test_nothing_is_random_after_the_first_weights():
    learner = FullBatchTraining.at_scale("smoke").learner("penalised", 1.0)
    start = learner.init(jax.random.key(0))
    other = type(start)(start.model, start.optimizer, jax.random.key(99), start.data)
    step = jax.jit(lambda state: jax.tree.leaves(learner.advance(state).model))
    for a, b in zip(step(start), step(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_inner_split_keeps_the_test_digits_out():
    study = FullBatchTraining.at_scale("laptop", inner=192)
    world = Digits.of("digits", 800)
    inner, outer = study.split(world, jax.random.key(0)), STUDY.split(world, jax.random.key(0))
    assert inner.train.sum() == 608 and inner.test.sum() == 192
    assert not (inner.test * outer.test).any() and not (inner.test * inner.train).any()


def test_updates_of_the_arms():
    assert [STUDY.learner(arm, 1.0).steps for arm in ARMS] == [1_000, 40, 1_000, 1_000, 1_000]


def test_figures_do_without_what_was_not_run():
    assert STUDY.figure(evidence(arms=("full", "longer"), factors=(0.25, 4.0))) is not None
    assert STUDY.figure(evidence().isel(seed=[0])) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": "adam"}, "arm takes some of sgd, full"),
        ({"inner": 800}, "inner takes a number from 0"),
        ({"batch": 33}, "batch takes a divisor"),
        ({"epochs": 2}, "epochs takes"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        FullBatchTraining.at_scale("laptop", **changes)
