"""Distributional dynamic programming with several projections at once, and whether it contracts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unseen.lab import UserError
from unseen.methods.value_heads import Distribution, mixture, project_categorical, wasserstein1

Projection = Callable[[Distribution], Distribution]


def project_quantile(target: Distribution, quantiles: int) -> Float[Array, "*batch quantiles"]:
    """Locations at the midpoints (2i + 1) / 2n of the target's distribution function: of all equal mixtures of n
    locations the nearest one in the 1-Wasserstein distance (Dabney et al. 2018, lemma 2)."""
    order = jnp.argsort(target.locations, -1)
    locations = jnp.take_along_axis(target.locations, order, -1)
    below = jnp.cumsum(jnp.take_along_axis(target.probabilities, order, -1), -1)
    midpoints = (jnp.arange(quantiles) + 0.5) / quantiles
    rank = (below[..., None, :] < midpoints[:, None] - 1e-6).sum(-1)
    return jnp.take_along_axis(locations, jnp.minimum(rank, locations.shape[-1] - 1), -1)


def quantile_projection(quantiles: int) -> Projection:
    """Onto equally likely locations."""
    if quantiles < 1:
        raise UserError(f"quantiles takes 1 or more, got {quantiles}.")

    def project(target: Distribution) -> Distribution:
        locations = project_quantile(target, quantiles)
        return Distribution(locations, jnp.full_like(locations, 1 / quantiles))

    return project


def categorical_projection(low: float, high: float, atoms: int) -> Projection:
    """Onto even, fixed locations."""
    if atoms < 2 or not low < high:
        raise UserError(f"atoms takes 2 or more and low less than high, got {atoms}, {low}, {high}.")

    def project(target: Distribution) -> Distribution:
        probabilities = project_categorical(target, low, high, atoms)
        return Distribution(jnp.broadcast_to(jnp.linspace(low, high, atoms), probabilities.shape), probabilities)

    return project


def distributional_bellman(
    returns: Distribution,
    transition: Float[Array, "states actions states"],
    reward: Float[Array, "states actions"],
    policy: Float[Array, "states actions"],
    discount: float,
) -> Distribution:
    """The exact distribution of reward plus discounted return from the next state and action (Bellemare et al. 2017).

    Args:
        returns: of each state and action, (states, actions, atoms).
        policy: probabilities of the actions in each state.

    Returns:
        A distribution with (states * actions * atoms) locations for each state and action.
    """
    states, actions, atoms = returns.locations.shape
    nexts = transition[..., None] * policy  # (s, a, s', a')
    probabilities = nexts[..., None] * returns.probabilities
    locations = reward[..., None, None, None] + discount * returns.locations
    shape = (states, actions, states * actions * atoms)
    return Distribution(locations.reshape(shape), probabilities.reshape(shape))


def projection_mixture_operator(*projections: Projection) -> Projection:
    """The equal mixture of all projections of one distribution (Zanger et al. 2024, equation 7).

    Example:
        >>> project = projection_mixture_operator(quantile_projection(21), categorical_projection(-1.0, 1.0, 21))
        >>> returns = project(distributional_bellman(returns, transition, reward, policy, 0.9))
    """
    if not projections:
        raise UserError("projection_mixture_operator takes one projection or more, got none.")

    def project(target: Distribution) -> Distribution:
        return mixture(*(projection(target) for projection in projections))

    return project


def mixture_modulus(constants: Sequence[float], p: float = 1.0) -> float:
    """Lipschitz constant of a mixture of projections in the p-Wasserstein distance, from those of its members
    (Zanger et al. 2024, proposition 1); times the discount it bounds the operator's contraction.

    The categorical projection has constant 1 for p = 1 (it averages the distribution function between two
    neighbours). The quantile projection has none for finite p: probability that crosses a midpoint moves a whole
    location, however little it is; then the proposition promises nothing.
    """
    if not len(constants) or min(constants) < 0 or p < 1:
        raise UserError(f"constants takes numbers from 0 on and p one from 1 on, got {list(constants)} and {p}.")
    return float(np.mean(np.asarray(constants, float) ** p) ** (1 / p))


def contraction_ratio(
    operator: Callable[[Distribution], Distribution], first: Distribution, second: Distribution
) -> Float[Array, ""]:
    """How much nearer an operator brings two return functions, (states, actions, atoms) each: the ratio of their
    largest 1-Wasserstein distances over states and actions, after and before."""
    before = wasserstein1(first, second).max()
    return wasserstein1(operator(first), operator(second)).max() / before
