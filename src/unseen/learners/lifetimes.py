"""Whole lives of tabular learners on levels of reward objects, many at once: what a learned update rule is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.methods import policy_gradient
from unseen.methods.learned_objective import FARTHEST, LPG, lifetime_inputs, ppo_clip_drift, surrogate_weight
from unseen.worlds.control.compiled_levels import CompiledLevel

Scalar = float | int | Float[Array, ""]


class Tables(NamedTuple):
    """What a tabular learner learns: logits of its policy, and of its critic values or logits of predictions."""

    policy: Float[Array, "states moves"]
    critic: Float[Array, "states *targets"]


class Rollout(NamedTuple):
    """Steps of several walkers in one level: where from, which move, what it paid, whether the episode was over, and
    where to (before a reset)."""

    state: Int[Array, "walkers time"]
    action: Int[Array, "walkers time"]
    reward: Float[Array, "walkers time"]
    done: Bool[Array, "walkers time"]
    after: Int[Array, "walkers time"]


@runtime_checkable
class UpdateRule(Protocol):
    """What turns experience into other tables, knowing or not how much of life is over."""

    def begin(self, states: int, moves: int) -> Tables:
        """Before any experience."""
        ...

    def update(self, tables: Tables, rollout: Rollout, step: Scalar, lifetime: Scalar) -> Tables:
        """After one rollout, the `step`-th of `lifetime`."""
        ...


def advantages(
    values: Float[Array, " states"], rollout: Rollout, discount: Scalar, trace: Scalar
) -> Float[Array, "walkers time"]:
    """Generalised advantage estimates (Schulman et al., 2016) of walks: each step begins where the one before it led,
    or anew after an end."""
    value, last = values[rollout.state], values[rollout.after[:, -1]]
    return policy_gradient.advantages(rollout.reward.T, value.T, rollout.done.T, last, discount, trace).T


class DriftRule(eqx.Module):
    """Policy optimisation with a drift, tabular: some epochs of gradient ascent on `r A - drift(r, A, when)`.

    With the default drift it is PPO. Advantages are normalised over the rollout; the critic's values move to the mean
    of their lambda-returns.

    Attributes:
        drift: (ratio, advantage, when) -> number; `LPO` or a hand-designed one.
        rate: step size of the logits; `anneal`: how much of it is gone at the end of life (1: all, linearly).
        critic_rate: share of the way to the mean return.
        discount, trace: of the advantages.
        aware: whether the drift sees the times, 0 or 1; `reference`: see `lifetime_inputs`.
        epochs: gradient steps on a rollout.
    """

    drift: Callable[[Array, Array, Array], Array] = eqx.field(default=lambda r, a, when: ppo_clip_drift(r, a))
    rate: Scalar = 20.0
    anneal: Scalar = 0.0
    critic_rate: Scalar = 0.5
    discount: Scalar = 0.97
    trace: Scalar = 0.9
    aware: Scalar = 1.0
    reference: Scalar = 1.0
    epochs: int = eqx.field(static=True, default=2)

    def begin(self, states: int, moves: int) -> Tables:
        """The uniform policy, values of 0."""
        return Tables(jnp.zeros((states, moves)), jnp.zeros(states))

    def update(self, tables: Tables, rollout: Rollout, step: Scalar, lifetime: Scalar) -> Tables:
        """One step of the critic and `epochs` of the policy."""
        policy, values = tables
        when = lifetime_inputs(step, lifetime, self.aware, self.reference)
        rate = self.rate * (1 - self.anneal * step / lifetime) / rollout.state.size
        raw = advantages(values, rollout, self.discount, self.trace)
        state, action = rollout.state.ravel(), rollout.action.ravel()
        gain = ((raw - raw.mean()) / (raw.std() + 1e-6)).ravel()
        chosen = jax.nn.one_hot(action, policy.shape[1])

        def log_chances(policy: Array) -> Float[Array, "n moves"]:
            return jax.nn.log_softmax(rows(policy, state))

        def ascend(policy: Array, chances: Array, weight: Array) -> Array:
            return policy + rate * sums_by_state(state, weight[:, None] * (chosen - jnp.exp(chances)), len(values))

        # At ratio 1 a drift has no gradient: the first epoch is a plain policy gradient.
        first = log_chances(policy)
        before = jnp.sum(first * chosen, 1)
        policy = ascend(policy, first, gain)
        for _ in range(self.epochs - 1):
            now = log_chances(policy)
            # A steep drift can throw the policy far: beyond its ends the ratio would overflow.
            ratio = jnp.exp(jnp.clip(jnp.sum(now * chosen, 1) - before, -FARTHEST, FARTHEST))
            policy = ascend(policy, now, ratio * surrogate_weight(self.drift, ratio, gain, when))

        pulls = jnp.stack([raw.ravel(), jnp.ones(state.size)], 1)
        total, visits = sums_by_state(state, pulls, values.size).T
        return Tables(policy, values + self.critic_rate * total / jnp.maximum(visits, 1))


class LPGRule(eqx.Module):
    """A learned policy gradient at work: one gradient step of `lpg_loss` on the tables after each rollout.

    Attributes:
        rule: the rule.
        rate: step size of both tables' logits.
        weight: of the predictions in the loss.
        aware, reference: see `DriftRule`.
    """

    rule: LPG
    rate: Scalar = 20.0
    weight: Scalar = 0.5
    aware: Scalar = 1.0
    reference: Scalar = 1.0

    def begin(self, states: int, moves: int) -> Tables:
        """The uniform policy, uniform predictions."""
        return Tables(jnp.zeros((states, moves)), jnp.zeros((states, self.rule.target.out_features)))

    def update(self, tables: Tables, rollout: Rollout, step: Scalar, lifetime: Scalar) -> Tables:
        """One gradient step."""
        when = lifetime_inputs(step, lifetime, self.aware, self.reference)
        chosen = jax.nn.one_hot(rollout.action, tables.policy.shape[1])
        chances = jax.nn.softmax(tables.policy[rollout.state])
        here, there = (jax.nn.softmax(tables.critic[where]) for where in (rollout.state, rollout.after))
        coefficient, target = jax.vmap(self.rule, (0, 0, 0, 0, 0, None))(
            rollout.reward,
            rollout.done,
            *map(jax.lax.stop_gradient, (jnp.sum(chances * chosen, -1), here, there)),
            when,
        )
        tiny = 1e-8
        gap = jnp.log(here + tiny) - jnp.log(target + tiny)
        # Derivatives of log chance and of KL(here || target) by the logits, written out.
        up = coefficient[..., None] * (chosen - chances)
        down = here * (gap - jnp.sum(here * gap, -1, keepdims=True))
        moves = jnp.concatenate([up, -self.weight * down], -1).reshape(rollout.state.size, -1)
        total = self.rate / rollout.state.size * sums_by_state(rollout.state.ravel(), moves, len(tables.policy))
        policy, critic = jnp.split(total, [tables.policy.shape[1]], 1)
        return Tables(tables.policy + policy, tables.critic + critic)


def sums_by_state(
    state: Int[Array, " n"], values: Float[Array, "n columns"], states: int
) -> Float[Array, "{states} columns"]:
    """Sum of the rows that belong to each state.

    One matrix product: a number is split in two digits, and the sum is over products of their one-hot codes. (A
    scatter takes a microsecond a row on a CPU.)
    """
    low = 8
    high = -(-states // low)
    spread = (jax.nn.one_hot(state % low, low)[:, :, None] * values[:, None]).reshape(state.size, -1)
    return (jax.nn.one_hot(state // low, high).T @ spread).reshape(high * low, -1)[:states]


@jax.custom_vjp
def rows(table: Float[Array, "states columns"], state: Int[Array, " n"]) -> Float[Array, "n columns"]:
    """`table[state]`, whose gradient is taken by `sums_by_state`: several times faster on a CPU than the scatter that
    differentiation makes of it."""
    return table[state]


def _rows(table: Array, state: Array) -> tuple[Array, tuple[Array, Array]]:
    return table[state], (table, state)


def _rows_back(kept: tuple[Array, Array], slope: Array) -> tuple[Array, None]:
    table, state = kept
    return sums_by_state(state, slope, len(table)), None


rows.defvjp(_rows, _rows_back)


# Lives ----------------------------------------------------------------------------------------------------------


class Life(NamedTuple):
    """A learner in the middle of its life: its tables, where its walkers are and since how many steps, and how many
    updates it has seen."""

    tables: Tables
    state: Int[Array, " walkers"]
    clock: Int[Array, " walkers"]
    step: Int[Array, ""]
    key: Key[Array, ""]


class Lives(eqx.Module):
    """How learners live: rollouts of several walkers, an update after each, episodes with a time limit.

    Attributes:
        walkers: copies of the level that a learner walks in at once.
        time: steps of a rollout.
        limit: steps of an episode, after which it is over.
    """

    walkers: int = eqx.field(static=True, default=8)
    time: int = eqx.field(static=True, default=20)
    limit: int = eqx.field(static=True, default=50)

    def begin(self, rule: UpdateRule, level: CompiledLevel, key: Key[Array, ""]) -> Life:
        """A new learner at the start of the level."""
        start = jnp.broadcast_to(level.start, (self.walkers,))
        tables = rule.begin(level.states, level.moves)
        return Life(tables, start, jnp.zeros(self.walkers, int), jnp.zeros((), int), key)

    def rollout(self, level: CompiledLevel, life: Life) -> tuple[Rollout, Life]:
        """The next steps of the learner's walkers."""
        own = jax.random.fold_in(life.key, life.step)
        uniform = jax.random.uniform(own, (self.time, self.walkers, 2 + level.objects))
        policy = jax.lax.stop_gradient(life.tables.policy)

        def step(carry: tuple[Array, Array], drawn: Array) -> tuple[tuple[Array, Array], Rollout]:
            state, clock = carry
            below = jnp.cumsum(jax.nn.softmax(policy[state]), -1)[:, :-1]
            action = jnp.sum(drawn[:, :1] > below, -1)
            after, reward, ended = jax.vmap(level.step)(state, action, drawn[:, 1:])
            done = ended | (clock + 1 >= self.limit)
            seen = Rollout(state, action, reward, done, after)
            return (jnp.where(done, level.start, after), jnp.where(done, 0, clock + 1)), seen

        (state, clock), seen = jax.lax.scan(step, (life.state, life.clock), uniform)
        return jax.tree.map(jnp.transpose, seen), life._replace(state=state, clock=clock)

    def advance(self, rule: UpdateRule, level: CompiledLevel, life: Life, lifetime: Scalar) -> tuple[Life, Rollout]:
        """One rollout and one update."""
        seen, life = self.rollout(level, life)
        tables = rule.update(life.tables, seen, life.step.astype(float), lifetime)
        return life._replace(tables=tables, step=life.step + 1), seen

    def whole(
        self, rule: UpdateRule, level: CompiledLevel, key: Key[Array, ""], lifetime: Int[Array, ""] | int, most: int
    ) -> tuple[Life, Float[Array, "{most}"]]:
        """A life of `lifetime` updates, at most `most`, and the policy's entropy after each in nats (mean over the
        states that the rollout saw; NaN beyond the end).

        The random numbers of the n-th update are the same for every lifetime. A traced `lifetime` costs no compilation
        of its own, but must not differ between the lanes of a vmap.
        """

        def body(n: Array, carry: tuple[Life, Array]) -> tuple[Life, Array]:
            life, seen = self.advance(rule, level, carry[0], jnp.asarray(lifetime, float))
            return life, carry[1].at[n].set(entropy(life.tables.policy, seen.state))

        start = self.begin(rule, level, key), jnp.full(most, jnp.nan)
        return jax.lax.fori_loop(0, lifetime, body, start)

    def value(self, level: CompiledLevel, tables: Tables) -> Float[Array, ""]:
        """Exact expected return of an episode under the learner's policy."""
        return level.evaluate(jax.nn.softmax(tables.policy), self.limit)


