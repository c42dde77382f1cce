import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.learners import alignment_loss, contrastive, cross_correlation, info_nce
from unseen.measures import positive_distance, unit
from unseen.methods import Augment
from unseen.models import FeatureNet
from unseen.worlds.clusters import DigitDomains, LabelledImages

KEY = jax.random.key(2)


def test_info_nce_with_one_negative_is_a_logistic_loss():
    a, b = unit(jax.random.normal(KEY, (2, 2, 5)))
    s = np.asarray(a @ b.T) / 0.3
    one_way = [np.log1p(np.exp(s[i, 1 - i] - s[i, i])) for i in range(2)]
    other_way = [np.log1p(np.exp(s[1 - i, i] - s[i, i])) for i in range(2)]
    expected = (np.array(one_way) + np.array(other_way)) / 2
    np.testing.assert_allclose(info_nce(a, b, temperature=0.3), expected, rtol=1e-5)


def test_info_nce_is_cross_entropy_of_the_right_partner():
    a, b = jax.random.normal(KEY, (2, 6, 4))
    logits = unit(a) @ unit(b).T / 0.2
    there, back = (optax.softmax_cross_entropy_with_integer_labels(x, jnp.arange(6)) for x in (logits, logits.T))
    np.testing.assert_allclose(info_nce(a, b), (there + back) / 2, rtol=1e-5)


def test_cross_correlation_vanishes_for_equal_decorrelated_views():
    z = jnp.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert float(cross_correlation(z, z).max()) < 1e-9
    # Views without any relation: both diagonal entries are 0, and so are the others.
    other = jnp.array([[1.0, 1], [-1, -1], [-1, -1], [1, 1]])
    np.testing.assert_allclose(cross_correlation(z[:, :1], other[:, :1]), 1.0, atol=1e-5)
    # Two equal dimensions: off-diagonal correlations of 1, each weighed.
    twice = jnp.stack([z[:, 0], z[:, 0]], 1)
    np.testing.assert_allclose(cross_correlation(twice, twice, weight=0.1), 0.2, atol=1e-5)


def test_alignment_is_squared_distance_on_the_sphere():
    a, b = jnp.array([[2.0, 0], [1, 0]]), jnp.array([[5.0, 0], [0, 3]])
    np.testing.assert_allclose(alignment_loss(a, b), [0.0, 2.0], atol=1e-6)


@pytest.fixture(scope="module")
def world():
    return DigitDomains.digits()


def trained(world, loss, steps=60):
    learner = contrastive(
        lambda key: eqx.filter_vmap(FeatureNet.mlp(64, 8, widths=(32,), key=key)),
        lambda key: LabelledImages.draw(key, world, train=256, test=100),
        optax.adam(3e-3),
        augment=Augment(noise=0.3, shift=0.3),
        loss=loss,
        steps=steps,
        every=steps,
        batch_size=64,
        epoch=256,
        measure=lambda model, data: {"z": unit(model(data.test_side[0]))},
    )
    state = learner.init(KEY)
    advance = eqx.filter_jit(learner.advance)
    return learner.measure(state)["z"], learner.measure(advance(state))["z"], state


def test_alignment_only_drives_all_embeddings_together(world):
    before, after, _ = trained(world, alignment_loss)
    spread = [float(jnp.linalg.norm(z[:, None] - z, axis=-1).mean()) for z in (before, after)]
    assert spread[1] < 0.3 * spread[0]


def test_info_nce_spreads_them_and_aligns_views(world):
    before, after, state = trained(world, info_nce)
    spread = [float(jnp.linalg.norm(z[:, None] - z, axis=-1).mean()) for z in (before, after)]
    assert spread[1] > 1.5 * spread[0]
    assert state.data.train.sum() == 256


def test_labels_are_never_looked_at(world):
    """Other labels, same training."""

    def run(labels):
        data = LabelledImages(world.images[:64], labels[:64], KEY, 48)
        learner = contrastive(
            lambda key: eqx.filter_vmap(FeatureNet.mlp(64, 4, widths=(8,), key=key)),
            data,
            optax.sgd(0.1),
            augment=Augment(noise=0.2),
            steps=2,
            every=2,
            batch_size=24,
        )
        assert learner.measure(learner.init(KEY)) == {}
        return jax.tree.leaves(eqx.filter(learner.advance(learner.init(KEY)).model, eqx.is_array))

    for a, b in zip(run(world.labels), run(jnp.zeros_like(world.labels)), strict=True):
        assert (a == b).all()
    assert float(positive_distance(world.images[:9, 0], world.images[:9, 0])) == 0
