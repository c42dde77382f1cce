import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.measures import augmentation_concentration, closest_views, contrastive_error_bound, unit
from unseen.measures.concentration import Concentration

KEY = jax.random.key(4)


def test_closest_views_by_brute_force():
    views = jax.random.normal(KEY, (6, 4, 3))
    embedded = jax.random.normal(jax.random.key(5), (6, 4, 2))
    got = closest_views(views, embedded)
    for i, j in itertools.product(range(6), repeat=2):
        apart = np.linalg.norm(np.asarray(views[i])[:, None] - np.asarray(views[j]), axis=-1)
        a, b = np.unravel_index(apart.argmin(), apart.shape)
        assert float(got.distance[i, j]) == pytest.approx(apart.min(), abs=2e-3)
        assert float(got.embedded[i, j]) == pytest.approx(
            float(jnp.linalg.norm(embedded[i, a] - embedded[j, b])), abs=2e-3
        )


def test_main_parts_are_cliques_and_nearly_the_largest():
    """Against exhaustive search over all subsets of classes of nine."""
    points = jax.random.normal(KEY, (18, 2))
    labels = jnp.arange(18) % 2
    distance = jnp.linalg.norm(points[:, None] - points, axis=-1)
    for delta in (0.5, 1.0, 1.5, 2.5):
        found = augmentation_concentration(distance, labels, 2, delta)
        best = []
        for c in range(2):
            rows = np.flatnonzero(np.asarray(labels) == c)
            close = np.asarray(distance)[np.ix_(rows, rows)] <= delta
            sizes = [
                len(s) for k in range(1, 10) for s in itertools.combinations(range(9), k) if close[np.ix_(s, s)].all()
            ]
            best.append(max(sizes) / 9)
            part = rows[np.asarray(found.main)[rows]]
            assert (np.asarray(distance)[np.ix_(part, part)] <= delta).all()
        assert min(best) - 2 / 9 <= float(found.sigma) <= min(best) + 1e-6


def test_sigma_is_one_when_everything_is_near():
    labels = jnp.array([0, 0, 1, 1])
    assert float(augmentation_concentration(jnp.zeros((4, 4)), labels, 2, 0.1).sigma) == 1
    far = jnp.where(jnp.eye(4, dtype=bool), 0.0, 9.0)
    assert float(augmentation_concentration(far, labels, 2, 0.1).sigma) == 0.5
    assert float(augmentation_concentration(far, labels, 3, 0.1).sigma) == 0.5  # the third class has no examples


def test_perfect_embedding_meets_the_condition_and_bounds_its_error():
    """Every class on its own corner, all views in one point: rho = 0, the bound is 0 and so is the error."""
    labels = jnp.arange(20) % 4
    embedded = jnp.tile(jnp.eye(4)[labels][:, None], (1, 3, 1))
    everything = Concentration(jnp.array(1.0), jnp.ones(20, bool))
    got = contrastive_error_bound(embedded, labels, 4, everything, jnp.zeros((20, 20)), 0.01)
    assert bool(got.met) and bool(got.direct)
    assert float(got.bound) == 0 and float(got.error) == 0
    # A main part of 4/5 of each class leaves rho = 0.4: the theorem asks for more than it gets.
    part = Concentration(jnp.array(0.8), jnp.arange(20) >= 4)
    assert not bool(contrastive_error_bound(embedded, labels, 4, part, jnp.zeros((20, 20)), 0.01).met)


def test_poorly_aligned_examples_count():
    labels = jnp.arange(8) % 2
    embedded = jnp.tile(jnp.eye(2)[labels][:, None], (1, 2, 1)).at[0, 1].set(jnp.array([0.0, 1.0]))
    everything = Concentration(jnp.array(1.0), jnp.ones(8, bool))
    got = contrastive_error_bound(embedded, labels, 2, everything, jnp.zeros((8, 8)), 0.5)
    assert float(got.poor) == pytest.approx(1 / 8) and float(got.bound) == pytest.approx(1 / 8)


def test_the_theorem_is_true_on_random_embeddings():
    """Wherever the condition is met, the conclusion holds: theory checked by simulation."""

    def one(key, noise):
        a, b = jax.random.split(key)
        labels = jnp.arange(60) % 3
        centres = jnp.eye(3)[labels][:, None]
        views = unit(centres + noise * (jax.random.normal(a, (60, 1, 3)) + jax.random.normal(b, (60, 4, 3))))
        closest = closest_views(views, views)
        parts = augmentation_concentration(closest.distance, labels, 3, 10 * noise)
        return contrastive_error_bound(views, labels, 3, parts, closest.embedded, 12 * noise)

    noises = jnp.geomspace(0.001, 1.0, 40)
    got = jax.jit(jax.vmap(one))(jax.random.split(KEY, 40), noises)
    assert got.met.sum() >= 3
    assert (got.direct | ~got.met).all()
    assert ((got.error <= got.bound + 1e-6) | ~got.met).all()
