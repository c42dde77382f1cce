import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, DotProduct

from unseen.lab import UserError
from unseen.measures.inductive_bias import (
    band_limited_functions,
    class_resolution,
    inductive_bias_complexity,
    inductive_bias_kernel,
    inductive_bias_network,
    intrinsic_dimension,
    linear,
    pomdp_difficulty,
    rbf,
)

# error, examples, dimension, radius, classes, resolution, outputs, bound and what `difficulty` of
# FieteLab/inductive-bias-complexity (task_difficulty.py) returned for them.
OFFICIAL = [
    (0.001, 60000, 14, 17.179045827183984, 10, 2.3987084824335305, 9, 1, 1.484803747935555e16),
    (0.01, 73257, 19, 53.86932485133339, 10, 1.5766998174969105, 9, 1, 1.2129030245497859e31),
    (0.01, 50000, 27, 54.9156786783691, 10, 2.7506414616587023, 9, 1, 3.4377180535929286e32),
    (0.1, 1280901, 48, 943.5923, 1000, 65, 999, 1, 3.583252793803963e41),
    (0.05, 1000, 3.7, 5.0, 4, 0.6, 3, 2.5, 93465108.5116211),
]


@pytest.mark.parametrize("case", OFFICIAL)
def test_formula_is_the_official_one(case):
    error, examples, dimension, radius, classes, resolution, outputs, bound, expected = case
    ours = inductive_bias_complexity(
        error,
        examples=examples,
        dimension=dimension,
        radius=radius,
        resolution=resolution,
        classes=classes,
        outputs=outputs,
        bound=bound,
    )
    assert np.isclose(ours, expected, rtol=1e-12)


def test_functions_are_counted_as_harmonics():
    # On the circle 2 K + 1, on the sphere (K + 1)^2.
    for degree in (1, 2, 5):
        assert np.allclose(band_limited_functions(1, degree), (degree, 2 * degree + 1))
        assert np.allclose(band_limited_functions(2, math.sqrt(degree * (degree + 1))), (degree, (degree + 1) ** 2))


@pytest.mark.parametrize(
    "frames, expected", [(1, 4414675128.088124), (3, 1.4639013134073883e25), (5, 1.1872522946196583e40)]
)
def test_cart_pole_of_the_official_code(frames, expected):
    assert np.isclose(pomdp_difficulty(0.001, observed=2, frames=frames), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "observed, actions, expected",
    [(6, 2, 2.914154432597924e25), (15, 4, 7.613011221249043e58), (17, 6, 1.7183989133177683e66)],
)
def test_simulated_robots_of_the_official_code(observed, actions, expected):
    assert np.isclose(pomdp_difficulty(0.001, observed=observed, actions=actions, examples=1e6), expected, rtol=1e-12)


def noisy_halves():
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 6))
    return x, (x[:, 0] + 0.3 * random.normal(size=200) > 0).astype(int)


def test_estimators_are_the_official_ones():
    x, y = noisy_halves()
    assert np.isclose(intrinsic_dimension(x, 5), 5.53291690856807, rtol=1e-12)
    # evt_delta of the official code on the first 40 points, fed with each of their 400 pairs once, k = 20.
    assert np.isclose(class_resolution(x[:40], y[:40], 20 / 400, pairs=800), 1.1503175283056952, rtol=1e-9)
    assert np.isclose(class_resolution(x, y, 20 / 9_999, pairs=20_000), 0.43488382873654885, rtol=1e-9)


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_dimension_of_a_cube_turned_into_a_larger_space(dimension):
    random = np.random.default_rng(dimension)
    basis = np.linalg.qr(random.normal(size=(20, 20)))[0][:dimension]
    x = random.uniform(size=(3_000, dimension)) @ basis
    assert np.isclose(intrinsic_dimension(x, 5), dimension, rtol=0.1)
    assert np.isclose(intrinsic_dimension(np.concatenate([x, x[:500]]), 5), dimension, rtol=0.1)


def test_resolution_sees_the_gap_between_classes():
    random = np.random.default_rng(0)
    x = random.uniform(size=(600, 2))
    y = random.integers(0, 2, 600)
    x[:, 0] += 1.5 * y
    assert 0.35 < class_resolution(x, y) < 0.55
    assert np.isclose(class_resolution(3 * x, y), 3 * class_resolution(x, y))
    assert class_resolution(np.concatenate([x, x[:1]]), np.append(y, 1 - y[0])) == 0


def test_posteriors_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    x, z = random.normal(size=(30, 4)), random.normal(size=(9, 4))
    y, target = np.sin(x[:, :2]), np.sin(z[:, :2])
    for ours, theirs in ((rbf(1.7), RBF(1.7)), (linear(1.0, 1.0), DotProduct(1.0))):
        peer = GaussianProcessRegressor(theirs, alpha=0.1, optimizer=None).fit(x, y)
        mean, covariance = peer.predict(z, return_cov=True)
        covariance = covariance[..., 0] if covariance.ndim == 3 else covariance
        with jax.enable_x64(True):
            arrays = [(jnp.asarray(a), jnp.asarray(b)) for a, b in ((x, y), (z, target))]
            losses = inductive_bias_kernel(ours, *arrays, noise=0.1).draw(jax.random.key(0), 100_000)
            expected = np.mean((mean - target) ** 2) + np.trace(covariance) / 9
            assert np.isclose(float(losses.mean()), expected, rtol=0.01)
            spread = 2 * 2 * np.sum(covariance**2) + 4 * np.einsum(
                "ac,ab,bc->", mean - target, covariance, mean - target
            )
            assert np.isclose(float(losses.var()), spread / 18**2, rtol=0.05)


def test_networks_need_what_the_fitted_law_says():
    losses = np.random.default_rng(0).gamma(50.0, 0.01, 2_000)
    target = float(np.quantile(losses, 0.02))
    assert np.isclose(inductive_bias_network(losses, target), math.log(50), rtol=0.1)


def test_bad_input_is_refused():
    x, _ = noisy_halves()
    with pytest.raises(UserError, match="neighbours"):
        intrinsic_dimension(x[:4], 5)
    with pytest.raises(UserError, match="two classes"):
        class_resolution(x, np.zeros(200, int))
    with pytest.raises(UserError, match="pairs"):
        class_resolution(x[:4], np.array([0, 0, 1, 1]))
