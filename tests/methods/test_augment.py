import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.methods import Augment, label_preservation
from unseen.methods.augment import shift, turn
from unseen.worlds.clusters.digits import rotate

KEY = jax.random.key(0)
NAMES = ("crop", "rotation", "shift", "intensity", "occlude", "pixel_drop", "noise")


@pytest.fixture(scope="module")
def images():
    y, x = np.mgrid[:14, :14]
    spots = [np.exp(-((y - 6 - i) ** 2 + (x - 7 + i) ** 2) / 6) for i in (-1, 0, 1, 2)]
    return jnp.asarray(np.stack(spots), jnp.float32)


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_is_the_identity_also_when_traced(images, name):
    traced = jax.jit(lambda strength: Augment(**{name: strength})(KEY, images))
    assert (traced(0.0) == images).all()
    assert (Augment(**{name: 0.0})(KEY, images) == images).all()
    changed = traced(1.0)
    assert changed.shape == images.shape and (changed >= -1e-6).all() and (changed <= 1 + 1e-6).all()
    assert float(jnp.abs(changed - images).max()) > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_more_strength_changes_more(images, name):
    many = jnp.tile(images, (50, 1, 1))
    low, high = (jnp.abs(Augment(**{name: s})(KEY, many) - many).mean() for s in (0.3, 0.9))
    assert high > low


def test_turning_is_the_world_s_rotation(images):
    for degrees in (-30.0, -10.0, 20.0):
        three_shears = turn(images, jnp.full(len(images), degrees))
        assert float(jnp.abs(three_shears - rotate(images, degrees)).max()) < 0.06


def test_shift_by_whole_pixels_moves_the_array(images, monkeypatch):
    """With the draw fixed at its end, strength 1 moves a 16-pixel image by 4."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1)))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, minval: jnp.ones(shape))
    moved = shift(KEY, padded, 1.0)
    np.testing.assert_allclose(moved[:, 4:, 4:], padded[:, :-4, :-4], atol=1e-6)
    assert float(jnp.abs(moved[:, :4]).max()) == 0


def test_occlusion_and_drop_have_their_share(images):
    white = jnp.ones((2_000, 8, 8))
    assert float((Augment(occlude=1.0)(KEY, white) == 0).mean()) == pytest.approx(36 / 64)
    assert float((Augment(pixel_drop=0.4)(KEY, white) == 0).mean()) == pytest.approx(0.3, abs=0.01)


def test_views_differ_and_keep_their_order(images):
    views = Augment(noise=0.5).views(KEY, images, 3)
    assert views.shape == (4, 3, 14, 14)
    assert (views[:, 0] != views[:, 1]).any()
    assert float(jnp.abs(views.mean(1) - images).mean()) < 0.3


def test_label_preservation_counts_views():
    images, labels = jnp.stack([jnp.zeros((4, 4)), jnp.ones((4, 4))]), jnp.array([0, 1])

    def classify(x):
        return (x.mean((1, 2)) > 0.5).astype(int)

    assert float(label_preservation(classify, Augment(), KEY, images, labels)) == 1
    invert = lambda key, x: jnp.where(jax.random.bernoulli(key), 1 - x, x)  # noqa: E731
    kept = label_preservation(classify, invert, KEY, images, labels, views=400)
    assert float(kept) == pytest.approx(0.5, abs=0.08)
