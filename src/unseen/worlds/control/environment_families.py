"""Distributions over environments: training ones are drawn, and the target is one more draw."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from unseen.lab import UserError
from unseen.worlds.control.tabular import TabularMDPs


def perturbed_garnets(
    key: Key[Array, ""],
    draw: Key[Array, ""],
    mdps: int,
    *,
    states: int = 20,
    actions: int = 4,
    branching: int = 5,
    spread: float | Float[Array, ""] = 0.5,
) -> TabularMDPs:
    """MDPs around a common Garnet: transitions are its own mixed with another Garnet's at weight `spread`, rewards
    its own plus `spread` times another's.

    Args:
        key: of the common Garnet.
        draw: of the individual ones; the same `key` with another `draw` gives fresh environments of the same family.
        mdps: how many.
    """
    base = TabularMDPs.garnet(key, 1, states, actions, branching)

    def one(key: Array) -> tuple[Array, Array]:
        own = TabularMDPs.garnet(key, 1, states, actions, branching)
        return (1 - spread) * base.transition[0] + spread * own.transition[0], base.reward[0] + spread * own.reward[0]

    # Piece by piece: choosing successors takes `branching` times the memory of the result.
    transition, reward = jax.lax.map(one, jax.random.split(draw, mdps), batch_size=64)
    return TabularMDPs(transition, reward, base.start)


def replicated(family: TabularMDPs, copies: int) -> TabularMDPs:
    """The same MDPs with every state in `copies` indistinguishable copies, any of which is reached as likely: more
    states, the same optimal returns. Copies of one state are neighbours in the numbering.

    Raises:
        UserError: if `copies` is below 1.
    """
    if copies < 1:
        raise UserError(f"copies takes a whole number from 1 on, got {copies}.")
    transition = jnp.repeat(jnp.repeat(family.transition, copies, axis=1), copies, axis=3) / copies
    return TabularMDPs(transition, jnp.repeat(family.reward, copies, axis=1), jnp.repeat(family.start, copies) / copies)
