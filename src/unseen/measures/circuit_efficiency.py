"""How much logit a network buys for its parameter norm, and the data size below which memorising is cheaper."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int, PyTree

from unseen.lab.errors import UserError
from unseen.lab.statistics import logistic_crossing, slope


def logit_margin(logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The label's logit minus the largest of the others, of each example."""
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jnp.sum(jnp.where(own, logits, 0), axis=-1) - jnp.max(jnp.where(own, -jnp.inf, logits), axis=-1)


def circuit_efficiency(
    logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    parameters: PyTree,
    *,
    degree: float | int,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Mean logit margin that a network would have if its parameters had root mean square 1.

    A network homogeneous of degree k gives c^k times the logits when all parameters are multiplied by c; its
    margin over the k-th power of its parameters' size then says how good its circuit is at any size, which is
    what weight decay selects for. Exact for `QuadraticMLP` (k = 3); for networks with biases or normalisation
    the degree is an approximation.

    Source: Varma et al. (2023, arXiv 2309.02390), section 3 (efficiency: logits for a given parameter norm);
    the margin over the largest other logit stands for the logit, whose zero is arbitrary.

    Args:
        logits, labels: of the examples that the circuit is to fit.
        parameters: pytree; every floating-point array in it counts.
        degree: of homogeneity, k.
        weights: non-negative, of the examples; by default all count alike.

    Raises:
        UserError: if there are no parameters.
    """
    leaves = [x for x in jax.tree.leaves(parameters) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    if not leaves:
        raise UserError("parameters takes a pytree with floating-point arrays, got none.")
    size = jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in leaves) / sum(x.size for x in leaves))
    return jnp.average(logit_margin(logits, labels), weights=weights) / size**degree


def critical_fraction(accuracy: xr.DataArray, dim: str = "fraction", *, level: float = 0.5) -> xr.DataArray:
    """Share of the data at which test accuracy crosses a level, for each seed.

    By a logistic curve over the logarithm of the share. NaN where a run is missing, or the curve does not cross
    the level within the given shares.

    Source: Varma et al. (2023, arXiv 2309.02390), section 5 (D_crit: memorising and generalising are equally
    efficient, so below it a network regresses to memorising).

    Args:
        accuracy: in [0, 1], dims (dim, seed, ...), with shares above 0 as the coordinate of `dim`.
        level: accuracy in (0, 1).
    """
    return logistic_crossing(accuracy[dim], accuracy, dim, level=level, log=True)


def efficiency_crossing(memorising: xr.DataArray, generalising: Any, dim: str = "fraction") -> xr.DataArray:
    """Share of the data at which a memorising circuit is as efficient as a generalising one: the prediction for
    `critical_fraction`.

    By a power law through the memorising circuit's efficiencies, extrapolated where need be; the generalising
    one's does not depend on the share.

    Args:
        memorising: positive efficiencies over `dim` (two shares or more) and other dims.
        generalising: positive efficiency, a number or an array over the other dims.
    """
    x, y = xr.DataArray(np.log(memorising[dim])), xr.DataArray(np.log(memorising))
    steepness = slope(memorising[dim], memorising, dim, log=True)
    return np.exp(x.mean() + (np.log(generalising) - y.mean(dim)) / steepness)
