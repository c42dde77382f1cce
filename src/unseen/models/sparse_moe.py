"""A small mixture of experts on pairs of one-hot operands."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab.errors import UserError


class ExpertBlock(eqx.Module):
    """x + the output of one of several quadratic experts, chosen by a linear router.

    An expert is (n(x) A + n(x) B)^2 W in the manner of `QuadraticMLP`, here with one first layer: (n(x) A)^2 W with
    n(x) the input at root mean square 1. Its output is multiplied by its routing probability, which is how
    the router learns (Fedus et al., 2021, arXiv 2101.03961, section 2.1).

    Attributes:
        router: one column an expert.
        first, second: the experts' layers.
    """

    router: Float[Array, "width experts"]
    first: Float[Array, "experts width hidden"]
    second: Float[Array, "experts hidden width"]

    def __init__(self, width: int, experts: int, hidden: int, *, initial: float = 1.0, key: PRNGKeyArray):
        """LeCun-normal layers, those of the experts times `initial`."""
        r, a, b = jax.random.split(key, 3)
        self.router = jax.random.normal(r, (width, experts)) / jnp.sqrt(width)
        self.first = initial * jax.random.normal(a, (experts, width, hidden)) / jnp.sqrt(width)
        self.second = initial * jax.random.normal(b, (experts, hidden, width)) / jnp.sqrt(hidden)

    def __call__(
        self, x: Float[Array, "*batch width"]
    ) -> tuple[Float[Array, "*batch width"], Float[Array, "*batch experts"]]:
        """Output and routing logits. All experts are computed and all but one left out: no gather."""
        normed = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        logits = normed @ self.router
        chosen = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=x.dtype)
        gate = chosen * jax.nn.softmax(logits, axis=-1)
        experts, width, hidden = self.first.shape
        # The experts' first layers side by side are one matrix product, and so are the second ones.
        inside = jnp.square(normed @ self.first.transpose(1, 0, 2).reshape(width, experts * hidden))
        inside = inside.reshape(*inside.shape[:-1], experts, hidden) * gate[..., None]
        out = inside.reshape(*inside.shape[:-2], experts * hidden) @ self.second.reshape(experts * hidden, width)
        return x + out, logits


class SparseMoE(eqx.Module):
    """Embeddings of two operands and of the task, residual blocks of experts with top-1 routing, a linear read-out.

    The same call as `QuadraticMLP`; further operands (a domain, say) are added in the same way.

    Attributes:
        embeddings: one matrix an operand.
        blocks: of experts, in order.
        out: read-out of the last block at root mean square 1.
    """

    embeddings: list[Float[Array, "symbols width"]]
    blocks: list[ExpertBlock]
    out: Float[Array, "width classes"]

    def __init__(
        self,
        symbols: tuple[int, ...],
        classes: int,
        *,
        key: PRNGKeyArray,
        width: int = 48,
        experts: int = 4,
        hidden: int = 32,
        blocks: int = 2,
        initial: float = 1.0,
    ):
        """Embeddings of deviation `initial`.

        Args:
            symbols: number of values of each operand.
            classes: of the read-out.
            width: of the residual stream.
            experts, hidden: number of experts in a block and their hidden units.
            blocks: number of blocks.
            initial: factor on all first weights but the routers'.

        Raises:
            UserError: with fewer than two experts or no block.
        """
        if experts < 2:
            raise UserError(f"experts takes a whole number from 2 on, got {experts}.")
        if blocks < 1:
            raise UserError(f"blocks takes a whole number from 1 on, got {blocks}.")
        e, b, o = jax.random.split(key, 3)
        self.embeddings = [
            initial * jax.random.normal(k, (n, width))
            for k, n in zip(jax.random.split(e, len(symbols)), symbols, strict=True)
        ]
        self.blocks = [ExpertBlock(width, experts, hidden, initial=initial, key=k) for k in jax.random.split(b, blocks)]
        self.out = initial * jax.random.normal(o, (width, classes)) / jnp.sqrt(width)

    def routed(
        self, *operands: Float[Array, "..."]
    ) -> tuple[Float[Array, "*batch classes"], Float[Array, "blocks *batch experts"]]:
        """Logits, and the routing logits of every block."""
        x = sum(operand @ table for operand, table in zip(operands, self.embeddings, strict=True))
        routes = []
        for block in self.blocks:
            x, logits = block(jnp.asarray(x))
            routes.append(logits)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return x @ self.out, jnp.stack(routes)

    def __call__(self, *operands: Float[Array, "..."]) -> Float[Array, "*batch classes"]:
        """Logits of one-hot operands whose batch shapes broadcast."""
        return self.routed(*operands)[0]


def load_balance(routes: Float[Array, "blocks *batch experts"], weights: Float[Array, "*batch"]) -> Float[Array, ""]:
    """experts * sum over experts of (share of examples sent to it) * (mean probability of it), averaged over blocks;
    1 where all are used alike, the number of experts where one takes everything.

    Source: Fedus et al. (2021, arXiv 2101.03961), equation 4.

    Args:
        weights: non-negative, of the examples.
    """
    experts = routes.shape[-1]
    share = (weights / jnp.sum(weights))[None, ..., None]
    axes = tuple(range(1, routes.ndim - 1))
    sent = jnp.sum(jax.nn.one_hot(jnp.argmax(routes, -1), experts) * share, axes)
    probable = jnp.sum(jax.nn.softmax(routes, -1) * share, axes)
    return experts * jnp.mean(jnp.sum(sent * probable, -1))


def choices(routes: Float[Array, "*batch experts"]) -> Int[Array, "*batch"]:
    """The expert that each example is sent to."""
    return jnp.argmax(routes, axis=-1)
