"""Stochastic gradient Langevin dynamics: descent that samples."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.methods.streams import noise_stream

Scalar = float | Float[Array, ""]


class SGLDState(NamedTuple):
    """Where the noise comes from."""

    key: PRNGKeyArray


def SGLD(
    rate: Scalar,
    examples: int,
    *,
    precision: Scalar = 1.0,
    temperature: Scalar = 1.0,
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformation:
    """Langevin steps on U(w) = examples * loss(w) + precision |w|^2 / 2, whose law tends to exp(-U/temperature).

    w <- w - rate/2 grad U(w) + sqrt(rate * temperature) normal: with a loss that is the mean negative log-likelihood
    of a batch, samples of the posterior under a normal prior, up to terms of the order of `rate`. At temperature 0
    it is gradient descent (to the most likely weights; with precision 0 without a prior).

    Source: Welling and Teh (2011), "Bayesian learning via stochastic gradient Langevin dynamics", equation 4, with a
    constant rate.

    Args:
        rate: step size.
        examples: of the training set; gradients come as means over a batch.
        precision: of the prior, 1/variance.
        temperature: 1 samples the posterior.
        key: of the noise; runs with different first weights have different noise under one key.
    """
    base = jax.random.key(0) if key is None else key

    def init(params: optax.Params) -> SGLDState:
        return SGLDState(noise_stream(base, params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, SGLDState]:
        if params is None:
            raise ValueError("SGLD needs the parameters: update(gradients, state, params).")
        assert isinstance(state, SGLDState)
        key, noise_key = jax.random.split(state.key)
        gradients, structure = jax.tree.flatten(updates)
        keys = jax.random.split(noise_key, len(gradients))

        def step(g: Array, w: Array, k: PRNGKeyArray) -> Array:
            noise = jnp.sqrt(rate * temperature) * jax.random.normal(k, jnp.shape(g), g.dtype)
            return -rate / 2 * (examples * g + precision * w) + noise

        moves = [step(g, w, k) for g, w, k in zip(gradients, jax.tree.leaves(params), keys, strict=True)]
        return jax.tree.unflatten(structure, moves), SGLDState(key)

    return optax.GradientTransformation(init, update)
