"""Heavy-tailed noise: symmetric alpha-stable laws, and optimizers driven by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.methods.streams import noise_stream

Scalar = float | Float[Array, ""]
# Single precision rounds pi up, where sine and cosine turn negative, and draws an exponential time of 0 once in 2^23.
ALMOST_PI = 3.141592
SOON = 6e-8


def alpha_stable(key: PRNGKeyArray, alpha: Scalar, shape: Sequence[int] = ()) -> Float[Array, "..."]:
    """Independent symmetric alpha-stable numbers with characteristic function exp(-|t|^alpha).

    alpha = 2 is a normal law of variance 2, alpha = 1 Cauchy's; below 2 the variance is infinite.

    Source: Chambers, Mallows and Stuck (1976), "A method for simulating stable random variables".

    Args:
        key: of the draw.
        alpha: tail index in (0, 2].
        shape: of the result.
    """
    angle_key, time_key = jax.random.split(key)
    angle = jax.random.uniform(angle_key, tuple(shape), minval=-ALMOST_PI / 2, maxval=ALMOST_PI / 2)
    time = jnp.maximum(jax.random.exponential(time_key, tuple(shape)), SOON)
    tilt = (jnp.cos((1 - alpha) * angle) / time) ** ((1 - alpha) / alpha)
    return jnp.sin(alpha * angle) / jnp.cos(angle) ** (1 / alpha) * tilt


def isotropic_alpha_stable(
    key: PRNGKeyArray, alpha: Scalar, dimension: int, shape: Sequence[int] = ()
) -> Float[Array, "... dimension"]:
    """Rotationally invariant alpha-stable vectors with characteristic function exp(-|u|^alpha): a normal vector times
    the square root of twice a positive alpha/2-stable number, so that all coordinates jump together.

    Source: Samorodnitsky and Taqqu (1994), proposition 2.5.2; Kanter (1975) for the positive number.

    Args:
        key: of the draw.
        alpha: tail index in (0, 2].
        dimension: of a vector.
        shape: of independent vectors.
    """
    angle_key, time_key, normal_key = jax.random.split(key, 3)
    half = alpha / 2
    angle = jax.random.uniform(angle_key, tuple(shape), minval=1e-6, maxval=ALMOST_PI)
    time = jnp.maximum(jax.random.exponential(time_key, tuple(shape)), SOON)
    clock = jnp.sin(half * angle) / jnp.sin(angle) ** (1 / half)
    clock = clock * (jnp.sin((1 - half) * angle) / time) ** ((1 - half) / half)
    # At alpha = 2 the clock is 1; rounding near an angle of pi would say otherwise.
    clock = jnp.where(half < 1, clock, 1.0)
    return jnp.sqrt(2 * clock)[..., None] * jax.random.normal(normal_key, (*shape, dimension))


class AlphaStableState(NamedTuple):
    """Where the noise comes from."""

    key: PRNGKeyArray


def AlphaStableNoise(
    alpha: Scalar, scale: Scalar, *, isotropic: bool = True, key: PRNGKeyArray | None = None
) -> optax.GradientTransformation:
    """Adds alpha-stable noise to the updates; after `optax.sgd(rate)` with scale sigma rate^(1/alpha) it is the Euler
    scheme of dw = -grad F dt + sigma dL, where L is the alpha-stable Levy process.

    Source: Raj et al. (2023, arXiv 2301.11885).

    Args:
        alpha: tail index in (0, 2].
        scale: factor on noise with characteristic function exp(-|t|^alpha).
        isotropic: one jump for all parameters together, the paper's process; else independent ones.
        key: of the noise. Runs that start at the same parameters get the same noise, others another one.
    """
    base = jax.random.key(0) if key is None else key

    def init(params: optax.Params) -> AlphaStableState:
        return AlphaStableState(noise_stream(base, params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AlphaStableState]:
        del params
        assert isinstance(state, AlphaStableState)
        key, noise_key = jax.random.split(state.key)
        flat, unravel = ravel_pytree(updates)
        if isotropic:
            noise = isotropic_alpha_stable(noise_key, alpha, flat.size)
        else:
            noise = alpha_stable(noise_key, alpha, flat.shape)
        return unravel(flat + scale * noise), AlphaStableState(key)

    return optax.GradientTransformation(init, update)
