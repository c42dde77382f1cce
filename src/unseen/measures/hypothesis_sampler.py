"""How likely a hypothesis that fits the training data also generalises."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy import special, stats

from unseen.lab import UserError

Losses = Float[np.ndarray, " draws"] | Float[Array, " draws"]


class Tail(Protocol):
    """A law of test losses, fitted to a sample, of which far left tails can be read."""

    def log_probability(self, target: float) -> float:
        """Logarithm of the probability that a loss is at most `target`."""
        ...


@dataclasses.dataclass(frozen=True)
class ChiSquareTail:
    """Scaled non-central chi-square law: `scale` times a chi-square with `df` degrees of freedom and
    non-centrality `nc`.

    It is the exact law of a squared error where predictions are Gaussian with equal variances.

    Attributes:
        df, nc, scale: parameters; nc = 0 is a Gamma law.

    Source: Boopathy et al. (2024, arXiv 2406.15941) and its code, which fits the same family by maximum likelihood
    (`scipy.stats.ncx2.fit` with the location at 0) and replaces the far tail by Sankaran's normal approximation.
    Here the fit matches the first three moments, and the tail is a convergent series.
    """

    df: float
    nc: float
    scale: float

    @classmethod
    def fit(cls, losses: Losses) -> ChiSquareTail:
        """By mean, variance and third moment; a skewness that the family has not is moved to the nearest
        it has (a sample of 64 says little of it, and the left tail depends on it little).

        Raises:
            UserError: with fewer than 3 losses, equal losses, or one that is negative or not finite.
        """
        x = _checked(losses)
        mean, half_variance = x.mean(), x.var() / 2
        third = stats.moment(x, 3) / 8
        # With s the scale: df + nc = mean/s, df + 2 nc = half_variance/s^2, df + 3 nc = third/s^3.
        root = max(half_variance**2 - mean * third, 0.0)
        scale = (half_variance - math.sqrt(root)) / mean if third > 0 else 0.0
        scale = min(max(scale, (0.5 + 1e-9) * half_variance / mean), half_variance / mean)
        nc = max(half_variance / scale**2 - mean / scale, 0.0)
        return cls(float(mean / scale - nc), float(nc), float(scale))

    def log_probability(self, target: float) -> float:
        """See `Tail`."""
        return log_noncentral_chi_square(target / self.scale, self.df, self.nc)


@dataclasses.dataclass(frozen=True)
class LogNormalTail:
    """Log-normal law of losses: a second family, to see how much an extrapolation rests on the first.

    Attributes:
        location, scale: mean and deviation of the logarithm.
    """

    location: float
    scale: float

    @classmethod
    def fit(cls, losses: Losses) -> LogNormalTail:
        """By maximum likelihood.

        Raises:
            UserError: as `ChiSquareTail.fit`.
        """
        logs = np.log(_checked(losses))
        return cls(float(logs.mean()), float(logs.std()))

    def log_probability(self, target: float) -> float:
        """See `Tail`."""
        if target <= 0:
            return -math.inf
        return float(special.log_ndtr((math.log(target) - self.location) / self.scale))


def log_noncentral_chi_square(x: float, df: float, nc: float) -> float:
    """log P(X <= x) of a non-central chi-square variable, also where the probability underflows.

    The Poisson mixture of central laws, summed in logarithms over the terms that matter; all are positive, so
    nothing cancels. It agrees with `scipy.stats.ncx2` wherever that is finite.

    Args:
        x: bound; log 0 at or below 0.
        df: degrees of freedom, above 0. nc: non-centrality, from 0 on.
    """
    if not (df > 0 and nc >= 0):
        raise UserError(f"df takes a number above 0 and nc one from 0 on, got {df} and {nc}.")
    if x <= 0:
        return -math.inf
    if nc == 0:
        return float(_log_gammainc(np.array([df / 2]), x / 2)[0])
    # The largest terms of the left tail lie at (sqrt(df^2 / 4 + nc x) - df / 2) / 2, never above nc / 2.
    centre = min((math.sqrt(df**2 / 4 + nc * x) - df / 2) / 2, nc / 2)
    reach = 15 * math.sqrt(max(centre, nc / 2 if x > df + nc else centre) + 1) + 40
    j = np.arange(max(0, math.floor(centre - reach)), math.ceil(centre + reach) + 1)
    weights = j * math.log(nc / 2) - nc / 2 - special.gammaln(j + 1)
    return min(0.0, float(special.logsumexp(weights + _log_gammainc(df / 2 + j, x / 2))))  # pyright: ignore[reportArgumentType]


def _log_gammainc(a: np.ndarray, y: float) -> np.ndarray:
    """Logarithm of the regularised lower incomplete gamma function, by its series where it underflows."""
    with np.errstate(divide="ignore"):
        logs = np.log(special.gammainc(a, y))
    small = logs < -600
    if small.any():  # then y < a, and the ratio of terms is below 1
        b = a[small]
        term, total, k = np.ones_like(b), np.ones_like(b), 0
        while term.max() > 1e-16 * total.max() and k < 1_000_000:
            k += 1
            term = term * y / (b + k)
            total = total + term
        logs[small] = b * math.log(y) - y - special.gammaln(b + 1) + np.log(total)
    return logs


@dataclasses.dataclass(frozen=True)
class HypothesisSampler:
    """Hypotheses that fit the training data, by their losses on test data.

    Information is -log of the probability that one of them reaches a target loss, in nats: by counting,
    from a fitted tail where counting cannot reach, or exactly where the law is known.

    Example:
        >>> sampler = HypothesisSampler.gaussian(mean, covariance, targets)
        >>> sampler.counted(key, 0.05, draws=100_000), sampler.extrapolated(key, 0.01, draws=500)

    Attributes:
        draw: (key, number) -> test losses of as many hypotheses.
        exact: target -> log probability, None where no closed form exists.
    """

    draw: Callable[[PRNGKeyArray, int], Float[Array, " draws"]]
    exact: Callable[[float], float] | None = None

    def counted(self, key: PRNGKeyArray, target: float, draws: int) -> float:
        """Information (nats) by the share of draws that reach the target; infinite if none does."""
        share = float(np.mean(np.asarray(self.draw(key, draws)) <= target))
        return -math.log(share) if share else math.inf

    def extrapolated(self, key: PRNGKeyArray, target: float, draws: int, family: Any = ChiSquareTail) -> float:
        """Information (nats) from a tail fitted to some draws."""
        return -family.fit(np.asarray(self.draw(key, draws))).log_probability(target)

    def information(self, target: float) -> float:
        """Exact information (nats).

        Raises:
            UserError: if the sampler has no closed form.
        """
        if self.exact is None:
            raise UserError("information takes a sampler with a closed form; use counted or extrapolated.")
        return -self.exact(target)

    @classmethod
    def gaussian(
        cls,
        mean: Float[Array, "tests outputs"],
        covariance: Float[Array, "tests tests"],
        targets: Float[Array, "tests outputs"],
    ) -> HypothesisSampler:
        """Predictions that are Gaussian, outputs independent with one covariance: the posterior of a Gaussian
        process. The loss is the mean squared error over tests and outputs.

        In the eigenbasis of the covariance a loss is a weighted sum of non-central chi-squares with as many
        degrees of freedom as outputs, drawn as such; exact if all eigenvalues are equal.
        """
        tests, outputs = mean.shape
        values, basis = jnp.linalg.eigh((covariance + covariance.T) / 2)
        values = jnp.maximum(values, 0.0)
        offset = jnp.sum((basis.T @ (mean - targets)) ** 2, axis=1)  # squared bias along each direction

        def draw(key: PRNGKeyArray, number: int) -> Float[Array, " draws"]:
            first, rest = jax.random.split(key)
            along = jnp.sqrt(values) * jax.random.normal(first, (number, tests)) + jnp.sqrt(offset)
            across = values * _chi_square(rest, outputs - 1, (number, tests))
            return jnp.sum(along**2 + across, axis=1) / (tests * outputs)

        def exact(target: float) -> float:
            level = float(values.mean())
            if not (level > 0 and float(jnp.ptp(values)) < 1e-4 * level):
                raise UserError("information takes predictions with equal variances; use counted or extrapolated.")
            return log_noncentral_chi_square(
                target * tests * outputs / level, float(tests * outputs), float(offset.sum()) / level
            )

        return cls(draw, exact)

    @classmethod
    def linear(
        cls,
        features: Float[np.ndarray, "examples functions"],
        truth: Float[np.ndarray, " functions"],
        variance: float = 1.0,
    ) -> HypothesisSampler:
        """Combinations of orthonormal functions whose coefficients are Gaussian a priori, conditioned on agreeing with
        the truth at the training examples. The loss is the mean squared error over the whole input space.

        Conditioning leaves the coefficients free in the null space of the features only; by Parseval the loss is
        the squared distance there, so that its law is a scaled non-central chi-square, exactly.

        Args:
            features: orthonormal functions at the training examples.
            truth: coefficients of the function to be learned.
            variance: of each coefficient.
        """
        free = len(truth) - np.linalg.matrix_rank(features)
        fitted, *_ = np.linalg.lstsq(features, features @ truth, rcond=None)
        nc = float(np.sum((truth - fitted) ** 2)) / variance

        def draw(key: PRNGKeyArray, number: int) -> Float[Array, " draws"]:
            if free == 0:
                return jnp.zeros(number)
            first, rest = jax.random.split(key)
            along = (jax.random.normal(first, (number,)) + math.sqrt(nc)) ** 2
            return variance * (along + _chi_square(rest, int(free) - 1, (number,)))

        def exact(target: float) -> float:
            return log_noncentral_chi_square(target / variance, float(free), nc) if free else 0.0

        return cls(draw, exact)

    @classmethod
    def boolean(cls, bits: int, examples: int) -> HypothesisSampler:
        """All Boolean functions of `bits` inputs, equally likely, that agree with the truth on `examples` of them;
        the loss is the error rate on the other inputs."""
        unknown = 2**bits - examples
        if unknown < 1:
            raise UserError(f"examples takes a number below the {2**bits} inputs, got {examples}.")

        def draw(key: PRNGKeyArray, number: int) -> Float[Array, " draws"]:
            return jax.random.bernoulli(key, 0.5, (number, unknown)).mean(1)

        return cls(draw, lambda target: float(stats.binom.logcdf(math.floor(target * unknown), unknown, 0.5)))

    @classmethod
    def trained(cls, train: Callable[[PRNGKeyArray], Float[Array, ""]]) -> HypothesisSampler:
        """Networks from random starts: `train(key)` -> test loss of one that was trained, vmapped over draws."""
        return cls(lambda key, number: jax.vmap(train)(jax.random.split(key, number)))


def _chi_square(key: PRNGKeyArray, df: int, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Chi-square variables with a whole number of degrees of freedom: pairs of them are exponential, so that products
    of uniform numbers do for all but one, without the rejections of a Gamma sampler."""
    total = jnp.zeros(shape)
    for first in range(0, df // 2, 4):  # a product of up to 4 uniforms does not underflow
        key, use = jax.random.split(key)
        uniform = jax.random.uniform(use, (min(4, df // 2 - first), *shape), minval=1e-9)
        total = total - 2 * jnp.log(uniform.prod(0))
    if df % 2:
        total = total + jax.random.normal(key, shape) ** 2
    return total


def _checked(losses: Losses) -> np.ndarray:
    x = np.asarray(losses, dtype=float).ravel()
    if x.size < 3 or not np.isfinite(x).all() or x.min() < 0 or np.ptp(x) == 0:
        raise UserError(f"a tail takes three or more finite, non-negative, different losses, got {x.size} of them.")
    return x
