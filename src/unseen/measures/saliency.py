"""Which pixels of an image a network's output rests on, and whether they are the right ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array, Bool, Float

from unseen.lab import UserError

# Primitives that only call another program; those with a derivative of their own only matter if a ReLU is inside.
_CALLING = frozenset({"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call"})


@jax.custom_vjp
def guided_relu(x: Array) -> Array:
    """A ReLU that passes back only positive gradients, and those only where its input is positive."""
    return jnp.maximum(x, 0)


guided_relu.defvjp(
    lambda x: (jnp.maximum(x, 0), x > 0), lambda active, gradient: (jnp.where(active & (gradient > 0), gradient, 0),)
)


def guided(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with guided ReLUs: its values are equal, its gradient is guided backpropagation.

    Works on any JAX function, with no change to the model: every maximum with zero in its program, which is what
    `jax.nn.relu` is, becomes a `guided_relu`. Those inside loops (`scan`, `while`) and branches stay as they are.

    Example:
        >>> jax.grad(guided(lambda image: network(image)[action]))(image)

    Source: Springenberg et al., "Striving for Simplicity: The All Convolutional Net" (2015), section 3.4.
    """

    def transformed(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        found = _run(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return transformed


def _run(jaxpr: Any, consts: Any, inputs: Any) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        inner = _inner(eqn)
        if (zero := _zero(eqn)) is not None:
            out = [guided_relu(given[1 - zero])]
        elif inner is not None and _has_relu(inner):
            out = _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
        else:
            bound = eqn.primitive.get_bind_params(eqn.params)
            functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a tuple before JAX 0.9
            out = eqn.primitive.bind(*functions, *given, **params)
            out = out if eqn.primitive.multiple_results else [out]
        values.update(zip(eqn.outvars, out, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _zero(eqn: Any) -> int | None:
    """Which operand of a maximum is the number zero."""
    if eqn.primitive.name != "max":
        return None
    return next((i for i, atom in enumerate(eqn.invars) if isinstance(atom, Literal) and atom.val == 0), None)


def _inner(eqn: Any) -> Any:
    """The program that an equation only calls."""
    if eqn.primitive.name not in _CALLING:
        return None
    return next((eqn.params[name] for name in ("jaxpr", "call_jaxpr") if name in eqn.params), None)


def _has_relu(program: Any) -> bool:
    """Whether there is a maximum with zero in it, or in what it calls."""
    equations = getattr(program, "jaxpr", program).eqns
    return any(_zero(e) is not None or ((inner := _inner(e)) is not None and _has_relu(inner)) for e in equations)


def attribution(
    network: Callable[[Float[Array, "height width channels"]], Float[Array, ""]],
    image: Float[Array, "height width channels"],
) -> Float[Array, "height width"]:
    """How much each pixel counts: the largest size of the guided gradient over the pixel's channels.

    Args:
        network: image -> the number to explain, such as the value of one action.
    """
    return jnp.abs(jax.grad(guided(network))(image)).max(-1)


def most_salient(scores: Float[Array, "height width"], quantile: float) -> Bool[Array, "height width"]:
    """The pixels whose score is at or above the image's quantile, ties included; scores of zero never are.

    Raises:
        UserError: if `quantile` is not from 0 to less than 1.
    """
    if not 0 <= quantile < 1:
        raise UserError(f"quantile takes a share from 0 to less than 1, got {quantile}.")
    # The quantile lies between two scores (or on one), so what is at or above it are the last few in order.
    count = scores.size - -int(-quantile * (scores.size - 1) // 1)
    return (scores >= _kth_largest(scores.reshape(-1), count)) & (scores > 0)


def _kth_largest(scores: Float[Array, " n"], k: int) -> Float[Array, ""]:
    """The k-th largest of numbers from zero on, by bisection on their bits: sorting is slow inside populations."""
    bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)

    def narrow(found: Array, bit: Array) -> tuple[Array, None]:
        tried = found | bit
        return jnp.where((bits >= tried).sum() >= k, tried, found), None

    found, _ = jax.lax.scan(narrow, jnp.zeros((), jnp.int32), jnp.left_shift(1, jnp.arange(30, -1, -1)))
    return jax.lax.bitcast_convert_type(found, jnp.float32).astype(scores.dtype)


def attribution_mask(
    network: Callable[[Float[Array, "height width channels"]], Float[Array, ""]],
    image: Float[Array, "height width channels"],
    quantile: float,
) -> Bool[Array, "height width"]:
    """The pixels that a network's output rests on most, by guided gradients.

    Args:
        network: image -> the number to explain, such as the value of one action.
        quantile: share of the pixels that do not count.

    Raises:
        UserError: if `quantile` is not from 0 to less than 1.

    Source: Bertoin et al., "Look where you look!" (2022), the saliency metric; the largest channel and guided
    backpropagation as in their code.
    """
    return most_salient(attribution(network, image), quantile)


def saliency_mass(
    attribution: Float[Array, "*batch height width"],
    truth: Float[Array, "... height width"] | Bool[Array, "... height width"],
) -> Float[Array, "*batch"]:
    """Share of the attribution that falls on the pixels that matter; zero where there is no attribution at all.

    Args:
        attribution: sizes, from zero on.
        truth: which pixels matter, or what share of each; of all images or of each.
    """
    inside, total = (attribution * truth).sum((-2, -1)), attribution.sum((-2, -1))
    return inside / jnp.where(total > 0, total, 1.0)
