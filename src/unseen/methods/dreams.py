"""Edits that make imagined states dream-like: each pushes a latent state off what the world model predicted.

After the three of Franceschelli and Musolesi (2024, arXiv 2403.07979). Of the paper only the abstract and the beginning
could be read here, so what exactly each edit maximises, its size and its chance are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Latent = Float[Array, " latent"]
Scalar = float | Float[Array, ""]


@runtime_checkable
class Dream(Protocol):
    """(key, predicted latent, latent one step before, features, value) -> edited latent.

    `features` maps a latent to activations of the world model, `value` to the critic's value of it.
    """

    def __call__(
        self,
        key: Key[Array, ""],
        latent: Latent,
        before: Latent,
        *,
        features: Callable[[Latent], Float[Array, " features"]],
        value: Callable[[Latent], Float[Array, ""]],
    ) -> Latent:
        """The edited latent."""
        ...


class RandomSwing(eqx.Module):
    """Now and then the state swings by a given distance in a direction drawn uniformly.

    Attributes:
        size: distance, in units of the latents.
        chance: probability that a state is edited.
    """

    size: Scalar
    chance: Scalar = 1.0

    def __call__(self, key: Key[Array, ""], latent: Latent, before: Latent, **_: Callable) -> Latent:
        """The edited latent."""
        happens, direction = jax.random.split(key)
        step = _unit(jax.random.normal(direction, latent.shape))
        return latent + jax.random.bernoulli(happens, self.chance) * self.size * step


class FeatureDream(eqx.Module):
    """Now and then the state climbs towards what excites the world model's features: gradient ascent on the mean square
    of their activations, in the manner of DeepDream.

    Attributes:
        size: length of the whole climb, in units of the latents; it may bend, so this bounds the distance.
        chance: probability that a state is edited.
        steps: of the ascent, of equal length.
    """

    size: Scalar
    chance: Scalar = 1.0
    steps: int = eqx.field(static=True, default=2)

    def __call__(
        self,
        key: Key[Array, ""],
        latent: Latent,
        before: Latent,
        *,
        features: Callable[[Latent], Float[Array, " features"]],
        **_: Callable,
    ) -> Latent:
        """The edited latent."""
        length = jax.random.bernoulli(key, self.chance) * self.size
        return ascend(lambda z: jnp.mean(features(z) ** 2), latent, length, self.steps)


class ValueDiversification(eqx.Module):
    """Now and then the state moves to where its value differs more from the value of the state before it: gradient
    ascent on the squared difference.

    Attributes:
        size, chance, steps: as in `FeatureDream`.
    """

    size: Scalar
    chance: Scalar = 1.0
    steps: int = eqx.field(static=True, default=2)

    def __call__(
        self,
        key: Key[Array, ""],
        latent: Latent,
        before: Latent,
        *,
        value: Callable[[Latent], Float[Array, ""]],
        **_: Callable,
    ) -> Latent:
        """The edited latent."""
        length = jax.random.bernoulli(key, self.chance) * self.size
        past = value(before)
        return ascend(lambda z: (value(z) - past) ** 2, latent, length, self.steps)


def ascend(objective: Callable[[Latent], Float[Array, ""]], latent: Latent, length: Scalar, steps: int) -> Latent:
    """Steps of equal length, together `length`, each along the gradient; none where the gradient is zero.

    Args:
        objective: latent -> scalar.
        steps: fixes the compiled program.
    """
    for _ in range(steps):
        latent = latent + length / steps * _unit(jax.grad(objective)(latent))
    return latent


def _unit(direction: Latent) -> Latent:
    # Gradients may be tiny and still have a direction: scaled first, or their squares would underflow.
    scaled = direction / jnp.maximum(jnp.abs(direction).max(), 1e-30)
    return scaled / jnp.maximum(jnp.linalg.norm(scaled), 1e-6)