def entropy(policy: Float[Array, "states moves"], states: Int[Array, "*n"]) -> Float[Array, ""]:
    """Mean entropy of the policy in these states, in nats."""
    log = jax.nn.log_softmax(policy[states])
    return -jnp.mean(jnp.sum(jnp.exp(log) * log, -1))


def lifetime_fitness(
    lives: Lives, rule: UpdateRule, level: CompiledLevel, key: Key[Array, ""], lifetime: Int[Array, ""] | int
) -> Float[Array, ""]:
    """What a rule is worth to a learner: the exact expected return of its policy at the end of a whole life.

    Fitness for `EvolutionStrategies`: it sees what a step early in life does for the end of it. Evaluate both members
    of an antithetic pair with the same level and key.

    Source: Jackson et al. (2024), meta-training by evolution (there a return is sampled).
    """
    life, _ = lives.whole(rule, level, key, lifetime, 1)
    return lives.value(level, life.tables)


def pair_ranks(fitness: Float[Array, "2 pairs"]) -> Float[Array, "2 pairs"]:
    """Half a point for the better of each antithetic pair, minus half for the other: pairs that lived in different
    levels count alike (shaping for `EvolutionStrategies`; Jackson et al. 2024, appendix)."""
    sign = 0.5 * jnp.sign(fitness[0] - fitness[1])
    return jnp.stack([sign, -sign])


