"""Regret in one target MDP: elimination among collected policies, and optimistic learning from nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from unseen.measures.exact import finite_horizon_evaluation


class Target(NamedTuple):
    """The MDP of a regret experiment.

    Attributes:
        transition, reward: its dynamics and deterministic rewards in [0, 1].
        start: distribution of the first state.
        best: optimal mean return of an episode.
    """

    transition: Float[Array, "states actions states"]
    reward: Float[Array, "states actions"]
    start: Float[Array, " states"]
    best: Float[Array, ""]


class Episode(NamedTuple):
    """States, actions and next states of one episode."""

    here: Int[Array, " horizon"]
    action: Int[Array, " horizon"]
    there: Int[Array, " horizon"]


def roll_out(key: Key[Array, ""], target: Target, policy: Int[Array, "horizon states"]) -> Episode:
    """One episode under a deterministic policy."""
    first, rest = jax.random.split(key)

    def step(here: Array, x: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
        u, actions = x
        there = _draw(u, target.transition[here, actions[here]])
        return there, (here, actions[here], there)

    here = _draw(jax.random.uniform(first), target.start)
    return Episode(*jax.lax.scan(step, here, (jax.random.uniform(rest, (len(policy),)), policy))[1])


def episode_value(target: Target, policy: Int[Array, "horizon states"]) -> Float[Array, ""]:
    """Exact mean return of an episode under a deterministic policy."""
    chances = jax.nn.one_hot(policy, target.reward.shape[1], dtype=target.reward.dtype)
    return target.start @ finite_horizon_evaluation(target.transition, target.reward, chances)[0]


class PolicyCollectionElimination(eqx.Module):
    """Tries the policies collected in training, most promising first, and drops those that break their promise.

    Each collected policy comes with the value that it has in the environment that it was made for. The one with the
    largest promise left is run; once (after ten runs) its mean return differs from the promise by more than
    `sqrt(2 variance log(4 policies episodes / confidence) / runs)`, the normal bound with the observed variance, that
    environment is not the target, and the policy is dropped. Nothing is learned of states and actions, so regret
    depends on the number of policies alone.

    Attributes:
        policies: one action for each step and state.
        promise: value of each in its own environment; -inf leaves a policy out.
        confidence: probability that any bound fails.

    Source: Ye et al. (2023), algorithm 2 (its fine-tuning phase), with promises for its condition.
    """

    policies: Int[Array, "policies horizon states"]
    promise: Float[Array, " policies"]
    confidence: float = eqx.field(static=True, default=0.05)

    def regret(self, key: Key[Array, ""], target: Target, episodes: int) -> Float[Array, "{episodes}"]:
        """Cumulative regret after each episode; exact given which policy was run."""
        count = len(self.promise)
        values = jax.vmap(lambda policy: episode_value(target, policy))(self.policies)
        log = jnp.log(4 * count * episodes / self.confidence)

        def episode(carry: Any, key: Array) -> tuple[Any, Array]:
            left, runs, total, squares, paid = carry
            chosen = jnp.argmax(jnp.where(left, self.promise, -jnp.inf))
            seen = roll_out(key, target, self.policies[chosen])
            earned = target.reward[seen.here, seen.action].sum()
            runs, total = runs.at[chosen].add(1.0), total.at[chosen].add(earned)
            squares = squares.at[chosen].add(earned**2)
            n = runs[chosen]
            mean = total[chosen] / n
            variance = jnp.maximum(squares[chosen] - n * mean**2, 0) / jnp.maximum(n - 1, 1)
            width = jnp.sqrt(2 * variance * log / n)
            broken = jnp.abs(mean - self.promise[chosen]) > width
            # The last one stays: there would be nothing left to run.
            left = left.at[chosen].set(jnp.logical_not(broken & (n >= 10) & (left.sum() > 1)))
            paid = paid + target.best - values[chosen]
            return (left, runs, total, squares, paid), paid

        zeros = jnp.zeros(count)
        begin = (jnp.isfinite(self.promise), zeros, zeros, zeros, jnp.zeros(()))
        return jax.lax.scan(episode, begin, jax.random.split(key, episodes))[1]


class UCBVI(eqx.Module):
    """Upper confidence bound value iteration: plans in the counted model with a bonus for what was seldom tried.

    Attributes:
        bonus: coefficient c of `c * horizon * sqrt(log(states actions horizon episodes) / tries)`; 1 is about what
            the regret bound needs, less is the practice.

    Source: Azar, Osband and Munos (2017), algorithm 1 with the Chernoff-Hoeffding bonus of algorithm 3. Transitions
    do not change within an episode, so that all steps share counts; rewards are known.
    """

    bonus: float | Float[Array, ""] = 1.0

    def regret(self, key: Key[Array, ""], target: Target, episodes: int, horizon: int) -> Float[Array, "{episodes}"]:
        """Cumulative regret after each episode; exact given the policies that were run."""
        states, actions = target.reward.shape
        log = jnp.log(states * actions * horizon * episodes * 20.0)

        def plan(counts: Array) -> Array:
            tries = counts.sum(-1)
            model = counts / jnp.maximum(tries, 1)[..., None]
            extra = target.reward + self.bonus * horizon * jnp.sqrt(log / jnp.maximum(tries, 1))

            def back(after: Array, remaining: Array) -> tuple[Array, Array]:
                q = jnp.where(tries > 0, jnp.minimum(extra + model @ after, remaining), remaining)
                return q.max(1), q.argmax(1)

            return jax.lax.scan(back, jnp.zeros(states), jnp.arange(1.0, horizon + 1))[1][::-1]

        def episode(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Array]:
            counts, paid = carry
            policy = plan(counts)
            seen = roll_out(key, target, policy)
            counts = counts.at[seen.here, seen.action, seen.there].add(1.0)
            paid = paid + target.best - episode_value(target, policy)
            return (counts, paid), paid

        begin = (jnp.zeros((states, actions, states)), jnp.zeros(()))
        return jax.lax.scan(episode, begin, jax.random.split(key, episodes))[1]


def _draw(u: Float[Array, ""], row: Float[Array, " states"]) -> Int[Array, ""]:
    # Inverse of the cumulative sum; the minimum keeps a draw in range where rounding leaves the sum below 1.
    return jnp.minimum(jnp.sum(u * row.sum() >= jnp.cumsum(row)), row.size - 1)
