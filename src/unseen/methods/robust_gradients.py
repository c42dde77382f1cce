"""Gradients to which single examples contribute little: robust means in place of the mean over the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from unseen.lab import UserError

Model = TypeVar("Model")
Gradient = Callable[[Callable[..., Float[Array, ""]], Any, PRNGKeyArray], Any]


def winsorized_mean(gradients: PyTree, share: float) -> PyTree:
    """Mean over the first axis after clipping, coordinate by coordinate, to the (k+1)-th smallest and largest value,
    k = floor(share * n).

    Args:
        gradients: a pytree of arrays whose first axis is the example (or the group of examples).
        share: clipped on each side, from 0 (the mean) to just below 0.5 (the median, for odd n).

    Raises:
        UserError: if `share` is not in [0, 0.5).
    """
    if not 0 <= share < 0.5:
        raise UserError(f"share takes a number from 0 to below 0.5, got {share}.")

    def mean(leaf: Float[Array, "example ..."]) -> Float[Array, "..."]:
        leaf = jnp.asarray(leaf)
        k = int(share * len(leaf) + 1e-9)
        if k == 0:
            return leaf.mean(0)
        ordered = jnp.sort(leaf, axis=0)
        low, high = ordered[k], ordered[-1 - k]
        return (k * (low + high) + ordered[k : len(leaf) - k].sum(0)) / len(leaf)

    return jax.tree.map(mean, gradients)


def median_of_three(a: PyTree, b: PyTree, c: PyTree) -> PyTree:
    """The middle one of three values, coordinate by coordinate."""
    return jax.tree.map(lambda x, y, z: jnp.maximum(jnp.minimum(x, y), jnp.minimum(jnp.maximum(x, y), z)), a, b, c)


def winsorized_gradient(batch_size: int, *, share: float = 0.1, groups: int | None = None) -> Gradient:
    """Winsorised mean of the gradients of single examples, in place of the gradient of their mean loss.

    What few examples ask for is clipped to what others ask for too. A `gradient` hook of `classifier`; on its own it
    takes any mean loss: `hook(lambda net, rows: loss(net, x[rows], y[rows]), net, key)`.

    Args:
        batch_size: examples of a batch; every row must count (no weights of 0).
        share: of the values of each coordinate that are clipped on each side.
        groups: winsorise the mean gradients of as many equal parts of the batch, which takes memory and time for
            `groups` gradients only; None for the examples themselves. Parts are consecutive rows: batches should
            come in random order.

    Raises:
        UserError: if `share` is not in [0, 0.5), or `groups` does not divide the batch.

    Source: Chatterjee (2020, arXiv 2002.10657), "winsorized gradients"; Chatterjee and Zielinski (2022).
    """
    groups = batch_size if groups is None else groups
    winsorized_mean((), share)
    rows = _parts(batch_size, groups)

    def gradient(objective: Callable[..., Float[Array, ""]], model: Model, key: PRNGKeyArray) -> Model:
        return winsorized_mean(_gradients(objective, model, rows), share)

    return gradient


def median_of_three_gradient(batch_size: int) -> Gradient:
    """Coordinate-wise median of the mean gradients of three thirds of the batch (M3).

    A change that one third alone asks for is not made; needs no gradients of single examples. A `gradient` hook of
    `classifier`; used alone as `winsorized_gradient`. Thirds are consecutive rows: batches should come in random
    order.

    Args:
        batch_size: examples of a batch, a multiple of three; every row must count (no weights of 0).

    Raises:
        UserError: if `batch_size` is no multiple of three.

    Source: Zielinski, Krishnan and Chatterjee (2020, arXiv 2003.07422), M3; Chatterjee and Zielinski (2022).
    """
    if batch_size < 3 or batch_size % 3:
        raise UserError(f"batch_size takes a multiple of three, got {batch_size}.")
    rows = _parts(batch_size, 3)

    def gradient(objective: Callable[..., Float[Array, ""]], model: Model, key: PRNGKeyArray) -> Model:
        thirds = _gradients(objective, model, rows)
        return median_of_three(*(jax.tree.map(lambda g, i=i: g[i], thirds) for i in range(3)))

    return gradient


def _parts(batch_size: int, groups: int) -> Int[Array, "groups rows"]:
    if groups < 1 or batch_size % groups:
        raise UserError(f"groups takes a divisor of the {batch_size} examples of a batch, got {groups}.")
    return jnp.arange(batch_size).reshape(groups, -1)


def _gradients(objective: Callable[..., Float[Array, ""]], model: Any, rows: Int[Array, "groups rows"]) -> PyTree:
    """The gradient of every part of the batch, along a first axis."""
    return jax.vmap(lambda part: eqx.filter_grad(lambda net: objective(net, part))(model))(rows)
