"""Reading transition probabilities out of a policy, by the bets that it prefers."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from unseen.worlds.control.composite_goals import CompositeGoal

Policy = Callable[[CompositeGoal], Bool[Array, "*goals"]]  # whether the branch "at most k" is chosen


def extract_transitions(policy: Policy, triples: Int[Array, "triples 3"], depth: int) -> Float[Array, " triples"]:
    """Estimates k*/n of P(outcome | state, action), where k* is the smallest k at which a policy bets on "at most k
    of n" rather than on more: a competent policy's median of the number of successes.

    Args:
        policy: composite goals -> whether "at most" is chosen; it is asked once, about all k of all triples.
        triples: (state, action, outcome), by number.
        depth: n. At k = n "at most" is certain, so an incompetent policy's k* is n at most.

    Source: Richens et al. (2025), algorithm 2.
    """
    return switching_point(policy(CompositeGoal.families(triples, depth))) / depth


def switching_point(at_most: Bool[Array, "*triples k"]) -> Int[Array, "*triples"]:
    """The smallest k, along the last axis, at which the branch "at most k" is chosen; the largest k if at none."""
    return jnp.argmax(at_most.at[..., -1].set(True), axis=-1)


def extraction_bound(
    probability: Float[Array, "*triples"], depth: int | Int[Array, ""], failure: Float[Array, "*triples"]
) -> Float[Array, "*triples"]:
    """Largest error of an estimate by goals of depth n from a policy whose failure rate is delta,
    `sqrt(2 P (1 - P) / ((n - 1)(1 - delta)))` (Richens et al., 2025, theorem 1); infinite at n = 1 or delta = 1."""
    spread = jnp.sqrt(2 * probability * (1 - probability))
    room = jnp.maximum((depth - 1) * (1 - failure), 0)
    return jnp.where(room > 0, spread / jnp.sqrt(jnp.where(room > 0, room, 1)), jnp.inf)


def failure_rate(success: Float[Array, "*goals 2"], at_most: Bool[Array, "*goals"]) -> Float[Array, "*goals"]:
    """How much less probable success is than it could be: 1 minus the chosen over the better branch's probability.

    Args:
        success: probabilities of the two branches, "at most" first (`CompositeGoal.success`).
        at_most: whether that branch is chosen.

    A policy's delta on a set of goals, in the paper's sense, is the largest value.
    """
    chosen = jnp.where(at_most, success[..., 0], success[..., 1])
    return 1 - chosen / success.max(-1)
