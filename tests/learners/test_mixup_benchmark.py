import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from unseen.lab import UserError
from unseen.learners import MixupBenchmark
from unseen.learners.mixup_benchmark import GUIDED, POLICIES, STATIC
from unseen.worlds.clusters import DigitDomains, LabelledImages

BENCHMARK = MixupBenchmark(images=40, epochs=2, batch_size=20, widths=(3, 4))
KEY = jax.random.key(0)


def data(key):
    return LabelledImages.draw(key, DigitDomains.mnist5k(), train=40, test=30)


def test_thirteen_policies_and_two_controls():
    assert len(STATIC) + len(GUIDED) == 13 and len(POLICIES) == 15


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_can_be_traced(policy):
    learner = BENCHMARK.learner(policy, data, every=1)
    shapes = eqx.filter_eval_shape(learner.advance, eqx.filter_eval_shape(learner.init, KEY))
    assert shapes.model is not None


@pytest.mark.parametrize("policy", ["puzzlemix", "automix"])
def test_one_epoch_changes_the_model_and_stays_finite(policy):
    learner = BENCHMARK.learner(policy, data, every=1)
    before = learner.init(KEY)
    after = eqx.filter_jit(learner.advance)(before)
    a, b = (jax.tree.leaves(eqx.filter(s.model, eqx.is_inexact_array)) for s in (before, after))
    assert all(jnp.isfinite(x).all() for x in b) and any((x != y).any() for x, y in zip(a, b, strict=True))
    assert 0 <= float(learner.final(after)["occluded_accuracy"]) <= 1


def test_all_policies_see_the_same_batches_and_first_weights():
    states = [BENCHMARK.learner(policy, data, every=1).init(KEY) for policy in ("none", "cutmix")]
    assert (states[0].data.images == states[1].data.images).all()
    assert (states[0].model.kernels[1] == states[1].model.kernels[1]).all()


def test_step_times_have_a_row_a_policy():
    times = BENCHMARK.step_times(["none", "mixup"], data, KEY, repeats=2, epochs=1)
    assert times.shape == (2, 2) and (times > 0).all()


def test_bad_settings():
    with pytest.raises(UserError, match="batch_size"):
        MixupBenchmark(images=10, batch_size=20)
    with pytest.raises(UserError, match="policy"):
        BENCHMARK.learner("samix", data)
