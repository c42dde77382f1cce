"""Thompson sampling in Gaussian bandits, with a prior that was learned or with none."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


@runtime_checkable
class Belief(Protocol):
    """A belief over the arms' means that can be sampled, given what was pulled and earned."""

    def draw(
        self, key: Key[Array, ""], pulls: Float[Array, " arms"], sums: Float[Array, " arms"]
    ) -> Float[Array, " arms"]:
        """Means of all arms, drawn from the belief."""
        ...


class GaussianBelief(eqx.Module):
    """Independent normal priors of the arms' means, normal rewards.

    Attributes:
        mean, precision: of the prior of each arm. Precision 0 is the flat prior: an arm that was never pulled is
            then pulled first.
        noise: standard deviation of rewards.
    """

    mean: Float[Array, " arms"]
    precision: Float[Array, " arms"]
    noise: float = eqx.field(static=True, default=1.0)

    @classmethod
    def flat(cls, arms: int, noise: float = 1.0) -> GaussianBelief:
        """No prior knowledge."""
        return cls(jnp.zeros(arms), jnp.zeros(arms), noise)

    @classmethod
    def fitted(cls, tasks: Float[Array, "tasks arms"], noise: float = 1.0) -> GaussianBelief:
        """Mean and variance of each arm over training tasks."""
        return cls(tasks.mean(0), 1 / tasks.var(0, ddof=1), noise)

    def draw(
        self, key: Key[Array, ""], pulls: Float[Array, " arms"], sums: Float[Array, " arms"]
    ) -> Float[Array, " arms"]:
        """From the normal posterior."""
        precision = self.precision + pulls / self.noise**2
        known = jnp.maximum(precision, 1e-12)
        mean = (self.precision * self.mean + sums / self.noise**2) / known
        drawn = mean + jax.random.normal(key, mean.shape) / jnp.sqrt(known)
        return jnp.where(precision > 0, drawn, jnp.inf)


class TypeBelief(eqx.Module):
    """A finite number of possible tasks.

    Attributes:
        types: the arms' means in each.
        share: prior probability of each; a type with none is never drawn.
        noise: standard deviation of rewards.
    """

    types: Float[Array, "types arms"]
    share: Float[Array, " types"]
    noise: float = eqx.field(static=True, default=1.0)

    def draw(
        self, key: Key[Array, ""], pulls: Float[Array, " arms"], sums: Float[Array, " arms"]
    ) -> Float[Array, " arms"]:
        """One of the types, by its posterior probability."""
        evidence = (self.types @ sums - 0.5 * self.types**2 @ pulls) / self.noise**2
        return self.types[jax.random.categorical(key, jnp.log(self.share) + evidence)]


def thompson_regret(
    belief: Belief, means: Float[Array, " arms"], key: Key[Array, ""], *, blocks: int, pulls: int, noise: float = 1.0
) -> Float[Array, "{blocks}"]:
    """Cumulative (pseudo-)regret of Thompson sampling after each of `blocks` blocks of `pulls` pulls.

    Args:
        belief: a `GaussianBelief`, a `TypeBelief` or one of your own.
        means: true means of the arms.
        noise: true standard deviation of rewards.
    """
    arms = len(means)
    gaps = means.max() - means

    def pull(carry: tuple[Array, Array, Array], key: Array) -> tuple[tuple[Array, Array, Array], None]:
        counts, sums, regret = carry
        believe, earn = jax.random.split(key)
        arm: Int[Array, ""] = belief.draw(believe, counts, sums).argmax()
        reward = means[arm] + noise * jax.random.normal(earn)
        chosen = jax.nn.one_hot(arm, arms)
        return (counts + chosen, sums + reward * chosen, regret + gaps[arm]), None

    def block(carry: tuple[Array, Array, Array], key: Array) -> tuple[tuple[Array, Array, Array], Array]:
        carry, _ = jax.lax.scan(pull, carry, jax.random.split(key, pulls))
        return carry, carry[2]

    zeros = jnp.zeros(arms)
    return jax.lax.scan(block, (zeros, zeros, jnp.zeros(())), jax.random.split(key, blocks))[1]


def regret_ratio(flat: Float[Array, "*tasks pulls"], informed: Float[Array, "*tasks pulls"]) -> Float[Array, " pulls"]:
    """Regret summed over tasks, flat over informed: how many times more a learner pays that knows nothing."""
    axes = tuple(range(flat.ndim - 1))
    return flat.sum(axes) / informed.sum(axes)
