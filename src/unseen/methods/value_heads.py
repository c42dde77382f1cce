"""Value heads: a number, a categorical or a quantile distribution of returns, and distances between them.

Every head turns outputs of a network into a discrete distribution on the line, locations and probabilities, and
learns from one. So any head can be fitted to any other's target, or to a mixture of several.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unseen.lab import UserError


class Distribution(NamedTuple):
    """A discrete distribution on the line; leading axes are batch axes.

    Attributes:
        locations: in units of return, in any order.
        probabilities: sum to 1 over the last axis.
    """

    locations: Float[Array, "*batch atoms"]
    probabilities: Float[Array, "*batch atoms"]

    def mean(self) -> Float[Array, " *batch"]:
        """The expected value."""
        return (self.locations * self.probabilities).sum(-1)

    def backup(self, reward: Float[Array, " *batch"], discount: Float[Array, " *batch"]) -> Distribution:
        """The distribution of reward + discount * return."""
        return Distribution(reward[..., None] + discount[..., None] * self.locations, self.probabilities)


def mixture(*parts: Distribution) -> Distribution:
    """The equal mixture: the union of all locations, with probabilities over the number of parts."""
    return Distribution(
        jnp.concatenate([part.locations for part in parts], -1),
        jnp.concatenate([part.probabilities for part in parts], -1) / len(parts),
    )


def project_categorical(
    target: Distribution, low: float | Float[Array, ""], high: float | Float[Array, ""], atoms: int
) -> Float[Array, "*batch atoms"]:
    """Probabilities on `atoms` even locations from `low` to `high`: each target location is clipped into the range
    and shares its probability between its two neighbours by distance (Bellemare et al. 2017, equation 7; the
    Cramer projection of Rowland et al. 2018, which keeps the mean of what lies inside)."""
    support = jnp.linspace(low, high, atoms)
    gap = (high - low) / (atoms - 1)
    clipped = jnp.clip(target.locations, low, high)
    share = jnp.clip(1 - jnp.abs(clipped[..., None, :] - support[:, None]) / gap, 0)
    return (share * target.probabilities[..., None, :]).sum(-1)


def quantile_huber_loss(
    quantiles: Float[Array, "*batch quantiles"], target: Distribution, kappa: float = 1.0
) -> Float[Array, " *batch"]:
    """Quantile regression of the midpoints (2i + 1) / 2n on a target: mean over the target, sum over quantiles
    (Dabney et al. 2018, equations 9 and 10; their Huber loss over kappa, as in their code and Dopamine's). With
    kappa 0 it is the plain pinball loss, whose minimum is the Wasserstein-1 projection."""
    n = quantiles.shape[-1]
    midpoints = (jnp.arange(n) + 0.5) / n
    error = target.locations[..., None, :] - quantiles[..., :, None]
    if kappa:
        size = jnp.where(jnp.abs(error) <= kappa, 0.5 * error**2, kappa * (jnp.abs(error) - 0.5 * kappa)) / kappa
    else:
        size = jnp.abs(error)
    weight = jnp.abs(midpoints[:, None] - (error < 0))
    return (weight * size * target.probabilities[..., None, :]).sum((-1, -2))


def wasserstein1(a: Distribution, b: Distribution) -> Float[Array, " *batch"]:
    """The 1-Wasserstein distance of two discrete distributions, exactly: the area between their distribution
    functions."""
    locations = jnp.concatenate([a.locations, b.locations], -1)
    signed = jnp.concatenate([a.probabilities, -b.probabilities], -1)
    order = jnp.argsort(locations, -1)
    gaps = jnp.diff(jnp.take_along_axis(locations, order, -1), axis=-1)
    between = jnp.cumsum(jnp.take_along_axis(signed, order, -1), -1)[..., :-1]
    return (jnp.abs(between) * gaps).sum(-1)


@runtime_checkable
class Head(Protocol):
    """What a value head does."""

    @property
    def size(self) -> int:
        """Numbers that it takes for each action."""
        ...

    def distribution(self, outputs: Float[Array, "*batch size"]) -> Distribution:
        """The distribution of returns that the outputs stand for."""
        ...

    def loss(self, outputs: Float[Array, "*batch size"], target: Distribution) -> Float[Array, " *batch"]:
        """How badly the outputs fit a target."""
        ...


@dataclasses.dataclass(frozen=True)
class ValueHead:
    """The expected return as one number, by squared error, or Huber's loss where `huber` is its threshold."""

    huber: float | None = None

    @property
    def size(self) -> int:
        """One."""
        return 1

    def distribution(self, outputs: Float[Array, "*batch 1"]) -> Distribution:
        """All at one location."""
        return Distribution(outputs, jnp.ones_like(outputs))

    def loss(self, outputs: Float[Array, "*batch 1"], target: Distribution) -> Float[Array, " *batch"]:
        """Half the squared error to the target's mean, or Huber's loss."""
        error = jnp.abs(target.mean() - outputs[..., 0])
        if self.huber is None:
            return 0.5 * error**2
        return jnp.where(error <= self.huber, 0.5 * error**2, self.huber * (error - 0.5 * self.huber))


@dataclasses.dataclass(frozen=True)
class CategoricalHead:
    """C51: probabilities of fixed, even locations, by cross-entropy with the projected target (Bellemare et al.
    2017)."""

    low: float
    high: float
    atoms: int = 51

    def __post_init__(self) -> None:
        if self.atoms < 2 or not self.low < self.high:
            raise UserError(f"atoms takes 2 or more and low less than high, got {self.atoms}, {self.low}, {self.high}.")

    @property
    def size(self) -> int:
        """The number of atoms."""
        return self.atoms

    def distribution(self, outputs: Float[Array, "*batch atoms"]) -> Distribution:
        """The softmax of the outputs on the support."""
        support = jnp.linspace(self.low, self.high, self.atoms)
        return Distribution(jnp.broadcast_to(support, outputs.shape), jax.nn.softmax(outputs, -1))

    def loss(self, outputs: Float[Array, "*batch atoms"], target: Distribution) -> Float[Array, " *batch"]:
        """Cross-entropy."""
        wanted = project_categorical(target, self.low, self.high, self.atoms)
        return -(wanted * jax.nn.log_softmax(outputs, -1)).sum(-1)


@dataclasses.dataclass(frozen=True)
class QuantileHead:
    """QR-DQN: equally likely locations, by quantile Huber regression (Dabney et al. 2018)."""

    quantiles: int = 51
    kappa: float = 1.0

    def __post_init__(self) -> None:
        if self.quantiles < 1 or self.kappa < 0:
            raise UserError(f"quantiles takes 1 or more and kappa 0 or more, got {self.quantiles} and {self.kappa}.")

    @property
    def size(self) -> int:
        """The number of quantiles."""
        return self.quantiles

    def distribution(self, outputs: Float[Array, "*batch quantiles"]) -> Distribution:
        """Equal probabilities at the outputs."""
        return Distribution(outputs, jnp.full_like(outputs, 1 / self.quantiles))

    def loss(self, outputs: Float[Array, "*batch quantiles"], target: Distribution) -> Float[Array, " *batch"]:
        """Quantile Huber loss."""
        return quantile_huber_loss(outputs, target, self.kappa)
