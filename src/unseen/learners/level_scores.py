"""What a level is worth to the teacher of an update rule: algorithmic regret and value losses, beside true regret."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from unseen.learners.lifetimes import DriftRule, Life, Lives, Rollout, Tables, UpdateRule, advantages, sums_by_state
from unseen.methods.curriculum import algorithmic_regret, l1_value_loss, positive_value_loss, true_regret
from unseen.worlds.control.compiled_levels import CompiledLevel

Scalar = float | int | Float[Array, ""]


def a2c(rate: Scalar = 40.0, critic_rate: Scalar = 0.5) -> DriftRule:
    """The tabular advantage actor-critic that a learned rule is measured against: one gradient step on a rollout, with
    discount 0.99 and lambda 0.95 as in Jackson et al. (2023); no bonus for entropy."""
    return DriftRule(rate=rate, critic_rate=critic_rate, discount=0.99, trace=0.95, epochs=1)


class ValueTable(eqx.Module):
    """Values of states under a learner's policy, learned beside a learner that has no values of its own (a learned
    policy gradient has predictions whose meaning nobody knows).

    Attributes:
        rate: share of the way to the mean lambda-return of a rollout.
        discount, trace: of the lambda-returns.
    """

    rate: Scalar = 0.5
    discount: Scalar = 0.99
    trace: Scalar = 0.95

    def see(
        self, values: Float[Array, " states"], rollout: Rollout
    ) -> tuple[Float[Array, " states"], Float[Array, "walkers time"]]:
        """The values after a rollout, and its generalised advantages by the values before it."""
        gains = advantages(values, rollout, self.discount, self.trace)
        pulls = jnp.stack([gains.ravel(), jnp.ones(gains.size)], 1)
        total, visits = sums_by_state(rollout.state.ravel(), pulls, values.size).T
        return values + self.rate * total / jnp.maximum(visits, 1), gains


class Losses(NamedTuple):
    """Value losses of rollouts."""

    positive: Float[Array, "*updates"]
    l1: Float[Array, "*updates"]


def valued_updates(
    lives: Lives,
    rule: UpdateRule,
    table: ValueTable,
    level: CompiledLevel,
    life: Life,
    values: Float[Array, " states"],
    lifetime: Scalar,
    updates: int,
) -> tuple[Life, Float[Array, " states"], Losses]:
    """A learner some updates later, the values learned from the same rollouts, and the value losses of each."""

    def step(carry: tuple[Life, Array], _: None) -> tuple[tuple[Life, Array], Losses]:
        life, values = carry
        life, seen = lives.advance(rule, level, life, lifetime)
        values, gains = table.see(values, seen)
        return (life, values), Losses(positive_value_loss(gains.ravel()), l1_value_loss(gains.ravel()))

    (life, values), losses = jax.lax.scan(step, (life, values), None, updates)
    return life, values, losses


class AlgorithmicRegret(eqx.Module):
    """Score of a level for a learned update rule: what another learning algorithm earns there after a life of its own,
    minus what the rule's learner earns. No optimum is needed, and none is known where the score is used in earnest.

    Example:
        >>> score = AlgorithmicRegret(Lives())
        >>> score(level, life.tables, key, lifetime=60)

    Attributes:
        lives: how both live; returns are exact.
        antagonist: the other algorithm.

    Source: Jackson et al., "Discovering General Reinforcement Learning Algorithms with Adversarial Environment Design"
    (2023), algorithmic regret; the antagonist is A2C (there both returns are sampled).
    """

    lives: Lives
    antagonist: UpdateRule = a2c()

    def __call__(
        self, level: CompiledLevel, tables: Tables, key: Key[Array, ""], lifetime: Int[Array, ""] | int
    ) -> Float[Array, ""]:
        """The score of a level, given the tables of the rule's learner at the end of its life."""
        rival, _ = self.lives.whole(self.antagonist, level, key, lifetime, 1)
        return algorithmic_regret(self.lives.value(level, rival.tables), self.lives.value(level, tables))


class LevelScores(NamedTuple):
    """Scores of levels for one rule, and what they stand for.

    Attributes:
        algorithmic_regret: see `AlgorithmicRegret`.
        positive_value_loss, l1_value_loss: of the last rollouts of a life, by a `ValueTable` learned on it.
        regret: exact: best possible return minus that of the rule's learner at the end of its life.
        optimum: the best possible return.
    """

    algorithmic_regret: Float[Array, " levels"]
    positive_value_loss: Float[Array, " levels"]
    l1_value_loss: Float[Array, " levels"]
    regret: Float[Array, " levels"]
    optimum: Float[Array, " levels"]


def score_vs_true_regret(
    lives: Lives,
    rule: UpdateRule,
    levels: CompiledLevel,
    key: Key[Array, ""],
    lifetime: int,
    antagonist: UpdateRule | None = None,
    table: ValueTable | None = None,
    updates: int = 5,
    batch: int = 64,
) -> LevelScores:
    """Three scores of each level beside the exact regret, after one life of the rule's learner on it.

    Args:
        lives: how learners live.
        rule: whose regret it is.
        levels: with a leading axis.
        key: for the lives.
        lifetime: in updates.
        antagonist: of algorithmic regret; `a2c()` by default.
        table: from which value losses come; `ValueTable()` by default.
        updates: last updates of a life whose value losses count.
        batch: levels at a time.
    """
    score, table = AlgorithmicRegret(lives, antagonist or a2c()), table or ValueTable()

    def one(case: tuple[CompiledLevel, Array]) -> LevelScores:
        level, key = case
        own, other = jax.random.split(key)
        life, values = lives.begin(rule, level, own), jnp.zeros(level.states)
        life, _, losses = valued_updates(lives, rule, table, level, life, values, float(lifetime), lifetime)
        best = level.optimum(lives.limit)
        return LevelScores(
            score(level, life.tables, other, lifetime),
            losses.positive[-updates:].mean(),
            losses.l1[-updates:].mean(),
            true_regret(best, lives.value(level, life.tables)),
            best,
        )

    keys = jax.random.split(key, levels.start.shape[0])
    return jax.lax.map(one, (levels, keys), batch_size=min(batch, keys.size))


def returns_after(
    lives: Lives, rule: UpdateRule, levels: CompiledLevel, key: Key[Array, ""], lifetime: int
) -> Float[Array, " levels"]:
    """Exact return on each level after a life of `lifetime` updates there."""

    def one(level: CompiledLevel, key: Array) -> Array:
        life, _ = lives.whole(rule, level, key, lifetime, 1)
        return lives.value(level, life.tables)

    return jax.vmap(one)(levels, jax.random.split(key, levels.start.shape[0]))
