"""Epochs of gradient steps over the episodes of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax
from jaxtyping import Array, Float, Key, PyTree


def learn_epochs(
    loss: Callable[[Any, Any], Float[Array, ""]],
    model: PyTree,
    optimizer: optax.GradientTransformation,
    state: Any,
    rows: PyTree,
    key: Key[Array, ""],
    *,
    epochs: int,
    minibatches: int,
) -> tuple[Any, Any]:
    """Every row once an epoch, in minibatches of a fresh random order.

    Rows may be whole episodes: then few numbers are shuffled and a minibatch is long pieces of memory.

    Args:
        loss: (model, minibatch) -> mean loss.
        model: an equinox module; its inexact arrays learn.
        optimizer, state: an optax optimizer and its state for `model`.
        rows: a pytree of arrays with one leading axis, which `minibatches` divides.

    Returns:
        The model and the optimizer's state afterwards.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    arrays, static = eqx.partition(model, eqx.is_inexact_array)

    def step(carry: tuple[Any, Any], chosen: Array) -> tuple[tuple[Any, Any], None]:
        arrays, state = carry
        batch = jax.tree.map(lambda leaf: leaf[chosen], rows)
        gradient = jax.grad(lambda arrays: loss(eqx.combine(arrays, static), batch))(arrays)
        change, state = optimizer.update(gradient, state, arrays)
        return (eqx.apply_updates(arrays, change), state), None

    order = jax.vmap(lambda key: jax.random.permutation(key, count))(jax.random.split(key, epochs))
    (arrays, state), _ = jax.lax.scan(step, (arrays, state), order.reshape(epochs * minibatches, -1))
    return eqx.combine(arrays, static), state
