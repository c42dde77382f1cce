"""Goals that bet on how often an outcome follows an action: what a policy's choices say about its environment."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import betainc
from jaxtyping import Array, Float, Int, Key

from unseen.lab import UserError
from unseen.worlds.control.tabular import TabularMDPs

AT_MOST, MORE = 0, 1  # the two branches of a composite goal


class CompositeGoal(eqx.Module):
    """Choose a branch, then try an action in a state `depth` times: either the outcome follows at most `at_most`
    times, or more often.

    Any number of goals at once; the five fields have one shape. Between tries the agent walks back to `state`,
    which it can in a communicating process, so that tries are independent and the first action commits to a branch.

    Attributes:
        state, action, outcome: the transition that is bet on, by number.
        at_most: k, from 0 to `depth`.
        depth: n, number of tries.

    Source: Richens et al., "General agents need world models" (2025), algorithms 1 and 2.
    """

    state: Int[Array, "*goals"]
    action: Int[Array, "*goals"]
    outcome: Int[Array, "*goals"]
    at_most: Int[Array, "*goals"]
    depth: Int[Array, "*goals"]

    @classmethod
    def families(cls, triples: Int[Array, "triples 3"], depth: int) -> CompositeGoal:
        """All goals of a depth about each (state, action, outcome): shape (triples, depth + 1), over k."""
        shape = (triples.shape[0], depth + 1)
        state, action, outcome = (jnp.broadcast_to(column[:, None], shape) for column in triples.T)
        k = jnp.broadcast_to(jnp.arange(depth + 1), shape)
        return cls(state, action, outcome, k, jnp.full(shape, depth))

    def probability(self, transition: Float[Array, "states actions states"]) -> Float[Array, "*goals"]:
        """Of the outcome in one try."""
        return transition[self.state, self.action, self.outcome]

    def success(self, transition: Float[Array, "states actions states"]) -> Float[Array, "*goals 2"]:
        """Probability that each branch succeeds, at most k and more than k: binomial tails."""
        return branch_success(self.probability(transition), self.at_most, self.depth)


def branch_success(
    probability: Float[Array, "*goals"], at_most: Int[Array, "*goals"], depth: Int[Array, "*goals"]
) -> Float[Array, "*goals 2"]:
    """P(X <= k) and P(X > k) of X ~ Binomial(n, p), by the regularised incomplete beta function."""
    certain = at_most >= depth
    k = jnp.where(certain, 0, at_most).astype(probability.dtype)
    n = jnp.maximum(depth, 1).astype(probability.dtype)
    # Outside (0, 1) the continued fraction does not hold; the tails there are 0 and 1.
    inner = jnp.clip(probability, 1e-7, 1 - 1e-7)
    more = betainc(k + 1, n - k, inner)
    more = jnp.where(probability <= 0, 0.0, jnp.where(probability >= 1, 1.0, more))
    more = jnp.where(certain, 0.0, more)
    return jnp.stack([1 - more, more], -1)


def likely_outcomes(transition: Float[Array, "states actions states"], outcomes: int) -> Int[Array, "triples 3"]:
    """The (state, action, outcome) triples of the `outcomes` likeliest outcomes of each state and action."""
    states, actions, _ = transition.shape
    _, best = jax.lax.top_k(transition, outcomes)
    state, action = (
        jnp.broadcast_to(a[..., None], best.shape)
        for a in jnp.meshgrid(jnp.arange(states), jnp.arange(actions), indexing="ij")
    )
    return jnp.stack([state.ravel(), action.ravel(), best.ravel()], -1)


def twin_processes(key: Key[Array, ""], states: int = 6, outcomes: int = 3) -> TabularMDPs:
    """Two processes that are best controlled alike when a goal is one step away, and yet clearly differ.

    Each state has `outcomes` successors and as many actions, the i-th of which leads to the i-th successor with
    probability 0.6 to 0.68 in one twin and 0.2 to 0.3 more in the other (which is which is drawn for every action);
    the rest goes to the other successors in fixed shares. So in both twins the best action for the next state to be
    the i-th successor is the i-th, and "it follows" is the better bet on it and on no other outcome.

    Raises:
        UserError: if there are fewer than two outcomes, or no more states than outcomes.
    """
    if not 2 <= outcomes < states:
        raise UserError(f"outcomes takes a whole number from 2 to below the {states} states, got {outcomes}.")
    which, low, high, swap, split = jax.random.split(key, 5)
    shape = (states, outcomes)
    # The next state of a cycle is always among the successors, so that the twins are communicating.
    rank = jax.random.uniform(which, (states, states)) - jnp.roll(jnp.eye(states), 1, axis=1)
    successors = jax.nn.one_hot(jnp.argsort(rank, axis=1)[:, :outcomes], states)
    lesser = jax.random.uniform(low, shape, minval=0.6, maxval=0.68)
    pair = jnp.stack([lesser, lesser + jax.random.uniform(high, shape, minval=0.2, maxval=0.3)])
    pair = jnp.where(jax.random.bernoulli(swap, 0.5, shape), pair, pair[::-1])
    aimed = jnp.eye(outcomes)
    others = jax.random.uniform(split, (*shape, outcomes), minval=0.5, maxval=1.0) * (1 - aimed)
    others = others / others.sum(-1, keepdims=True)
    rows = pair[..., None] * aimed + (1 - pair[..., None]) * others
    transition = jnp.einsum("msai,sit->msat", rows, successors)
    return TabularMDPs(transition, jnp.zeros((2, *shape)), jnp.full(states, 1 / states))
