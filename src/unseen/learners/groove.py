"""Meta-training of a learned policy gradient on levels that a teacher chooses by what the rule still loses there."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from unseen.lab import UserError
from unseen.learners.level_scores import ValueTable, a2c, valued_updates
from unseen.learners.lifetimes import Life, Lives, LPGRule, UpdateRule, rows
from unseen.methods.curriculum import LevelPool, PrioritisedReplay, algorithmic_regret
from unseen.methods.learned_objective import LPG, lifetime_inputs, truncated_meta_gradient
from unseen.worlds.control.compiled_levels import CompiledLevel

Scalar = float | int | Float[Array, ""]


class Pupil(NamedTuple):
    """A learner in mid-life on a level, driven by the rule.

    Attributes:
        level: where it lives.
        life: its life.
        rival: the antagonist's life on the same level, as old.
        values: of the states under its policy, see `ValueTable`.
        loss: positive value loss of its last rollouts.
    """

    level: CompiledLevel
    life: Life
    rival: Life
    values: Float[Array, "*pupils states"]
    loss: Float[Array, "*pupils"]


class Meta(NamedTuple):
    """Meta-training at some step: the rule, its optimizer, learners (the oldest first), the teacher's levels, a key."""

    rule: LPG
    optimizer: Any
    pupils: Pupil
    pool: LevelPool
    key: Key[Array, ""]


