import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from unseen.measures import advani_saxe_curve, frozen_error, frozen_subspace, overtraining_penalty
from unseen.worlds.clusters import TeacherStudent, expected_losses, marchenko_pastur
from unseen.worlds.clusters.teacher import Spectrum

KEY = jax.random.key(0)
TIMES = jnp.array([0.0, 0.1, 1.0, 10.0, 100.0])


@pytest.mark.parametrize("density", [0.25, 1.0, 4.0])
def test_the_curve_is_the_limit_of_small_steps(density):
    """Exact gradient descent on the mean squared error with tiny steps; 2 rate updates / density is the time."""
    rate = 1e-5
    spectrum = marchenko_pastur(1 / density)
    updates = TIMES * density / (2 * rate)
    _, test = expected_losses(spectrum, updates, rate, ratio=1 / density, initial=0.7, noise=0.4)
    np.testing.assert_allclose(advani_saxe_curve(TIMES, density, noise=0.4, initial=0.7), test, rtol=5e-3)


@pytest.mark.parametrize("density", [0.5, 2.0])
def test_the_curve_is_the_mean_of_simulated_descent(density):
    """200 inputs, 12 samples of a teacher; 5% is what the specification asks for."""
    n, noise, step = 200, 0.45, 0.01

    def run(key):
        data_key, start_key = jax.random.split(key)
        lesson = TeacherStudent(n, int(density * n), noise=noise).sample(data_key)
        start = jax.random.normal(start_key, (n, 1)) / jnp.sqrt(n)

        def update(w, _):
            w = w - step * lesson.inputs.T @ (lesson.inputs @ w - lesson.targets) / n
            return w, jnp.sum((w - lesson.weights) ** 2) + noise**2

        return jax.lax.scan(update, start, length=1000)[1]

    errors = jax.jit(jax.vmap(run))(jax.random.split(KEY, 12)).mean(0)
    predicted = advani_saxe_curve(step * jnp.arange(1.0, 1001), density, noise=noise, initial=1.0)
    np.testing.assert_allclose(errors, predicted, rtol=0.1)
    assert np.median(np.abs(errors / predicted - 1)) < 0.05


def test_limits_of_the_curve():
    late = jnp.array([1e6])
    # More examples than inputs: the least-squares solution's error, noise^2 (1 + N/(P - N)) for Gaussian inputs.
    assert advani_saxe_curve(late, 4.0, noise=0.5, initial=3.0)[0] == pytest.approx(0.25 * 4 / 3, rel=2e-3)
    # Fewer: the frozen part of teacher and first weights, and the noise of the minimum-norm solution.
    expected = 0.5 * (1 + 9) + 0.25 * (1 + 1)
    assert advani_saxe_curve(late, 0.5, noise=0.5, initial=3.0)[0] == pytest.approx(expected, rel=2e-3)
    one = Spectrum(jnp.array([0.5]), jnp.array([1.0]))
    by_hand = 5 * np.exp(-2 * 3.0) + 0.04 / 1.0 * (1 - np.exp(-3.0)) ** 2 + 0.04
    got = advani_saxe_curve(jnp.array([3.0]), 2.0, noise=0.2, teacher=2.0, initial=1.0, spectrum=one)
    assert got[0] == pytest.approx(by_hand, rel=1e-5)


def test_frozen_weights_do_not_move():
    x, w, y = (jax.random.normal(jax.random.fold_in(KEY, i), s) for i, s in enumerate([(6, 20), (20, 2), (6, 2)]))
    trained = w
    for _ in range(200):
        trained = trained - 0.02 * x.T @ (x @ trained - y)
    frozen = frozen_subspace(x, w)
    np.testing.assert_allclose(frozen_subspace(x, trained), frozen, atol=1e-4)
    np.testing.assert_allclose(x @ frozen, 0, atol=1e-4)
    assert np.abs(trained - w).max() > 0.1
    repeated = jnp.concatenate([x, x])  # no further directions
    np.testing.assert_allclose(frozen_subspace(repeated, w), frozen, atol=1e-4)
    assert np.abs(frozen_subspace(jax.random.normal(KEY, (30, 20)), w)).max() < 1e-4


def test_frozen_error_is_the_mean_of_what_is_frozen():
    n = 100
    starts = jax.random.normal(KEY, (n, 400)) / jnp.sqrt(n)
    frozen = frozen_subspace(jax.random.normal(jax.random.key(1), (40, n)), starts)
    assert jnp.sum(frozen**2, 0).mean() == pytest.approx(float(frozen_error(0.4, 1.0)), rel=0.03)
    assert frozen_error(1.5, 1.0) == 0 and frozen_error(0.5, 2.0) == 2


def test_penalty():
    error = xr.DataArray([[4.0, 1.0, 2.0], [3.0, 2.0, 1.0], [1.0, np.nan, 1.0]], dims=("seed", "step"))
    np.testing.assert_allclose(overtraining_penalty(error), [np.log(2), 0, np.nan])