def after_updates(
    lives: Lives,
    rule: UpdateRule,
    level: CompiledLevel,
    life: Life,
    lifetime: Scalar,
    updates: int = 5,
    bonus: Scalar = 0.0,
) -> tuple[Life, Float[Array, ""]]:
    """A learner a few updates later, and its loss then: for `truncated_meta_gradient`.

    The loss is that of a policy gradient on a fresh rollout, with normalised advantages from the learner's own critic
    (which must be a table of values), minus `bonus` times the policy's entropy.

    Source: Oh et al. (2020), section 3.3; Jackson et al. (2023), appendix.
    """

    def step(life: Life, _: None) -> tuple[Life, None]:
        return lives.advance(rule, level, life, lifetime)[0], None

    life, _ = jax.lax.scan(step, life, None, updates)
    seen, _ = lives.rollout(level, life)
    values = jax.lax.stop_gradient(life.tables.critic)
    gain = advantages(values, seen, getattr(rule, "discount", 0.97), getattr(rule, "trace", 0.9))
    gain = (gain - gain.mean()) / (gain.std() + 1e-6)
    log = jax.nn.log_softmax(rows(life.tables.policy, seen.state.ravel()))
    chosen = jnp.sum(log * jax.nn.one_hot(seen.action.ravel(), log.shape[-1]), -1)
    decided = jnp.mean(jnp.sum(jnp.exp(log) * log, -1))
    return life, bonus * decided - jnp.mean(chosen * gain.ravel())


