"""Matching the positions of two feature maps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Maps = Float[Array, "n rows columns channels"]


def sinkhorn(cost: Float[Array, "n p q"], *, softness: float = 0.1, rounds: int = 20) -> Float[Array, "n p q"]:
    """Entropy-regularised transport plan between uniform weights, times the number of columns: rows sum to about
    q / p, columns to 1.

    Source: Cuturi (2013, arXiv 1306.0895), algorithm 1.

    Args:
        softness: of the plan, relative to the mean cost.
        rounds: of alternating normalisation.
    """
    kernel = jnp.exp(-cost / (softness * jnp.maximum(cost.mean((1, 2), keepdims=True), 1e-12)))
    p, q = cost.shape[1:]

    def balance(v: Float[Array, "n q"], _: None) -> tuple[Array, None]:
        u = (1 / p) / jnp.maximum(jnp.einsum("npq,nq->np", kernel, v), 1e-30)
        return (1 / q) / jnp.maximum(jnp.einsum("npq,np->nq", kernel, u), 1e-30), None

    v, _ = jax.lax.scan(balance, jnp.ones((cost.shape[0], q)), length=rounds)
    u = (1 / p) / jnp.maximum(jnp.einsum("npq,nq->np", kernel, v), 1e-30)
    plan = u[:, :, None] * kernel * v[:, None, :]
    return q * plan


def aligned(first: Maps, second: Maps, ratio: float | Float[Array, ""], to_first: bool | Bool[Array, ""]) -> Maps:
    """Feature maps mixed after one of them is rearranged to match the other.

    Source: Venkataramanan et al. (2022, arXiv 2103.15375), equations 6 to 9; the plan passes no gradients, as in the
    official toolbox.

    Args:
        ratio: share of the first.
        to_first: whether the second is rearranged to the first's positions, else the other way round.
    """
    a, b = (x.reshape(len(x), -1, x.shape[-1]) for x in (first, second))
    squared = jnp.square(a).sum(-1)[:, :, None] + jnp.square(b).sum(-1)[:, None, :] - 2 * a @ b.swapaxes(1, 2)
    plan = jax.lax.stop_gradient(sinkhorn(jnp.maximum(squared, 0.0)))
    mixed = jnp.where(
        jnp.asarray(to_first),
        ratio * a + (1 - ratio) * plan @ b,
        ratio * plan.swapaxes(1, 2) @ a + (1 - ratio) * b,
    )
    return mixed.reshape(first.shape)
