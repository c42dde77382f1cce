import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from unseen.lab import UserError
from unseen.models.batch_norm import BatchNormMLP, GhostBatchNorm, settle
from unseen.worlds.clusters.digit_split import DigitSplit

KEY = jax.random.key(0)


def test_one_ghost_as_large_as_the_batch_is_torchs_batch_norm():
    x = 3 * jax.random.normal(KEY, (12, 5)) + 1
    scale, shift = jnp.arange(1.0, 6.0), jnp.arange(5.0)
    peer = torch.nn.BatchNorm1d(5)
    with torch.no_grad():
        peer.weight[:] = torch.tensor(np.asarray(scale))
        peer.bias[:] = torch.tensor(np.asarray(shift))
    wanted = peer(torch.tensor(np.asarray(x))).detach().numpy()
    for ghost in (None, 12, 100):
        np.testing.assert_allclose(GhostBatchNorm(scale, shift, ghost=ghost)(x), wanted, atol=2e-5)


def test_a_ghost_does_not_see_the_others():
    x = jax.random.normal(KEY, (12, 5))
    norm = GhostBatchNorm.of(5, ghost=4)
    plain = GhostBatchNorm.of(5)
    np.testing.assert_allclose(norm(x), jnp.concatenate([plain(x[i : i + 4]) for i in (0, 4, 8)]), atol=1e-6)
    assert not np.allclose(norm(x), plain(x), atol=0.01)


def test_settled_statistics_are_what_torchs_running_averages_tend_to():
    x = jax.random.normal(KEY, (60, 3)) * jnp.array([1.0, 2.0, 3.0]) + 4
    weights = (jnp.arange(60) < 40).astype(float)  # 20 test rows that must not count
    norm = GhostBatchNorm.of(3, ghost=4).settled(x, weights)
    torch.set_num_threads(1)
    peer = torch.nn.BatchNorm1d(3, momentum=None)  # cumulative mean over batches
    rows, rng = torch.tensor(np.asarray(x)), np.random.default_rng(0)
    for _ in range(2_000):
        peer(rows[rng.choice(40, 4)])
    np.testing.assert_allclose(norm.mean, peer.running_mean, rtol=0.02)
    np.testing.assert_allclose(norm.variance, peer.running_var, rtol=0.04)
    peer.eval()
    np.testing.assert_allclose(norm(x), peer(torch.tensor(np.asarray(x))).detach(), atol=0.1)


def test_a_settled_network_on_its_training_set_is_the_network_in_training():
    images = jax.random.normal(KEY, (20, 6))
    labels = jnp.zeros(20, jnp.int32)
    train = (jnp.arange(20) < 15).astype(float)
    data = DigitSplit(images, labels, labels, train, 1 - train)
    net = BatchNormMLP(6, 3, widths=(8, 4), key=KEY)
    settled = settle(net, data)
    np.testing.assert_allclose(settled(images)[:15], net(images[:15]), atol=1e-5)
    # One row at a time gives the same: nothing depends on the batch any more.
    np.testing.assert_allclose(settled(images[16:17])[0], settled(images)[16], atol=1e-6)
    count = [len(jax.tree.leaves(eqx.filter(m, eqx.is_inexact_array))) for m in (net, settled)]
    assert count == [10, 14]


def test_bad_ghosts():
    with pytest.raises(UserError, match="ghost takes a whole number from 2"):
        GhostBatchNorm.of(3, ghost=1)
    with pytest.raises(UserError, match="ghost takes a divisor of the 10 rows"):
        GhostBatchNorm.of(3, ghost=4)(jnp.zeros((10, 3)))