class HorizonSweep(NamedTuple):
    """What a rule does in lives of different lengths.

    Attributes:
        value: exact expected return at the end of life, mean over levels, for each horizon.
        optimum: mean of the levels' best possible returns.
        entropy: of the policy after each update in nats, mean over levels; NaN beyond the end of life.
    """

    value: Float[Array, " horizons"]
    optimum: Float[Array, ""]
    entropy: Float[Array, "horizons updates"]


def horizon_sweep(
    lives: Lives, rule: UpdateRule, levels: CompiledLevel, key: Key[Array, ""], horizons: tuple[int, ...]
) -> HorizonSweep:
    """Lives of all these lengths on every level. The same random numbers serve all lengths, so a rule that does not
    know its lifetime does the same in all of them as long as they last."""
    keys = jax.random.split(key, levels.start.shape[0])

    def live(lifetime: Array) -> tuple[Array, Array]:
        def one(level: CompiledLevel, key: Array) -> tuple[Array, Array]:
            life, decided = lives.whole(rule, level, key, lifetime, max(horizons))
            return lives.value(level, life.tables), decided

        values, decided = jax.vmap(one)(levels, keys)
        return values.mean(), decided.mean(0)

    value, decided = jax.lax.map(live, jnp.asarray(horizons))
    best = jax.vmap(lambda level: level.optimum(lives.limit))(levels)
    return HorizonSweep(value, best.mean(), decided)
