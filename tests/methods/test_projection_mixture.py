import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from unseen.lab import UserError
from unseen.methods.projection_mixture import (
    categorical_projection,
    contraction_ratio,
    distributional_bellman,
    mixture_modulus,
    project_quantile,
    projection_mixture_operator,
    quantile_projection,
)
from unseen.methods.value_heads import Distribution, wasserstein1
from unseen.worlds.control.tabular import TabularMDPs

GAMMA = 0.7
MDP = TabularMDPs.garnet(jax.random.key(0), 1, 4, 2, 2)
TRANSITION, REWARD = MDP.transition[0], jnp.clip(MDP.reward[0], -1, 1)
POLICY = jnp.array([[0.5, 0.5], [1.0, 0.0], [0.2, 0.8], [0.0, 1.0]])
SPAN = 1 / (1 - GAMMA)


def returns(seed, atoms=5):
    """Random returns of all states and actions."""
    rng = np.random.default_rng(seed)
    locations = rng.uniform(-SPAN, SPAN, (4, 2, atoms))
    return Distribution(jnp.asarray(locations), jnp.asarray(rng.dirichlet(np.ones(atoms), (4, 2))))


def bellman(distribution):
    return distributional_bellman(distribution, TRANSITION, REWARD, POLICY, GAMMA)


def test_quantile_projection_is_the_inverse_distribution_function_at_midpoints():
    one = Distribution(jnp.array([3.0, 1.0, 2.0]), jnp.array([0.25, 0.5, 0.25]))
    np.testing.assert_array_equal(project_quantile(one, 4), [1.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(project_quantile(one, 1), [1.0])
    rng = np.random.default_rng(0)
    sample = Distribution(jnp.asarray(rng.normal(size=101)), jnp.full(101, 1 / 101))
    expected = np.quantile(np.asarray(sample.locations), (np.arange(7) + 0.5) / 7, method="inverted_cdf")
    np.testing.assert_allclose(project_quantile(sample, 7), expected, rtol=1e-6)
    # No other seven equally likely locations are nearer.
    best = wasserstein1(quantile_projection(7)(sample), sample)
    for _ in range(50):
        other = Distribution(jnp.asarray(expected + rng.normal(0, 0.1, 7)), jnp.full(7, 1 / 7))
        assert wasserstein1(other, sample) >= best - 1e-6


def test_bellman_operator_has_the_exact_mean_and_contracts_by_the_discount():
    first, second = returns(0), returns(1)
    found = bellman(first)
    expected = REWARD + GAMMA * jnp.einsum("sat,tb,tb->sa", TRANSITION, POLICY, first.mean())
    np.testing.assert_allclose(found.mean(), expected, atol=1e-5)
    np.testing.assert_allclose(found.probabilities.sum(-1), 1, rtol=1e-5)
    assert contraction_ratio(bellman, first, second) <= GAMMA + 1e-5
    # Where all returns are moved by one number the ratio is the discount itself.
    moved = Distribution(first.locations + 1.0, first.probabilities)
    np.testing.assert_allclose(contraction_ratio(bellman, first, moved), GAMMA, rtol=1e-5)


def test_mixture_operator_is_the_mean_of_the_projections():
    target = returns(2)
    parts = quantile_projection(3), categorical_projection(-SPAN, SPAN, 9)
    both = projection_mixture_operator(*parts)(target)
    assert both.locations.shape == (4, 2, 12)
    for z in np.linspace(-SPAN, SPAN, 11):
        below = [((d.locations <= z) * d.probabilities).sum(-1) for d in (both, *(part(target) for part in parts))]
        np.testing.assert_allclose(below[0], (below[1] + below[2]) / 2, atol=1e-5)


def test_bound_of_proposition_1():
    np.testing.assert_allclose(mixture_modulus([1.0, 3.0]), 2.0)
    np.testing.assert_allclose(mixture_modulus([1.0, 3.0], p=2.0), np.sqrt(5.0))
    # Categorical projections do not expand W1, whatever the grid: their mixture contracts by the discount.
    project = projection_mixture_operator(categorical_projection(-SPAN, SPAN, 4), categorical_projection(-2.0, 2.0, 7))
    bound = mixture_modulus([1.0, 1.0]) * GAMMA
    ratios = [contraction_ratio(lambda d: project(bellman(d)), returns(i), returns(i + 50)) for i in range(20)]
    assert max(ratios) <= bound + 1e-5 and max(ratios) > 0.3 * bound
    # The quantile projection has no such constant: a little probability across the median moves it all the way.
    little = 0.01
    first, second = (
        Distribution(jnp.array([[[0.0, 1.0]]]), jnp.array([[[0.5 + move, 0.5 - move]]])) for move in (little, -little)
    )
    np.testing.assert_allclose(wasserstein1(first, second), 2 * little, rtol=1e-4)
    np.testing.assert_allclose(contraction_ratio(quantile_projection(1), first, second), 1 / (2 * little), rtol=1e-4)


def test_two_beginnings_come_to_one_mixture_near_the_true_returns():
    atoms = 41
    project = projection_mixture_operator(quantile_projection(atoms), categorical_projection(-SPAN, SPAN, atoms))
    step = jax.jit(lambda d: project(bellman(d)))
    first, second = project(returns(0)), project(returns(1))
    for _ in range(25):
        first, second = step(first), step(second)
    # Corollary 12: members at the fixed point differ by at most 4 (R_max - R_min) / ((1 - gamma) K).
    residual = 4 * 2 * SPAN / 2 / atoms
    assert wasserstein1(first, second).max() < residual / 4
    halves = [Distribution(first.locations[..., part], 2 * first.probabilities[..., part]) for part in
              (slice(None, atoms), slice(atoms, None))]  # fmt: skip
    assert wasserstein1(*halves).max() < residual
    rng = np.random.default_rng(0)
    state, action, total, weight = np.full(20_000, 2), np.full(20_000, 1), np.zeros(20_000), 1.0
    for _ in range(25):
        total += weight * np.asarray(REWARD)[state, action]
        weight *= GAMMA
        reach = np.cumsum(np.asarray(TRANSITION)[state, action], -1)
        state = (rng.random((20_000, 1)) > reach).sum(-1).clip(max=3)
        action = (rng.random(20_000) > np.asarray(POLICY)[state, 0]).astype(int)
    found = first.locations[2, 1], first.probabilities[2, 1]
    assert scipy.stats.wasserstein_distance(total, found[0], None, found[1]) < residual


def test_bad_settings_are_named():
    for call, name in (
        (lambda: quantile_projection(0), "quantiles"),
        (lambda: categorical_projection(1.0, 0.0, 5), "low"),
        (lambda: projection_mixture_operator(), "projection"),
        (lambda: mixture_modulus([-1.0]), "constants"),
    ):
        with pytest.raises(UserError, match=name):
            call()
