"""Students of a linear teacher, and what random-matrix theory says about them."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab.errors import UserError

Scalar = float | Float[Array, ""]


class Lesson(eqx.Module):
    """Samples of a teacher: inputs, noisy targets, and the teacher's weights.

    Attributes:
        inputs: unit-variance Gaussian.
        targets: the teacher's outputs plus noise.
        weights: the linear teacher; of a ReLU teacher its input weights.
    """

    inputs: Float[Array, "samples dimension"]
    targets: Float[Array, "samples outputs"]
    weights: Float[Array, "dimension outputs"]


@dataclasses.dataclass(frozen=True)
class TeacherStudent:
    """Gaussian inputs and a teacher y = x W (or its ReLU), with W of variance 1/dimension.

    Axes: fresh inputs; `ratio` of dimension to samples; noise.

    Source: Advani and Saxe (2017, arXiv 1710.03667); Levi et al. (2023, arXiv 2310.16441).

    Attributes:
        dimension: d, of the inputs; each has variance 1, so a linear teacher's output has variance 1.
        samples: P.
        outputs: of the teacher.
        noise: standard deviation of the targets' noise, 1/sqrt(signal-to-noise ratio).
        teacher: "linear", or "relu": the positive part of the linear one.

    Raises:
        UserError: on a size below 1 or negative noise.
    """

    dimension: int = 300
    samples: int = 375
    outputs: int = 1
    noise: float = 0.0
    teacher: Literal["linear", "relu"] = "linear"

    def __post_init__(self) -> None:
        for name in ("dimension", "samples", "outputs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")
        if self.noise < 0:
            raise UserError(f"noise takes a number from 0 on, got {self.noise}.")

    @property
    def ratio(self) -> float:
        """Dimension over samples; at 1 the training set just determines a linear student."""
        return self.dimension / self.samples

    def sample(self, key: PRNGKeyArray) -> Lesson:
        """A teacher and its training set."""
        teacher, inputs, noise = jax.random.split(key, 3)
        weights = jax.random.normal(teacher, (self.dimension, self.outputs)) / jnp.sqrt(self.dimension)
        x = jax.random.normal(inputs, (self.samples, self.dimension))
        clean = x @ weights if self.teacher == "linear" else jax.nn.relu(x @ weights)
        return Lesson(x, clean + self.noise * jax.random.normal(noise, clean.shape), weights)


class Spectrum(NamedTuple):
    """A distribution of covariance eigenvalues as a weighted sum of points."""

    values: Float[Array, " points"]
    weights: Float[Array, " points"]


def marchenko_pastur_density(values: Float[Array, " n"], ratio: Scalar) -> Float[Array, " n"]:
    """Limit density of the eigenvalues of X'X/P for unit-variance X of shape (P, d), ratio = d/P.

    Above a ratio of 1 a share 1 - 1/ratio of the eigenvalues is 0 and not part of the density.

    Source: Marchenko and Pastur (1967).
    """
    low, high = (1 - jnp.sqrt(ratio)) ** 2, (1 + jnp.sqrt(ratio)) ** 2
    inside = jnp.clip((high - values) * (values - low), 0)
    return jnp.where(inside > 0, jnp.sqrt(inside) / (2 * jnp.pi * ratio * jnp.maximum(values, 1e-30)), 0.0)


def marchenko_pastur(ratio: Scalar, points: int = 1000) -> Spectrum:
    """The Marchenko-Pastur law as a quadrature rule: Gauss-Chebyshev nodes of the second kind, which absorb
    the square roots at both edges; with the atom at 0 for a ratio above 1."""
    ratio = jnp.asarray(ratio, float)
    angle = jnp.arange(1, points + 1) * jnp.pi / (points + 1)
    # 1 + r + 2 sqrt(r) cos(angle), written without cancellation at the lower edge.
    values = (1 - jnp.sqrt(ratio)) ** 2 + 4 * jnp.sqrt(ratio) * jnp.cos(angle / 2) ** 2
    weights = 2 * jnp.sin(angle) ** 2 / (values * (points + 1))
    atom = jnp.clip(1 - 1 / ratio, 0)
    return Spectrum(jnp.append(values, 0.0), jnp.append(weights, atom))


class Modes(NamedTuple):
    """Gradient descent on squared error in the eigenbasis of the covariance, after some updates.

    The student is `initial` times its first weights plus (1 - `untaught`) times the teacher's.

    Attributes:
        initial: share of the initial weights that is left in each mode, q.
        untaught: share of the teacher's weights that is not learned, 1 - l g.
        gain: g = (1 - q) / (l + decay), what a unit of gradient has become.
    """

    initial: Float[Array, "times modes"]
    untaught: Float[Array, "times modes"]
    gain: Float[Array, "times modes"]


def descent_modes(
    eigenvalues: Float[Array, " modes"], updates: Float[Array, " times"], rate: Scalar, decay: Scalar = 0.0
) -> Modes:
    """Exact gradient descent on mean |x S - y|^2 + decay |S|^2: S <- S - 2 rate ((C + decay) S - C T).

    Each mode with eigenvalue l is multiplied by 1 - 2 rate (l + decay) in an update, for any number of them;
    at small rates that is gradient flow, exp(-2 rate (l + decay) t).

    Args:
        eigenvalues: of the covariance X'X/P.
        updates: numbers of updates, real numbers from 0 on.
        rate: learning rate; stable while 2 rate (l + decay) < 1 for all l.
        decay: weight of the squared norm in the loss.
    """
    pull = eigenvalues + decay
    exponent = updates[:, None] * jnp.log1p(-2 * rate * pull)
    gain = jnp.where(pull > 0, -jnp.expm1(exponent) / jnp.where(pull > 0, pull, 1), 2 * rate * updates[:, None])
    initial = jnp.exp(exponent)
    # (decay + l q) / (decay + l) rather than 1 - l g: no cancellation once a mode is learned.
    learned = (decay + eigenvalues * initial) / jnp.where(pull > 0, pull, 1)
    return Modes(initial, jnp.where(pull > 0, learned, 1.0), gain)


def expected_losses(
    spectrum: Spectrum,
    updates: Float[Array, " times"],
    rate: Scalar,
    *,
    ratio: Scalar,
    decay: Scalar = 0.0,
    teacher: Scalar = 1.0,
    initial: Scalar = 1.0,
    noise: Scalar = 0.0,
) -> tuple[Float[Array, " times"], Float[Array, " times"]]:
    """Expected training and test error of a linear student under gradient descent, for each output.

    test = sum_i w_i [teacher^2 u_i^2 + initial^2 q_i^2 + ratio noise^2 l_i g_i^2] + noise^2 over the modes i,
    where without decay u = q and g = (1 - q)/l; training weighs the first two terms by l_i, and its noise
    is noise^2 [1 - ratio (1 - sum_i w_i u_i^2)].

    Source: Advani and Saxe (2017), equation of the time-dependent generalization error, with weight decay
    and exact descent instead of flow; without noise Levi et al. (2023), equations 8 (section 3.1.1) and 15
    (section 3.3, where the decay is half their gamma).

    Args:
        spectrum: of the covariance: `marchenko_pastur(ratio)`, or a sample's eigenvalues with weights 1/d.
        updates, rate, decay: as in `descent_modes`.
        ratio: dimension over samples; only the noise terms need it.
        teacher, initial: standard deviations of the outputs that the teacher's and the student's first weights
            give (their weights have these over sqrt(dimension)).
        noise: standard deviation of the targets' noise.
    """
    modes = descent_modes(spectrum.values, updates, rate, decay)
    signal = teacher**2 * modes.untaught**2 + initial**2 * modes.initial**2
    heard = ratio * noise**2 * spectrum.values * modes.gain**2
    test = (signal + heard) @ spectrum.weights + noise**2
    kept = (modes.untaught**2) @ spectrum.weights
    train = (signal * spectrum.values) @ spectrum.weights + noise**2 * (1 - ratio * (1 - kept))
    return train, test
