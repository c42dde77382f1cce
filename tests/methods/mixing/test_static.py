import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.methods.mixing import Mixed, cutmix, fmix, gridmix, mixup, resizemix, saliencymix, smoothmix
from unseen.methods.mixing.static import box, pair

KEY = jax.random.key(0)
RECIPES = (mixup, cutmix, resizemix, fmix, gridmix, smoothmix, saliencymix)


@pytest.fixture(scope="module")
def batch():
    images = jax.random.uniform(KEY, (6, 14, 14))
    return images, jnp.eye(6)


@pytest.mark.parametrize("mix", RECIPES)
def test_every_pixel_is_a_blend_and_labels_say_how_much(mix, batch):
    """Images of one value each: the mixture's mean is what its labels say."""
    _, labels = batch
    values = jnp.arange(6.0)
    images = jnp.broadcast_to(values[:, None, None], (6, 14, 14))
    run = jax.jit(lambda key: mix(key, images, labels))
    for seed in range(8):
        mixed = run(jax.random.key(seed))
        assert isinstance(mixed, Mixed)
        np.testing.assert_allclose(mixed.labels.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(mixed.images.mean((1, 2)), mixed.labels @ values, atol=1e-4)


@pytest.mark.parametrize("mix", RECIPES)
def test_draws_differ(mix, batch):
    a, b = (mix(jax.random.key(seed), *batch) for seed in (1, 2))
    assert float(jnp.abs(a.images - b.images).max()) > 0


def test_mixup_is_the_official_formula(batch):
    images, labels = batch
    mixed, other = mixup(KEY, images, labels, alpha=0.7), pair(KEY, images, labels, 0.7)
    lam = float(other.ratio)
    np.testing.assert_allclose(mixed.images, lam * images + (1 - lam) * other.images, atol=1e-6)
    np.testing.assert_allclose(mixed.labels, lam * labels + (1 - lam) * other.labels, atol=1e-6)


def test_the_ratio_is_beta_distributed(batch):
    ratios = jax.vmap(lambda k: pair(k, *batch, 2.0).ratio)(jax.random.split(KEY, 2_000))
    assert float(ratios.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(ratios.var()) == pytest.approx(1 / 20, rel=0.1)


def official_box(size, lam, cx, cy):
    """rand_bbox of CutMix-PyTorch and OpenMixup, in NumPy: the corners for a ratio and a centre."""
    ratio = np.sqrt(1.0 - lam)
    cut = int(size * ratio)
    first = [int(np.clip(c - cut // 2, 0, size)) for c in (cx, cy)]
    last = [int(np.clip(c + cut // 2, 0, size)) for c in (cx, cy)]
    mask = np.zeros((size, size))
    mask[first[0] : last[0], first[1] : last[1]] = 1
    return mask


def test_cutmix_boxes_are_the_official_ones():
    rng = np.random.default_rng(0)
    for _ in range(60):
        lam, cx, cy = rng.uniform(), rng.integers(14), rng.integers(14)
        side = jnp.sqrt(1 - jnp.float32(lam))
        mine = box(14, 14, side, jnp.float32(cx), jnp.float32(cy))
        np.testing.assert_array_equal(mine, official_box(14, lam, cx, cy))


def test_cutmix_pastes_the_other_image(batch):
    images, labels = batch
    mixed, other = cutmix(KEY, images, labels), pair(KEY, images, labels, 1.0)
    mine, theirs = mixed.images == images, mixed.images == other.images
    assert (mine | theirs).all()
    moved = np.asarray((other.labels != labels).any(1))
    share = np.asarray(mine.mean((1, 2)))[moved]
    np.testing.assert_allclose(share, mixed.labels.max(1)[moved] * 0 + (mixed.labels * labels).sum(1)[moved], atol=1e-6)


def test_resizemix_shows_the_whole_second_image():
    """Quarters of four grey levels: all of them are in the pasted box, in their order."""
    quarters = jnp.kron(jnp.array([[0.2, 0.4], [0.6, 0.8]]), jnp.ones((7, 7)))
    images = jnp.stack([quarters, jnp.zeros((14, 14))])
    seen = 0
    for seed in range(40):
        mixed = resizemix(jax.random.key(seed), images, jnp.eye(2), scope=(0.5, 0.6))
        pasted = np.asarray(mixed.images[1])
        if pasted.any() and mixed.labels[1, 0] > 0.17:
            values = np.unique(pasted[pasted > 0])
            np.testing.assert_allclose(values, [0.2, 0.4, 0.6, 0.8], atol=1e-6)
            seen += 1
    assert seen > 3


def test_fmix_has_few_connected_parts(batch):
    """Low frequencies: neighbouring pixels of the mask mostly agree."""
    images = jnp.stack([jnp.zeros((14, 14)), jnp.ones((14, 14))])
    agree = []
    for seed in range(20):
        mixed = fmix(jax.random.key(seed), images, jnp.eye(2))
        mask = np.asarray(mixed.images[0])
        assert set(np.unique(mask)) <= {0.0, 1.0}
        agree.append((mask[1:] == mask[:-1]).mean())
    assert np.mean(agree) > 0.85


def test_smoothmix_is_a_gaussian_spot():
    images = jnp.stack([jnp.zeros((14, 14)), jnp.ones((14, 14))])
    order = [s for s in range(20) if (pair(jax.random.key(s), images, jnp.eye(2), 1.0).labels[0, 1] == 1)]
    spot = np.asarray(smoothmix(jax.random.key(order[0]), images, jnp.eye(2)).images[0])
    logs = np.log(spot)
    assert np.ptp(np.diff(logs, 2, axis=0)) < 1e-2 and np.diff(logs, 2, axis=0).mean() < 0
