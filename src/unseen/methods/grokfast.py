"""Gradient filters along training time, as links of an optax chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int, PyTree

from unseen.lab.errors import UserError

Scalar = float | int | Float[Array, ""]


class SlowGradient(NamedTuple):
    """State of the exponential filters.

    Attributes:
        slow: the exponential moving average of the gradient.
        count: number of gradients seen.
    """

    slow: PyTree
    count: Int[Array, ""]


class GradientWindow(NamedTuple):
    """State of the window filter.

    Attributes:
        past: the last gradients, in a ring; a leading axis of the window's length.
        oldest: of these, the one that the next gradient replaces.
        total: their sum.
        error: what rounding has taken from the sum (Kahan, 1965).
        count: number of gradients seen.
    """

    past: PyTree
    oldest: PyTree
    total: PyTree
    error: PyTree
    count: Int[Array, ""]


class GrokfastEMA(optax.GradientTransformation):
    """Add a multiple of the gradient's exponential moving average to the gradient.

    g_hat = g + amplification * mu, with mu <- alpha * mu + (1 - alpha) * g, and mu = g at the first step. It
    stands before the optimizer, whose own moments then are those of g_hat.

    Source: Lee et al. (2024, arXiv 2405.20233), section 3, algorithm "Grokfast-EMA"; the first average as in the
    official code. Their values: (0.98, 2) for modular arithmetic, (0.8, 0.1) for MNIST.

    Example:
        >>> optimizer = optax.chain(GrokfastEMA(0.98, 2.0), optax.adamw(1e-3, weight_decay=1.0))

    Args:
        alpha: share of the old average that is kept, in [0, 1).
        amplification: lambda, weight of the average.

    Raises:
        UserError: if alpha is a number outside of [0, 1).
    """

    def __new__(cls, alpha: Scalar = 0.98, amplification: Scalar = 2.0) -> GrokfastEMA:
        """The transformation."""
        filter = _exponential(alpha, lambda g, slow: g + amplification * slow)
        return super().__new__(cls, filter.init, filter.update)


def amplify_fast(alpha: Scalar = 0.98, amplification: Scalar = 2.0) -> optax.GradientTransformation:
    """The control of `GrokfastEMA`: add a multiple of what the average leaves out, g - mu, to the gradient.

    Args:
        alpha, amplification: as there.
    """
    return _exponential(alpha, lambda g, slow: g + amplification * (g - slow))


class GrokfastMA(optax.GradientTransformation):
    """Add a multiple of the mean of the last gradients to the gradient.

    g_hat = g + amplification * mean of the last `window` gradients, the present one included; nothing is added
    before there are that many. It keeps them all: `window` times the memory of the parameters. Under `jax.vmap`
    all members must have seen equally many gradients.

    Source: Lee et al. (2024, arXiv 2405.20233), section 3, algorithm "Grokfast" (moving average), with its warm-up
    as in the official code. Their values: window 100 and amplification 5.

    Args:
        window: number of gradients, from 1 on.
        amplification: lambda, weight of the mean.

    Raises:
        UserError: if the window is no whole number from 1 on.
    """

    def __new__(cls, window: int | float = 100, amplification: Scalar = 5.0) -> GrokfastMA:
        """The transformation."""
        if window != int(window) or window < 1:
            raise UserError(f"window takes a whole number from 1 on, got {window}.")
        length = int(window)

        def init(params: Any) -> Any:
            past = jax.tree.map(lambda p: jnp.zeros((length, *p.shape), p.dtype), params)
            zero = jax.tree.map(jnp.zeros_like, params)
            return GradientWindow(past, zero, zero, zero, jnp.zeros((), jnp.int32))

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            # The next oldest is read from the new ring: with a read from the old one XLA would copy the ring.
            past = jax.tree.map(lambda past, g: _replace_oldest(past, g, state.count), state.past, updates)
            oldest = jax.tree.map(lambda past: _oldest(past, state.count + 1), past)
            # A running sum with compensation: rounding errors do not add up over a long training.
            add = jax.tree.map(lambda g, old, error: (g - old) - error, updates, state.oldest, state.error)
            total = jax.tree.map(jnp.add, state.total, add)
            error = jax.tree.map(lambda new, old, add: (new - old) - add, total, state.total, add)
            weight = jnp.where(state.count + 1 >= length, amplification, 0.0) / length
            filtered = jax.tree.map(lambda g, total: g + weight * total, updates, total)
            return filtered, GradientWindow(past, oldest, total, error, state.count + 1)

        return super().__new__(cls, init, update)


@custom_vmap
def _oldest(past: Float[Array, "length *shape"], count: Int[Array, ""]) -> Float[Array, "*shape"]:
    """The entry of a ring that gradient number `count` replaces."""
    return jax.lax.dynamic_index_in_dim(past, count % past.shape[0], 0, keepdims=False)


@custom_vmap
def _replace_oldest(
    past: Float[Array, "length *shape"], new: Float[Array, "*shape"], count: Int[Array, ""]
) -> Float[Array, "length *shape"]:
    """The ring with its oldest entry replaced."""
    return jax.lax.dynamic_update_index_in_dim(past, new, count % past.shape[0], 0)


# Members of a population have seen equally many gradients, so that one place in the ring serves them all: an index
# for each would make XLA copy whole rings at every update. Members that were stopped earlier are not advanced any
# more, so the largest count is that of the others.


@_oldest.def_vmap
def _(size: int, batched: list[bool], past: Array, count: Array) -> tuple[Array, bool]:
    past = past if batched[0] else jnp.broadcast_to(past, (size, *past.shape))
    return jax.lax.dynamic_index_in_dim(past, jnp.max(count) % past.shape[1], 1, keepdims=False), True


@_replace_oldest.def_vmap
def _(size: int, batched: list[bool], past: Array, new: Array, count: Array) -> tuple[Array, bool]:
    past, new = (
        x if b else jnp.broadcast_to(x, (size, *x.shape)) for x, b in zip((past, new), batched[:2], strict=True)
    )
    return jax.lax.dynamic_update_index_in_dim(past, new, jnp.max(count) % past.shape[1], 1), True


def _exponential(alpha: Scalar, combine: Callable[[Array, Array], Array]) -> optax.GradientTransformation:
    """`combine(gradient, moving average)`; the average begins at the first gradient."""
    if isinstance(alpha, float | int) and not 0 <= alpha < 1:
        raise UserError(f"alpha takes a number from 0 to below 1, got {alpha}.")

    def init(params: Any) -> Any:
        return SlowGradient(jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        keep = jnp.where(state.count == 0, 0.0, alpha)
        slow = jax.tree.map(lambda slow, g: keep * slow + (1 - keep) * g, state.slow, updates)
        return jax.tree.map(combine, updates, slow), SlowGradient(slow, state.count + 1)

    return optax.GradientTransformation(init, update)
