import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ive

from unseen.lab import UserError
from unseen.measures.grokking import grokking_time_linear, tolerance_accuracy
from unseen.worlds.clusters.teacher import (
    Spectrum,
    TeacherStudent,
    descent_modes,
    expected_losses,
    marchenko_pastur,
    marchenko_pastur_density,
)

KEY = jax.random.key(0)
RATE = 0.01


@pytest.mark.parametrize("ratio", [0.2, 0.8, 0.94, 2.0])
def test_marchenko_pastur_moments(ratio):
    """Moments of the law: 1, 1, 1 + ratio; and E[1/l] = 1/(1 - ratio) below a ratio of 1."""
    values, weights = marchenko_pastur(ratio)
    assert float(weights.sum()) == pytest.approx(1, rel=1e-4)
    assert float(values @ weights) == pytest.approx(1, rel=1e-4)
    assert float(values**2 @ weights) == pytest.approx(1 + ratio, rel=1e-4)
    if ratio < 1:
        inverse = weights[:-1] @ (1 / values[:-1])  # the last point is the atom at 0
        assert float(inverse) == pytest.approx(1 / (1 - ratio), rel=2e-3)
    grid = jnp.linspace(1e-4, 9, 400_001)
    density = float(jnp.trapezoid(marchenko_pastur_density(grid, ratio), grid))
    assert density == pytest.approx(min(1, 1 / ratio), abs=2e-3)


