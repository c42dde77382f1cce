import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.clusters.good_bad_ugly import GoodBadUgly
from unseen.worlds.clusters.graded_features import (
    CueBlock,
    GradedFeatures,
    LinearBlock,
    NoiseBlock,
    SlabBlock,
    SlabData,
)

KEY = jax.random.key(4)
N = 20_000


@pytest.mark.parametrize(("slabs", "noise"), [(3, 0.0), (5, 0.0), (7, 0.0), (5, 0.1), (7, 0.2)])
def test_the_rule_of_a_slab_block_reaches_one_minus_its_noise(slabs, noise):
    block = SlabBlock(count=2, slabs=slabs, noise=noise)
    labels = jax.random.bernoulli(KEY, 0.5, (N,)).astype(jnp.int32)
    x, speaks = block.sample(KEY, labels)
    right = block.label(x) == labels[:, None]
    assert (right == speaks).all()  # exactly the noise is wrong
    assert right.mean() == pytest.approx(block.best_accuracy, abs=0.01) and block.best_accuracy == 1 - noise
    assert jnp.abs(x).max() <= 1 + 1e-6
    # Nothing in the gaps, of twice the margin each.
    step = block.width + 0.2
    assert (jnp.abs(jnp.abs(x) - jnp.round(jnp.abs(x) / step) * step) <= block.width / 2 + 1e-5).all()
    assert slabs * block.width + (slabs - 1) * 0.2 == pytest.approx(2)
    assert abs(float(jnp.mean(jnp.sign(x) * (2 * labels[:, None] - 1)))) < 0.03  # no linear rule


def test_slabs_hold_the_shares_of_the_official_generator():
    labels = (jnp.arange(N) % 2).astype(jnp.int32)
    for slabs, shares in {5: {0: 3 / 8, 1: 1 / 2, 2: 1 / 8}, 7: {0: 1 / 4, 1: 7 / 16, 2: 1 / 4, 3: 1 / 16}}.items():
        block = SlabBlock(slabs=slabs)
        x, _ = block.sample(KEY, labels)
        index = np.asarray(jnp.round(jnp.abs(x) / (block.width + 0.2))).astype(int).ravel()
        for slab, share in shares.items():
            assert (index == slab).mean() == pytest.approx(share, abs=0.012), (slabs, slab)


def test_linear_blocks_and_cues_reach_what_they_say():
    labels = jax.random.bernoulli(KEY, 0.5, (N,)).astype(jnp.int32)
    for block in (
        LinearBlock(), LinearBlock(noise=0.2), LinearBlock(ambiguous=0.1), CueBlock(),
        CueBlock(agreement=0.9, spread=1.0)
    ):  # fmt: skip
        x, _ = block.sample(KEY, labels)
        assert ((x[:, 0] > 0) == (labels == 1)).mean() == pytest.approx(block.best_accuracy, abs=0.01)
    x, clear = LinearBlock(ambiguous=0.1).sample(KEY, labels)
    assert ((jnp.abs(x) < 0.1) == ~clear).all() and clear.mean() == pytest.approx(0.9, abs=0.01)
    x, agrees = CueBlock(scale=5.0, agreement=0.9).sample(KEY, labels)
    assert agrees.mean() == pytest.approx(0.9, abs=0.01)
    sign = (2 * labels - 1) * jnp.where(agrees[:, 0], 1, -1)
    assert (x[:, 0] * sign).mean() == pytest.approx(5, abs=0.02) and (x[:, 0] * sign).std() == pytest.approx(
        0.6, abs=0.02
    )


def test_a_randomised_block_says_nothing_and_the_others_stay():
    sample = SlabData(6, slabs=5).sample(KEY, N)
    rule = SlabBlock(slabs=5).label
    for block, other in (("linear", "slabs"), ("slabs", "linear")):
        dealt = sample.randomise(block, jax.random.key(9))
        np.testing.assert_allclose(dealt.block(other), sample.block(other), atol=1e-4)
        np.testing.assert_allclose(
            np.sort(dealt.block(block)[:, 0]), np.sort(sample.block(block)[:, 0]), atol=1e-4
        )  # same values
        predicted = (dealt.block(block) > 0) if block == "linear" else rule(dealt.block(block)) == 1
        assert (predicted[:, 0] == (sample.labels == 1)).mean() == pytest.approx(0.5, abs=0.02)


def test_rotations_mix_and_can_be_undone():
    sample = SlabData(6).sample(KEY, 50)
    assert sample.rotation is not None
    np.testing.assert_allclose(sample.rotation @ sample.rotation.T, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(sample.coordinates @ sample.rotation, sample.x, atol=1e-5)
    np.testing.assert_allclose(sample.x @ sample.subspace("linear").T, sample.block("linear"), atol=1e-5)
    shared = SlabData(6).sample(jax.random.key(8), 50, rotation=sample.rotation)
    assert (shared.rotation == sample.rotation).all() and (shared.x != sample.x).any()
    assert jnp.abs(sample.block("slabs")).max() <= 1 + 1e-4


def test_noise_recognises_every_example():
    world = GradedFeatures({"cue": CueBlock(), "noise": NoiseBlock(count=50, scale=2.0)})
    sample = world.sample(KEY, 200)
    assert world.dims == 51 and sample.rotation is None
    assert sample.block("noise").std() == pytest.approx(2, abs=0.1)
    assert not sample.agrees("noise").any() and sample.agrees("cue").all()


def test_good_bad_ugly():
    world = GoodBadUgly(spread=0.5)
    curve = world.sample(KEY)
    assert curve.x.shape == (220, 31) and curve.train.sum() == 20
    np.testing.assert_allclose(
        curve.labels[:, 0], np.tanh(curve.x[:, 0]) + 0.5 * np.tanh(-5 * curve.x[:, 0]), atol=1e-5
    )
    assert (curve.targets[20:] == curve.labels[20:]).all() and (curve.targets[:20] != curve.labels[:20]).all()
    assert curve.x[:20, 1:].std() == pytest.approx(0.5, abs=0.05) and (curve.x[20:, 1:] == 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlabBlock(slabs=4), "slabs takes 3, 5 or 7"),
        (lambda: SlabBlock(slabs=7, margin=0.2), "margin takes a number below 0.167"),
        (lambda: CueBlock(agreement=1.2), "agreement takes"),
        (lambda: LinearBlock(count=0), "count takes"),
        (lambda: GradedFeatures({}), "blocks takes"),
        (lambda: SlabData(1), "dims takes"),
        (lambda: SlabData(4).sample(KEY, 3).randomise("core", KEY), "block takes one of linear, slabs"),
        (lambda: GoodBadUgly(points=1), "points and sweep take"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(UserError, match=message):
        make()
