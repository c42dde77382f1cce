"""How much an update rule changes over a learner's life."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

Gradient = Callable[[Float[Array, " n"], Float[Array, " n"], float], Float[Array, " n"]]


def schedule_index(
    gradient: Gradient,
    early: float = 0.1,
    late: float = 0.9,
    ratio: tuple[float, float] = (0.5, 2.0),
    advantage: tuple[float, float] = (-2.0, 2.0),
    points: int = 16,
) -> Float[Array, ""]:
    """Relative L2 change of an objective's gradient between two moments of life, from 0 (static) to 1.

    `|late - early| / (|late| + |early|)`, both gradients on one grid of ratios (evenly on a log scale) and advantages.
    It is 0 for a rule that is the same at both times, and 1 for one that reverses or that is off at one of them.

    Args:
        gradient: (ratios, advantages, fraction of life) -> derivative of the objective by the ratio, of each sample.
        early, late: fractions of life that are compared.
        ratio, advantage: bounds of the grid.
        points: of the grid, along each axis.
    """
    steps = jnp.linspace(0, 1, points)
    ratios = ratio[0] * (ratio[1] / ratio[0]) ** steps
    advantages = advantage[0] + (advantage[1] - advantage[0]) * steps
    r, a = (grid.ravel() for grid in jnp.meshgrid(ratios, advantages))
    before, after = gradient(r, a, early), gradient(r, a, late)
    size = jnp.linalg.norm(before) + jnp.linalg.norm(after)
    return jnp.linalg.norm(after - before) / jnp.where(size > 0, size, 1.0)
