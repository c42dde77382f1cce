import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.measures.residual_dependence import prompt_bias, residual_dependence
from unseen.worlds.clusters.captions import CaptionTriples


@pytest.mark.parametrize("dependence", [0.0, 0.05, 0.3])
def test_dependence_is_the_contingency_asked_for_and_leaves_the_margins_alone(dependence):
    world = CaptionTriples.random(jax.random.key(1), dependence=dependence)
    plain = CaptionTriples.random(jax.random.key(1))
    assert float(world.joint.min()) >= 0 and np.isclose(float(world.joint.sum()), 1, atol=1e-5)
    assert np.isclose(float(residual_dependence(world.joint)), dependence, atol=1e-5)
    for axis in (0, 2):
        assert np.allclose(world.joint.sum(axis), plain.joint.sum(axis), atol=1e-6)


def test_distortion_mixes_the_prompts():
    faithful = CaptionTriples.random(jax.random.key(2))
    half = CaptionTriples.random(jax.random.key(2), distortion=0.5)
    false = CaptionTriples.random(jax.random.key(2), distortion=1.0)
    assert np.allclose(faithful.prompts, faithful.faithful_prompts)
    assert np.allclose(half.prompts, (faithful.prompts + false.prompts) / 2, atol=1e-6)
    bias = [float(prompt_bias(w.prompts, w.joint.sum(0), w.label_prior)) for w in (faithful, half, false)]
    assert bias[0] < 1e-10 < bias[1] < bias[2]


def test_samples_have_the_right_sizes_and_frequencies():
    world = CaptionTriples.random(jax.random.key(3), dependence=0.2)
    a, b, c = jax.random.split(jax.random.key(4), 3)
    pairs, labelled, prompts = world.pairs(a, 200_000), world.labelled(b, 1_000), world.prompted(c, 50)
    assert float(pairs.sum()) == 200_000 and float(labelled.sum()) == 1_000
    assert np.array_equal(prompts.sum(1), np.full(4, 50))
    law = np.asarray(world.pair_law)
    chi_square = np.sum((np.asarray(pairs) - 200_000 * law) ** 2 / (200_000 * law))
    assert abs(chi_square - 799) < 5 * np.sqrt(2 * 799)
    assert np.array_equal(world.pairs(a, jnp.asarray(200_000.0)), pairs)  # the size may be traced


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="dependence"):
        CaptionTriples.random(jax.random.key(0), dependence=-0.1)
    with pytest.raises(UserError, match="distortion"):
        CaptionTriples.random(jax.random.key(0), distortion=1.5)
