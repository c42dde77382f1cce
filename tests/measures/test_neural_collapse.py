"""Neural collapse: its limits, its null values, and what streaming leaves unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.measures import StreamingClassMoments, collapse_report, decisions_agree, random_moments


def stream(features, labels, classes, cuts, weights=None):
    moments = StreamingClassMoments.empty(classes, features.shape[1])
    parts = zip(*(np.split(np.asarray(x), cuts) for x in (features, labels)), strict=True)
    for x, y in parts:
        moments = moments.update(jnp.asarray(x), jnp.asarray(y))
    return moments


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    labels = rng.choice(7, size=500, p=np.array([30, 20, 20, 15, 10, 5, 0]) / 100)
    x = rng.normal(size=(500, 5)) * (1 + labels[:, None]) + 10 * rng.normal(size=(7, 5))[labels] + 100
    return x.astype(np.float32), labels


def test_streaming_is_one_shot_is_numpy(features):
    x, y = features
    whole, parts = stream(x, y, 7, []), stream(x, y, 7, [1, 3, 100, 499])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    for c in range(6):
        mine = x[y == c].astype(float)
        np.testing.assert_allclose(parts.mean[c], mine.mean(0), rtol=1e-5)
        np.testing.assert_allclose(parts.variance[c], mine.var(0).sum(), rtol=1e-3)
    assert parts.count[6] == 0 and parts.variance[6] == 0


def test_weights_count_examples(features):
    x, y = map(jnp.asarray, features)
    weights = (jnp.arange(500) % 3).astype(float)
    twice = jnp.repeat(jnp.arange(500), jnp.arange(500) % 3)
    empty = StreamingClassMoments.empty(7, 5)
    for a, b in zip(
        jax.tree.leaves(empty.update(x, y, weights)), jax.tree.leaves(empty.update(x[twice], y[twice])), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3)


def simplex(classes):
    """Vertices of a simplex around 0, in as many dimensions, moved away from the origin."""
    return 3 * (jnp.eye(classes) - 1 / classes)


@pytest.mark.parametrize("classes", [3, 10])
def test_full_collapse(classes):
    frame = simplex(classes)
    labels = jnp.tile(jnp.arange(classes), 4)
    moments = StreamingClassMoments.empty(classes, classes).update(frame[labels] + 5.0, labels)
    report = collapse_report(moments, 2 * frame)
    assert report.classes == classes
    for name in ("variability", "damped_variability", "norm_variation", "kernel_variation", "alignment_variation"):
        np.testing.assert_allclose(getattr(report, name), 0, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(report.simplex_error, 0, atol=1e-5)
    np.testing.assert_allclose(report.alignment, 1, rtol=1e-5)
    held_out = frame[labels] + 5.0 + 0.1 * jax.random.normal(jax.random.key(0), (len(labels), classes))
    assert decisions_agree(held_out, moments.mean, frame, jnp.ones(classes, bool)).all()


def test_null_values_of_random_means():
    """Cosines of random unit vectors have variance 1 / d, so log distances have 1 / (4 d) around log sqrt(2)."""
    width, classes = 400, 300
    moments = random_moments(jax.random.key(0), classes, width, spread=0.7)
    report = collapse_report(moments, jax.random.normal(jax.random.key(1), (classes, width)))
    np.testing.assert_allclose(report.simplex_error, width**-0.5, rtol=0.02)
    np.testing.assert_allclose(report.kernel_variation, 1 / (2 * np.sqrt(width) * np.log(np.sqrt(2))), rtol=0.03)
    np.testing.assert_allclose(report.variability, 0.7 / 2, rtol=0.01)  # (v + v) / (2 * 2)
    np.testing.assert_allclose(report.damped_variability, 0.7 / 4, rtol=0.02)
    assert abs(report.alignment) < 4 / np.sqrt(width * classes)


def test_report_is_the_definition_in_numpy(features):
    x, y = features
    w = np.random.default_rng(1).normal(size=(7, 5))
    report = collapse_report(stream(x, y, 7, []), jnp.asarray(w, jnp.float32), minimum=60)
    kept = [c for c in range(7) if (y == c).sum() >= 60]
    assert 2 < len(kept) < 6 and report.classes == len(kept)
    means = np.stack([x[y == c].astype(float).mean(0) for c in kept])
    noise = np.array([x[y == c].astype(float).var(0).sum() for c in kept])
    centred = means - means.mean(0)
    norms = np.linalg.norm(centred, axis=1)
    unit = centred / norms[:, None]
    pairs = [(i, j) for i in range(len(kept)) for j in range(i)]
    apart = np.array([((means[i] - means[j]) ** 2).sum() for i, j in pairs])
    ratio = np.array([(noise[i] + noise[j]) / 2 for i, j in pairs])
    kernel = np.array([-np.log(np.linalg.norm(unit[i] - unit[j])) for i, j in pairs])
    cosine = np.array([unit[i] @ unit[j] for i, j in pairs])
    align = (unit * w[kept]).sum(1) / np.linalg.norm(w[kept], axis=1)
    expected = dict(
        variability=(ratio / apart).mean(),
        damped_variability=(ratio / apart**2).mean(),
        norm_variation=norms.std() / norms.mean(),
        simplex_error=np.sqrt(((cosine + 1 / (len(kept) - 1)) ** 2).mean()),
        kernel_variation=kernel.std() / abs(kernel.mean()),
        alignment=align.mean(),
        alignment_variation=align.std() / abs(align.mean()),
    )
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(report, name), value, rtol=2e-3, err_msg=name)


def test_units(features):
    x, y = features
    w = jnp.ones((7, 5))
    one, twice = (collapse_report(stream(s * x, y, 7, []), w) for s in (1, 2))
    np.testing.assert_allclose(twice.variability, one.variability, rtol=1e-3)
    np.testing.assert_allclose(twice.damped_variability, one.damped_variability / 4, rtol=1e-3)


def test_decisions_are_those_of_both_classifiers(features):
    x, _ = features
    w = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
    means = np.random.default_rng(2).normal(size=(7, 5)).astype(np.float32) * 20 + 100
    kept = np.array([1, 1, 0, 1, 1, 0, 1], bool)
    names = np.nonzero(kept)[0]
    by_score = names[(x @ w[kept].T).argmax(1)]
    nearest = names[((x[:, None] - means[kept]) ** 2).sum(-1).argmin(1)]
    found = decisions_agree(jnp.asarray(x), jnp.asarray(means), jnp.asarray(w), jnp.asarray(kept))
    np.testing.assert_array_equal(found, by_score == nearest)
    assert 0 < found.mean() < 1


def test_too_few_classes_are_no_number():
    report = collapse_report(random_moments(jax.random.key(0), 3, 2), jnp.ones((3, 2)), minimum=2)
    assert report.classes == 0 and jnp.isnan(report.variability) and jnp.isnan(report.alignment)
