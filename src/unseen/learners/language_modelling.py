"""Next-token training on windows of a token stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from unseen.lab import Learner, UserError


class LanguageTraining(eqx.Module):
    """The state of one seed: model, optimizer, number of updates so far, and the order of its windows."""

    model: PyTree
    optimizer: PyTree
    step: Int[Array, ""]
    order: Int[Array, " windows"]


def language_modelling(
    model: Callable[[PRNGKeyArray], eqx.Module],
    windows: Int[Array, "windows length"] | Callable[[Int[Array, " rows"]], Int[Array, "rows length"]],
    optimizer: optax.GradientTransformation,
    *,
    count: int,
    batch: int,
    steps: int,
    every: int,
    measure: Callable[[Any], Mapping[str, Array]],
    dims: Mapping[str, tuple[str, ...]] | None = None,
) -> Learner:
    """Mean next-token loss over windows, each seed in its own order, the same in every pass.

    Args:
        model: key -> equinox module with `nll(windows)`, the loss of every token of a window but the first.
        windows: all windows, or numbers of windows -> these windows.
        optimizer: an optax transformation; its numbers may be traced values.
        count: number of windows.
        batch: windows of an update; what is left over of a pass is not used.
        steps, every: number of updates in all and between two evaluations.
        measure: model -> measures. Memory is its own business: go through much text in a `lax.scan`.
        dims: their dimensions.

    Raises:
        UserError: if there are fewer windows than in a batch.
    """
    if not 0 < batch <= count:
        raise UserError(f"batch takes a whole number from 1 to the {count} windows, got {batch}.")
    take = windows if callable(windows) else lambda rows: windows[rows]

    def init(key: PRNGKeyArray) -> LanguageTraining:
        model_key, order_key = jax.random.split(key)
        net = model(model_key)
        state = optimizer.init(eqx.filter(net, eqx.is_inexact_array))
        return LanguageTraining(net, state, jnp.array(0), jax.random.permutation(order_key, count))

    def update(state: LanguageTraining) -> LanguageTraining:
        start = state.step % (count // batch) * batch
        seen = take(jax.lax.dynamic_slice_in_dim(state.order, start, batch))
        gradients = eqx.filter_grad(lambda net: net.nll(seen).mean())(state.model)
        parameters = eqx.filter(state.model, eqx.is_inexact_array)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, parameters)
        return LanguageTraining(eqx.apply_updates(state.model, updates), optimizer_state, state.step + 1, state.order)

    def advance(state: LanguageTraining) -> LanguageTraining:
        carried, still = eqx.partition(state, eqx.is_array)

        def body(carried: Any, _: None) -> tuple[Any, None]:
            return eqx.filter(update(eqx.combine(carried, still)), eqx.is_array), None

        return eqx.combine(jax.lax.scan(body, carried, length=every)[0], still)

    return Learner(
        init=init,
        advance=advance,
        measure=lambda state: measure(state.model),
        steps=steps,
        every=every,
        dims=dims or {},
    )