class Groove(eqx.Module):
    """General RL optimizers obtained via environment design: a learned policy gradient, meta-trained by truncated
    meta-gradients on a few learners at once, each on a level of its own. When a life is over, its level is scored and
    the teacher proposes another one, fresh or kept. With a teacher that never replays it is LPG on random levels.

    The ages of the learners are spread evenly, so that every meta-step sees all of life and the same number of lives
    ends at each. The antagonist lives beside each learner, so its life is no extra work at the end. Lives that were
    under way at the start end early; their levels are not scored.

    Example:
        >>> meta = Groove(PrioritisedReplay(draw, slots=64))
        >>> state = meta.run(meta.init(key), 100)
        >>> rule = meta.at_work(state.rule)

    Attributes:
        teacher: which level comes next; its evidence is the score.
        lives: how learners live.
        regret: weight of algorithmic regret in the score, the rest is that of positive value loss.
        antagonist: of algorithmic regret.
        table: what advantages and value losses come from.
        optimizer: of the rule.
        width, targets: of the rule's GRU and predictions.
        pupils: learners at once, a multiple of `lifetime / updates`.
        updates: of a learner that a meta-gradient looks through.
        lifetime: of a learner in updates.
        rate: step size of learners, see `LPGRule`.
        entropy, prediction_entropy: weights of bonuses for the entropy of a learner's policy and predictions.
        coefficient_l2, target_l2: weights of penalties on the rule's outputs.

    Source: Jackson et al., "Discovering General Reinforcement Learning Algorithms with Adversarial Environment Design"
    (2023), GROOVE; the meta-loss is that of Oh et al., "Discovering reinforcement learning algorithms" (2020), section
    3.3, its four regularisers on the last rollout only (there a mean over all).
    """

    teacher: PrioritisedReplay
    lives: Lives = Lives()
    regret: Scalar = 1.0
    antagonist: UpdateRule = a2c()
    table: ValueTable = ValueTable()
    optimizer: optax.GradientTransformation = eqx.field(
        static=True, default=optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-4))
    )
    width: int = eqx.field(static=True, default=256)
    targets: int = eqx.field(static=True, default=8)
    pupils: int = eqx.field(static=True, default=48)
    updates: int = eqx.field(static=True, default=5)
    lifetime: int = eqx.field(static=True, default=60)
    rate: Scalar = 20.0
    entropy: Scalar = 5e-2
    prediction_entropy: Scalar = 1e-3
    coefficient_l2: Scalar = 5e-3
    target_l2: Scalar = 1e-3

    def __check_init__(self) -> None:
        if self.updates < 1 or self.lifetime < 1 or self.lifetime % self.updates:
            raise UserError(f"lifetime takes a multiple of updates, {self.updates}, got {self.lifetime}.")
        if self.pupils < 1 or self.pupils % (self.lifetime // self.updates):
            raise UserError(
                f"pupils takes a multiple of lifetime / updates, {self.lifetime // self.updates}, got {self.pupils}."
            )

    @property
    def ending(self) -> int:
        """How many lives end at a meta-step."""
        return self.pupils * self.updates // self.lifetime

    def at_work(self, rule: LPG) -> LPGRule:
        """The rule as learners use it."""
        return LPGRule(rule, self.rate, aware=0.0)

    def init(self, key: Key[Array, ""]) -> Meta:
        """A random rule, and learners on random levels."""
        key, weights, pool, levels, lives = jax.random.split(key, 5)
        rule = LPG(self.width, self.targets, key=weights)
        fresh = jax.vmap(self.teacher.draw)(jax.random.split(levels, self.pupils))
        pupils = jax.vmap(self.begin, (None, 0, 0))(rule, fresh, jax.random.split(lives, self.pupils))
        return Meta(
            rule, self.optimizer.init(eqx.filter(rule, eqx.is_inexact_array)), pupils, self.teacher.init(pool), key
        )

    def begin(self, rule: LPG, level: CompiledLevel, key: Key[Array, ""]) -> Pupil:
        """A learner and its rival at the start of a level."""
        own, other = jax.random.split(key)
        life = self.lives.begin(self.at_work(rule), level, own)
        rival = self.lives.begin(self.antagonist, level, other)
        return Pupil(level, life, rival, jnp.zeros(level.states), jnp.zeros(()))

    def unroll(self, rule: LPG, pupil: Pupil) -> tuple[Pupil, Float[Array, ""]]:
        """A learner `updates` later, and what the rule loses by it: for `truncated_meta_gradient`."""
        work, level = self.at_work(rule), pupil.level
        life, values, losses = valued_updates(
            self.lives, work, self.table, level, pupil.life, pupil.values, float(self.lifetime), self.updates
        )
        seen, _ = self.lives.rollout(level, life)
        _, gain = self.table.see(values, seen)
        gain = ((gain - gain.mean()) / (gain.std() + 1e-6)).ravel()
        state, shape = seen.state.ravel(), (*seen.state.shape, -1)
        log = jax.nn.log_softmax(rows(life.tables.policy, state))
        here, there = (jax.nn.log_softmax(rows(life.tables.critic, where.ravel())) for where in (state, seen.after))
        chosen = jnp.sum(log * jax.nn.one_hot(seen.action.ravel(), log.shape[-1]), -1)
        coefficient, target = jax.vmap(rule, (0, 0, 0, 0, 0, None))(
            seen.reward, seen.done, jnp.exp(chosen).reshape(seen.state.shape), jnp.exp(here).reshape(shape),
            jnp.exp(there).reshape(shape), lifetime_inputs(0.0, float(self.lifetime), 0.0),
        )  # fmt: skip
        loss = (
            -jnp.mean(chosen * gain)
            + self.entropy * jnp.mean(jnp.sum(jnp.exp(log) * log, -1))
            + self.prediction_entropy * jnp.mean(jnp.sum(jnp.exp(here) * here, -1))
            + self.coefficient_l2 * jnp.mean(coefficient**2)
            + self.target_l2 * jnp.mean(jnp.sum(target**2, -1))
        )
        return pupil._replace(life=life, values=values, loss=losses.positive.mean()), loss

    def follow(self, pupil: Pupil) -> Pupil:
        """The rival catches up with the learner."""

        def step(rival: Life, _: None) -> tuple[Life, None]:
            return self.lives.advance(self.antagonist, pupil.level, rival, float(self.lifetime))[0], None

        return pupil._replace(rival=jax.lax.scan(step, pupil.rival, None, self.updates)[0])

    def score(self, pupil: Pupil) -> Float[Array, ""]:
        """Of a learner's level at the end of its life; returns are exact."""
        earned, rival = (self.lives.value(pupil.level, life.tables) for life in (pupil.life, pupil.rival))
        return self.regret * algorithmic_regret(rival, earned) + (1 - self.regret) * pupil.loss

    def step(self, state: Meta) -> Meta:
        """One meta-step: the rule is updated, the oldest learners are scored and others take their place."""
        key, pick, live = jax.random.split(state.key, 3)
        gradient, pupils, _ = truncated_meta_gradient(state.rule, self.unroll, state.pupils)
        change, memory = self.optimizer.update(gradient, state.optimizer)
        rule = eqx.apply_updates(state.rule, change)
        pupils = jax.vmap(self.follow)(pupils)
        over, rest = (jax.tree.map(lambda leaf, part=part: leaf[part], pupils) for part in _parts(self.ending))
        # Where lives began at the start of meta-training, they were short.
        whole = over.life.step >= self.lifetime

        def tell(pool: LevelPool, one: tuple[CompiledLevel, Array, Array]) -> tuple[LevelPool, None]:
            level, score, whole = one
            told = self.teacher.update(pool, level, score)
            return jax.tree.map(lambda new, old: jnp.where(whole, new, old), told, pool), None

        pool, _ = jax.lax.scan(tell, state.pool, (over.level, jax.vmap(self.score)(over), whole))
        levels = jax.vmap(self.teacher.propose, (None, 0))(pool, jax.random.split(pick, self.ending))
        fresh = jax.vmap(self.begin, (None, 0, 0))(rule, levels, jax.random.split(live, self.ending))
        pupils = jax.tree.map(lambda old, new: jnp.concatenate([old, new]), rest, fresh)
        return Meta(rule, memory, pupils, pool, key)

    def run(self, state: Meta, steps: int) -> Meta:
        """Several meta-steps."""
        arrays, static = eqx.partition(state, eqx.is_array)

        def body(arrays: Any, _: None) -> tuple[Any, None]:
            return eqx.filter(self.step(eqx.combine(arrays, static)), eqx.is_array), None

        return eqx.combine(jax.lax.scan(body, arrays, None, steps)[0], static)


def _parts(first: int) -> tuple[slice, slice]:
    return slice(None, first), slice(first, None)
