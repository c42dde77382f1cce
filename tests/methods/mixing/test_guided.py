import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.methods.mixing import aligned, attentivemix, fine_grained_saliency, puzzlemix, saliencymix, sinkhorn
from unseen.methods.mixing.guided import block_energy, block_mask, transport
from unseen.methods.mixing.static import pair

KEY = jax.random.key(0)


def test_saliency_peaks_at_the_odd_one_out():
    images = jnp.zeros((1, 14, 14)).at[0, 4, 9].set(1.0)
    saliency = fine_grained_saliency(images)[0]
    assert int(saliency.argmax()) == 4 * 14 + 9
    assert float(saliency[12, 2]) == 0
    assert float(fine_grained_saliency(jnp.ones((1, 14, 14))).max()) < 1e-6


def test_saliencymix_pastes_the_spot():
    """The second image's bright pixel is in the mixture whenever the box is 2 pixels or more wide."""
    spots = jnp.zeros((2, 14, 14)).at[0, 3, 4].set(1.0).at[1, 10, 8].set(1.0)
    for seed in range(12):
        key = jax.random.key(seed)
        other = pair(key, spots, jnp.eye(2), 1.0)
        mixed = saliencymix(key, spots, jnp.eye(2))
        if jnp.floor(jnp.sqrt(1 - other.ratio) * 14) >= 2:
            shown = (mixed.images * other.images).sum((1, 2))
            np.testing.assert_allclose(shown, 1.0)


def test_attentivemix_keeps_the_cells_with_most_attention():
    images = jnp.stack([jnp.ones((14, 14)), jnp.zeros((14, 14))])
    attention = jnp.broadcast_to(jnp.arange(49.0).reshape(7, 7), (2, 7, 7))
    for seed in range(30):
        key = jax.random.key(seed)
        other = pair(key, images, jnp.eye(2), 1.0)
        if other.labels[0, 1] == 1:
            break
    mixed = attentivemix(key, images, jnp.eye(2), attention)
    kept = int(np.clip(np.floor(49 * float(other.ratio)), 1, 49))
    mask = np.asarray(mixed.images[0])[::2, ::2].reshape(-1)
    np.testing.assert_array_equal(mask, np.arange(49) >= 49 - kept)
    assert float(mixed.labels[0, 0]) == pytest.approx(kept / 49)


SETTINGS = dict(smoothness=0.02, local=0.5, prior=0.02)


def problem(seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    grids = [jax.random.uniform(k, (1, 3, 3)) for k in keys]
    return [x / x.sum() for x in grids[:2]] + grids[2:]


def test_the_mask_is_a_local_minimum_and_nearly_the_best_one():
    """Against all 512 masks of nine blocks."""
    every = jnp.array(list(itertools.product((0.0, 1.0), repeat=9))).reshape(512, 3, 3)
    excess = []
    for seed in range(12):
        grids = problem(seed)
        mask = block_mask(*grids, 0.4, **SETTINGS)
        energy = float(block_energy(mask, *grids, 0.4, **SETTINGS)[0])
        rest = [jnp.broadcast_to(x, (512, 3, 3)) for x in grids]
        all_energies = np.asarray(block_energy(every, *rest, 0.4, **SETTINGS))
        flips = jnp.stack([mask[0].reshape(-1).at[i].set(1 - mask[0].reshape(-1)[i]).reshape(3, 3) for i in range(9)])
        nine = [jnp.broadcast_to(x, (9, 3, 3)) for x in grids]
        assert (np.asarray(block_energy(flips, *nine, 0.4, **SETTINGS)) >= energy - 1e-6).all()
        excess.append((energy - all_energies.min()) / np.ptp(all_energies))
    assert np.mean(excess) < 0.05


def test_transport_moves_a_salient_block_to_where_it_shows():
    """One salient block outside the mask, one free cell next to it inside."""
    images = jnp.zeros((1, 6, 6)).at[0, 0:2, 0:2].set(1.0)  # block (0, 0) of 3 x 3
    saliency = jnp.zeros((1, 3, 3)).at[0, 0, 0].set(1.0)
    shown = jnp.zeros((1, 3, 3)).at[0, 0, 1].set(1.0)
    moved = transport(images, saliency, shown, 0.8)
    np.testing.assert_array_equal(moved[0, 0:2, 2:4], 1.0)
    far = transport(images, saliency / 10, shown, 0.8)  # not worth the way
    np.testing.assert_array_equal(far, images)


def test_puzzlemix_labels_are_the_share_of_blocks():
    images = jax.random.uniform(KEY, (5, 14, 14))
    saliency = jax.random.uniform(jax.random.key(1), (5, 14, 14))
    mixed = jax.jit(lambda key: puzzlemix(key, images, jnp.eye(5), saliency))(KEY)
    np.testing.assert_allclose(mixed.labels.sum(1), 1, atol=1e-5)
    assert mixed.images.shape == images.shape and jnp.isfinite(mixed.images).all()
    np.testing.assert_allclose(mixed.labels * 49, jnp.round(mixed.labels * 49), atol=1e-3)


def test_sinkhorn_is_doubly_stochastic_and_finds_a_permutation():
    cost = jax.random.uniform(KEY, (2, 6, 6))
    plan = sinkhorn(cost, rounds=200)
    np.testing.assert_allclose(plan.sum(1), 1, atol=0.02)
    np.testing.assert_allclose(plan.sum(2), 1, atol=0.02)
    order = jnp.array([2, 0, 3, 1])
    points = jnp.arange(4.0)[:, None] * 3
    square = jnp.square(points[order] - points.T)[None]
    np.testing.assert_allclose(sinkhorn(square, softness=0.02)[0], jax.nn.one_hot(order, 4), atol=1e-3)


def test_alignment_undoes_a_shuffle():
    """Maps that are each other's shuffled copies: rearranged, mixing changes nothing."""
    first = 5 * jax.random.normal(KEY, (3, 2, 2, 8))
    second = first.reshape(3, 4, 8)[:, jnp.array([3, 1, 0, 2])].reshape(first.shape)
    np.testing.assert_allclose(aligned(first, second, 0.3, True), first, atol=0.05)
    np.testing.assert_allclose(aligned(first, second, 0.3, False), second, atol=0.05)


def test_after_alignment_the_mean_over_positions_is_that_of_mixup():
    """Why aligning just before a global pool is mixup of pooled features."""
    first, second = jax.random.normal(KEY, (2, 3, 3, 3, 4))
    mixed = aligned(first, second, 0.3, True).mean((1, 2))
    np.testing.assert_allclose(mixed, (0.3 * first + 0.7 * second).mean((1, 2)), atol=0.05)
