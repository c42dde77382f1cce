"""How far training has carried a network's weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from unseen.lab import UserError


def weight_distance(model: PyTree, start: PyTree) -> Float[Array, ""]:
    """Euclidean distance between two networks, over all their inexact arrays.

    Source: Hoffer et al. (2017, arXiv 1705.08741), section 3.
    """
    here, there = (eqx.filter(net, eqx.is_inexact_array) for net in (model, start))
    squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), here, there)
    return jnp.sqrt(sum(jax.tree.leaves(squares), start=jnp.zeros(())))


class Travelled(NamedTuple):
    """State of `track_weight_distance`.

    Attributes:
        start: the weights before the first update.
        count: updates done.
        distance: from the start after each update; infinite for those to come.
    """

    start: Any
    count: Int[Array, ""]
    distance: Float[Array, " updates"]


def track_weight_distance(length: int) -> optax.GradientTransformation:
    """An optax link that records the distance from the first weights after every update, for `length` of them. It
    changes nothing; it goes last in the chain, and its state is the chain's last state.

    Example:
        >>> optimizer = optax.chain(optax.sgd(0.1), track_weight_distance(1_000))
        >>> distance = optimizer_state[-1].distance

    Raises:
        UserError: if `length` is below 1.
    """
    if length < 1:
        raise UserError(f"length takes a whole number from 1 on, got {length}.")

    def init(params: optax.Params) -> Travelled:
        return Travelled(params, jnp.zeros((), jnp.int32), jnp.full(length, jnp.inf))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Travelled]:
        if params is None:
            raise UserError("track_weight_distance takes the parameters as update's third argument, got none.")
        distance = weight_distance(optax.apply_updates(params, updates), state.start)
        record = state.distance.at[state.count].set(distance, mode="drop")
        return updates, Travelled(state.start, state.count + 1, record)

    return optax.GradientTransformation(init, update)
