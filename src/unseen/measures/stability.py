"""How far two trainings drift apart whose data differ in one example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


class CoupledRuns(NamedTuple):
    """Two trainings side by side.

    Attributes:
        distance: of their parameters, at the start and after every `every` updates.
        first, second: parameters at the end, on the data and on their neighbour.
    """

    distance: Float[Array, " looks"]
    first: Any
    second: Any


def coupled_stability(
    loss: Callable[[Any, Any], Float[Array, ""]],
    params: Any,
    data: Any,
    neighbour: Any,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    every: int,
) -> CoupledRuns:
    """Full-batch training on two data sets that differ in one example, from one start and with the same noise.

    Algorithmic stability is about this distance: for losses that change by no more than L times it, the expected gap
    between test and train loss is at most L times its mean. Noise in the optimizer is shared if its random state
    follows from the start alone, as with `AlphaStableNoise` and `optax.add_noise`.

    Source: Raj et al. (2023, arXiv 2301.11885). Hardt et al. (2016) for the coupling.

    Args:
        loss: (parameters, data) -> training loss.
        params: the start, any pytree of arrays.
        data, neighbour: whatever `loss` takes.
        optimizer: an optax transformation.
        steps, every: updates in all, and between two looks at the distance; `steps` is a multiple of `every`.
    """

    def update(runs: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        def step(run: tuple[Any, Any], seen: Any) -> tuple[Any, Any]:
            weights, state = run
            updates, state = optimizer.update(jax.grad(loss)(weights, seen), state, weights)
            return optax.apply_updates(weights, updates), state

        return (step(runs[0], data), step(runs[1], neighbour)), None

    def apart(runs: tuple[Any, Any]) -> Float[Array, ""]:
        return optax.global_norm(jax.tree.map(jnp.subtract, runs[0][0], runs[1][0]))

    def look(runs: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Array]:
        runs, _ = jax.lax.scan(update, runs, length=every)
        return runs, apart(runs)

    start = (params, optimizer.init(params))
    runs, distances = jax.lax.scan(look, (start, start), length=steps // every)
    return CoupledRuns(jnp.concatenate([jnp.zeros(1), distances]), runs[0][0], runs[1][0])
