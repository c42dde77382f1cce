import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from unseen.lab import UserError
from unseen.measures.hypothesis_sampler import (
    ChiSquareTail,
    HypothesisSampler,
    LogNormalTail,
    log_noncentral_chi_square,
)


@pytest.mark.parametrize("df, nc", [(1.0, 0.5), (3.0, 0.0), (7.5, 30.0), (40.0, 3.0), (300.0, 200.0), (2_000.0, 500.0)])
def test_the_law_agrees_with_scipy_where_that_is_finite(df, nc):
    for share in (1e-12, 1e-5, 0.01, 0.3, 0.9, 0.9999):
        x = stats.ncx2.ppf(share, df, nc) if nc else stats.chi2.ppf(share, df)
        expected = stats.ncx2.logcdf(x, df, nc) if nc else stats.chi2.logcdf(x, df)
        assert np.isclose(log_noncentral_chi_square(float(x), df, nc), expected, rtol=1e-6, atol=1e-10)


def test_far_tails_follow_the_leading_term():
    # For x -> 0: log P = (df/2) log(x/2) - log Gamma(df/2 + 1) - nc/2, far below where doubles underflow.
    for df, nc in ((900.0, 50.0), (1_281.0, 1_281.0)):
        x = 1e-4
        expected = df / 2 * math.log(x / 2) - math.lgamma(df / 2 + 1) - nc / 2
        assert expected < -3_000
        assert np.isclose(log_noncentral_chi_square(x, df, nc), expected, rtol=1e-4)
    assert log_noncentral_chi_square(0.0, 3.0, 1.0) == -math.inf


def test_fit_finds_the_parameters_and_agrees_with_maximum_likelihood():
    losses = 0.02 * stats.ncx2.rvs(8, 6, size=100_000, random_state=1)
    ours = ChiSquareTail.fit(losses)
    assert np.isclose(ours.df, 8, rtol=0.25) and np.isclose(ours.df + ours.nc, 14, rtol=0.15)
    df, nc, loc, scale = stats.ncx2.fit(losses[:1_500], 8, 6, floc=0, scale=0.02)
    for share in (1e-2, 1e-4, 1e-6):
        target = 0.02 * stats.ncx2.ppf(share, 8, 6)
        assert np.isclose(-ours.log_probability(target), -math.log(share), rtol=0.05)
        assert np.isclose(-ours.log_probability(target), -stats.ncx2.logcdf(target, df, nc, loc, scale), rtol=0.15)


def test_fit_takes_the_nearest_skewness_that_the_family_has():
    skewed = ChiSquareTail.fit(np.random.default_rng(0).lognormal(0, 1, 1_000))
    assert skewed.nc < 1e-6 * skewed.df  # a Gamma law
    left = ChiSquareTail.fit(1 - np.random.default_rng(1).lognormal(-3, 0.5, 1_000))
    assert left.df > 0 and left.nc > 0
    for tail in (skewed, left):
        assert tail.scale > 0 and math.isfinite(tail.log_probability(0.01))


def test_log_normal_tail():
    tail = LogNormalTail.fit(np.exp(np.random.default_rng(0).normal(1.0, 0.5, 100_000)))
    assert np.isclose(tail.log_probability(math.exp(1.0 - 4 * 0.5)), stats.norm.logcdf(-4), rtol=0.02)
    assert tail.log_probability(0.0) == -math.inf


def test_linear_hypotheses_have_the_closed_form_and_all_three_ways_agree():
    # The check of the specification: linear-Gaussian hypotheses against the non-central chi-square within 2%.
    random = np.random.default_rng(3)
    features, truth = random.normal(size=(5, 12)), random.normal(size=12) / math.sqrt(12)
    sampler = HypothesisSampler.linear(features, truth, 1 / 12)
    # Conditioning done independently: draws from the posterior that matrix algebra gives.
    projector = np.eye(12) - np.linalg.pinv(features) @ features
    draws = truth + (random.normal(size=(200_000, 12)) / math.sqrt(12) - truth) @ projector
    assert np.allclose(draws @ features.T, features @ truth)
    losses = ((draws - truth) ** 2).sum(1)
    for share in (0.2, 0.03, 0.01):
        target = float(np.quantile(losses, share))
        exact = sampler.information(target)
        assert np.isclose(exact, -math.log(share), rtol=0.02)
        assert np.isclose(sampler.counted(jax.random.key(0), target, 200_000), exact, rtol=0.02)
        assert np.isclose(sampler.extrapolated(jax.random.key(1), target, 50_000), exact, rtol=0.05)


def test_a_determined_task_needs_nothing():
    sampler = HypothesisSampler.linear(np.eye(4), np.ones(4))
    assert sampler.information(1e-9) == 0 and sampler.counted(jax.random.key(0), 1e-9, 10) == 0


def test_gaussian_predictions_have_the_right_losses():
    random = np.random.default_rng(4)
    root = random.normal(size=(6, 6)) / 3
    mean, targets = random.normal(size=(6, 4)), random.normal(size=(6, 4))
    sampler = HypothesisSampler.gaussian(jnp.asarray(mean), jnp.asarray(root @ root.T), jnp.asarray(targets))
    drawn = np.asarray(sampler.draw(jax.random.key(0), 100_000))
    direct = mean + np.einsum("ab,nbc->nac", root, random.normal(size=(100_000, 6, 4)))
    losses = ((direct - targets) ** 2).mean((1, 2))
    assert stats.ks_2samp(drawn, losses).statistic < 0.01
    with pytest.raises(UserError, match="equal variances"):
        sampler.information(0.1)


def test_gaussian_predictions_with_equal_variances_are_exact():
    mean = jnp.full((5, 3), 0.2)
    sampler = HypothesisSampler.gaussian(mean, 0.3 * jnp.eye(5), jnp.zeros((5, 3)))
    target = 0.2
    expected = -stats.ncx2.logcdf(target * 15 / 0.3, 15, 15 * 0.04 / 0.3)
    assert np.isclose(sampler.information(target), expected, rtol=1e-4)
    assert np.isclose(sampler.counted(jax.random.key(1), target, 200_000), expected, rtol=0.02)


def test_boolean_functions_by_enumeration():
    # Two bits, one example: the other three answers are free. At most one of them wrong: 4 of 8 functions.
    sampler = HypothesisSampler.boolean(2, 1)
    truth = (0, 1, 1, 0)
    errors = [
        np.mean([a != b for a, b in zip(f[1:], truth[1:], strict=True)])
        for f in itertools.product((0, 1), repeat=4)
        if f[0] == 0
    ]
    for target in (0.0, 0.34, 0.67):
        share = np.mean(np.array(errors) <= target)
        assert np.isclose(sampler.information(target), -math.log(share))
        assert np.isclose(sampler.counted(jax.random.key(0), target, 50_000), -math.log(share), rtol=0.02)


def test_networks_are_trained_from_their_own_keys():
    sampler = HypothesisSampler.trained(lambda key: jax.random.uniform(key))
    assert np.isclose(sampler.counted(jax.random.key(0), 0.25, 20_000), math.log(4), rtol=0.03)


def test_bad_samples_are_refused():
    for losses in ([0.1, 0.2], [0.1, 0.1, 0.1], [0.1, math.nan, 0.2], [-0.1, 0.2, 0.3]):
        with pytest.raises(UserError, match="a tail takes"):
            ChiSquareTail.fit(np.array(losses))