def test_density_matches_sample_eigenvalues():
    x = np.random.default_rng(0).normal(size=(2000, 1000))
    eigenvalues = np.linalg.eigvalsh(x.T @ x / 2000)
    edges = np.linspace(0.05, 3, 12)
    share = np.histogram(eigenvalues, edges)[0] / 1000
    grid = np.linspace(edges[:-1], edges[1:], 200)
    expected = np.trapezoid(
        np.asarray(marchenko_pastur_density(jnp.asarray(grid.ravel()), 0.5)).reshape(grid.shape), grid, axis=0
    )
    np.testing.assert_allclose(share, expected, atol=4e-3)


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_modes_equal_a_plain_descent_loop(decay):
    world = TeacherStudent(20, 30, outputs=2, noise=0.3)
    lesson = world.sample(KEY)
    x, y, teacher = (np.asarray(a, np.float64) for a in (lesson.inputs, lesson.targets, lesson.weights))
    start = np.random.default_rng(1).normal(size=teacher.shape)
    student = start.copy()
    for _ in range(300):
        student -= 2 * RATE * (x.T @ (x @ student - y) / 30 + decay * student)
    eigenvalues, basis = np.linalg.eigh(x.T @ x / 30)
    modes = descent_modes(jnp.asarray(eigenvalues, jnp.float32), jnp.array([300.0]), RATE, decay)
    noise = basis.T @ (x.T @ (y - x @ teacher) / 30)
    q, u, g = (np.asarray(m[0])[:, None] for m in modes)
    exact = basis @ (q * (basis.T @ start) + (1 - u) * (basis.T @ teacher) + g * noise)
    np.testing.assert_allclose(exact, student, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ratio, decay, noise", [(0.5, 0.0, 0.0), (0.5, 0.02, 0.5), (2.0, 0.0, 0.5), (2.0, 0.02, 0.0)])
def test_expected_losses_agree_with_simulated_descent(ratio, decay, noise):
    """The check of the specification: simulated gradient descent within 5% at dimension 200."""
    d, samples, outputs = 200, int(200 / ratio), 50
    world = TeacherStudent(d, samples, outputs, noise)
    times = np.array([0, 10, 100, 1000])
    settings = {"ratio": ratio, "decay": decay, "initial": 0.5, "noise": noise}

    def one(key):
        lesson_key, start_key = jax.random.split(key)
        lesson = world.sample(lesson_key)
        student = 0.5 * jax.random.normal(start_key, (d, outputs)) / jnp.sqrt(d)
        covariance = lesson.inputs.T @ lesson.inputs / samples
        heard = lesson.inputs.T @ lesson.targets / samples

        def errors(student):
            train = jnp.mean((lesson.inputs @ student - lesson.targets) ** 2)
            return train, jnp.sum((student - lesson.weights) ** 2) / outputs + noise**2

        def update(student, _):
            return student - 2 * RATE * (covariance @ student - heard + decay * student), None

        measured = [errors(student)]
        for a, b in itertools.pairwise(times):
            student, _ = jax.lax.scan(update, student, length=b - a)
            measured.append(errors(student))
        return jnp.array(measured), jnp.clip(jnp.linalg.eigvalsh(covariance), 0)

    simulated, eigenvalues = jax.jit(jax.vmap(one))(jax.random.split(KEY, 4))
    steps = jnp.asarray(times, jnp.float32)
    own = [expected_losses(Spectrum(values, jnp.ones(d) / d), steps, RATE, **settings) for values in eigenvalues]
    np.testing.assert_allclose(np.mean(own, 0).T, simulated.mean(0), rtol=0.05, atol=5e-6)  # atol: single precision
    # The limit law has no last eigenvalue of its own: it holds while the bulk decides.
    law = np.stack(expected_losses(marchenko_pastur(ratio), steps, RATE, **settings), -1)
    np.testing.assert_allclose(law[:3], simulated.mean(0)[:3], rtol=0.05)


def test_gradient_flow_formula_of_advani_and_saxe():
    """Small rate, no decay: (1/N) sum (s_w^2 + s_0^2) e^{-2lt} + (s_e^2/l)(1 - e^{-lt})^2 + s_e^2 with their l,
    which is ours over the ratio of dimension to samples, and t in their units."""
    eigenvalues = jnp.array([0.3, 1.0, 2.5])
    flow, rate, ratio, noise = 1.7, 1e-5, 0.5, 0.4
    theirs, time = eigenvalues / ratio, flow * ratio
    expected = jnp.mean(
        (1 + 0.25) * jnp.exp(-2 * theirs * time) + noise**2 / theirs * (1 - jnp.exp(-theirs * time)) ** 2
    )
    spectrum = Spectrum(eigenvalues, jnp.ones(3) / 3)
    updates = jnp.array([flow / (2 * rate)])
    _, test = expected_losses(spectrum, updates, rate, ratio=ratio, initial=0.5, noise=noise)
    assert float(test[0]) == pytest.approx(float(expected) + noise**2, rel=1e-3)


@pytest.mark.parametrize("ratio", [0.2, 0.9, 1.5])
def test_closed_form_of_levi_et_al(ratio):
    """Their equation 9, a Bessel function for the train loss, and 21: the test loss falls at 4 rate times it."""
    rate, times = 1e-5, np.array([1e2, 1e4, 1e5, 3e5])
    z = 4 * rate * times * np.sqrt(ratio)  # 0F1~(2; z^2) = I_1(2z)/z, and ive(1, 2z) = I_1(2z) exp(-2z)
    expected = np.exp(-4 * rate * (ratio + 1) * times + 2 * z) * ive(1, 2 * z) / z
    law = marchenko_pastur(ratio)
    train, _ = expected_losses(law, jnp.asarray(times, jnp.float32), rate, ratio=ratio, initial=0.0)
    np.testing.assert_allclose(train, expected, rtol=2e-3)
    around = jnp.asarray([0.99e5, 1e5, 1.01e5])
    train, test = expected_losses(law, around, rate, ratio=ratio, initial=0.0)
    assert float(test[0] - test[2]) == pytest.approx(4 * rate * 2e3 * float(train[1]), rel=5e-3)


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_delay_at_a_vanishing_tolerance_approaches_that_of_levi_et_al(ratio):
    """Their equation 12, of which the correction (equation 25) vanishes like 1/log(1/tolerance)."""
    times = jnp.geomspace(1.0, 1e5, 4000)
    edge = (1 - np.sqrt(ratio)) ** 2
    limit = -np.log(edge) / (4 * RATE * edge)
    ratios = []
    for tolerance in (1e-2, 1e-10, 1e-30):
        fit, generalise = grokking_time_linear(times, RATE, ratio=ratio, tolerance=tolerance, initial=0.0)
        ratios.append(float(generalise - fit) / limit)
    assert ratios == sorted(ratios) and ratios[-1] == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("outputs", [1, 10])
def test_tolerance_accuracy_by_simulation(outputs):
    errors = np.random.default_rng(0).normal(size=(200_000, outputs)) * np.sqrt(0.7)
    share = (np.mean(errors**2, 1) <= 0.5).mean()
    assert float(tolerance_accuracy(jnp.array(0.7), 0.5, outputs)) == pytest.approx(share, abs=0.005)


def test_grokking_time_where_all_eigenvalues_are_one():
    """At a vanishing ratio all modes decay alike: loss = 2 (1 - 2 rate)^(2t), the same on both sides."""
    times = jnp.geomspace(1.0, 1e4, 2000)
    fit, generalise = grokking_time_linear(times, RATE, ratio=1e-6, tolerance=1e-3)
    wanted = np.log(1e-3 / 1.959964**2 / 2) / (2 * np.log1p(-2 * RATE))
    assert float(fit) == pytest.approx(wanted, rel=2e-3)
    assert float(generalise) == pytest.approx(wanted, rel=2e-3)


def test_the_delay_grows_towards_the_interpolation_point_and_can_be_out_of_reach():
    times = jnp.geomspace(1.0, 1e5, 500)
    delays = []
    for ratio in (0.2, 0.5, 0.8, 0.94):
        fit, generalise = grokking_time_linear(times, RATE, ratio=ratio, tolerance=1e-3)
        delays.append(float(generalise - fit))
    assert all(b > 3 * a for a, b in itertools.pairwise(delays))
    assert jnp.isinf(grokking_time_linear(times, RATE, ratio=2.0, tolerance=1e-3)[1])


def test_relu_teacher_and_bad_settings():
    assert (TeacherStudent(5, 7, teacher="relu").sample(KEY).targets >= 0).all()
    with pytest.raises(UserError, match="samples takes"):
        TeacherStudent(5, 0)
    with pytest.raises(UserError, match="noise takes"):
        TeacherStudent(5, 5, noise=-1.0)
