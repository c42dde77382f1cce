"""Meta-training of update rules on levels: by evolution over whole lives, and by gradients through a few updates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key, PyTree

from unseen.lab import UserError
from unseen.learners.lifetimes import Life, Lives, UpdateRule, after_updates, lifetime_fitness
from unseen.methods.evolution import ESState, EvolutionStrategies
from unseen.methods.learned_objective import truncated_meta_gradient
from unseen.worlds.control.compiled_levels import CompiledLevel


class Evolving(NamedTuple):
    """A `LifetimeEvolution` in its middle."""

    search: ESState
    key: Key[Array, ""]


class Descending(NamedTuple):
    """A `TruncatedDescent` in its middle, with the learners that it lives through."""

    parameters: PyTree
    optimizer: Any
    lives: Life
    level: Int[Array, " learners"]
    key: Key[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LifetimeEvolution:
    """Evolution strategies over update rules, whose fitness is what they are worth at the end of whole lives.

    Every antithetic pair draws a level and luck of its own, the same for both of its members, and lives through one
    of the lifetimes. As the difference between the two is linear in a small perturbation, another pair tells more
    about the gradient than another level for the same pair.

    Example:
        >>> training = LifetimeEvolution(lives=Lives(), levels=levels, rule=DriftRule, horizons=(20, 80),
        ...     search=EvolutionStrategies(pairs=64, optimizer=optax.adam(0.03), shaping=None))
        >>> state = training.advance(training.init(LPO(4, key=key), key), 100)
        >>> drift = training.current(state)

    Attributes:
        lives: how learners live.
        levels: with a leading axis, to draw from.
        rule: parameters (any pytree) -> the update rule that they make.
        horizons: lifetimes, in updates.
        search: with `pairs` a multiple of the number of lifetimes, and better without shaping: returns of different
            levels are not to be ranked.

    Source: Jackson et al. (2024), evolution with pairs on one task (there the return is sampled).
    """

    lives: Lives
    levels: CompiledLevel
    rule: Callable[[Any], UpdateRule]
    horizons: tuple[int, ...]
    search: EvolutionStrategies

    def __post_init__(self) -> None:
        if not self.horizons or min(self.horizons) < 1:
            raise UserError(f"horizons takes lifetimes from 1 update on, got {self.horizons}.")
        if self.search.pairs % len(self.horizons):
            raise UserError(f"pairs takes a multiple of the {len(self.horizons)} lifetimes, got {self.search.pairs}.")

    @property
    def updates(self) -> int:
        """Updates of learners in one generation."""
        return 2 * self.search.pairs * sum(self.horizons) // len(self.horizons)

    def init(self, parameters: PyTree, key: Key[Array, ""]) -> Evolving:
        """Before the first generation."""
        return Evolving(self.search.init(parameters), key)

    def current(self, state: Evolving) -> PyTree:
        """The centre of the search."""
        return state.search.centre

    def advance(self, state: Evolving, generations: int) -> Evolving:
        """So many generations later."""
        return _repeated(self._generation, state, generations)

    def _generation(self, state: Evolving) -> Evolving:
        pairs, groups = self.search.pairs, len(self.horizons)
        count = self.levels.start.shape[0]
        key, ask, pick, live = jax.random.split(state.key, 4)
        noise, population = self.search.ask(ask, state.search)
        members, static = eqx.partition(population, eqx.is_array)

        def grouped(leaf: Array) -> Array:
            """(2, pairs, ...) by lifetime: (groups, 2, pairs of a group, ...)."""
            return jnp.moveaxis(leaf.reshape(2, groups, pairs // groups, *leaf.shape[2:]), 1, 0)

        which = jax.random.randint(pick, (groups, pairs // groups), 0, count)
        luck = jax.random.split(live, (groups, pairs // groups))

        def live_on(group: Any) -> Array:
            members, which, luck, lifetime = group
            level = jax.tree.map(lambda leaf: leaf[which], self.levels)

            def one(member: Any, level: CompiledLevel, luck: Array) -> Array:
                return lifetime_fitness(self.lives, self.rule(eqx.combine(member, static)), level, luck, lifetime)

            pair = jax.vmap(one, (0, None, None))
            return jax.vmap(pair, (1, 0, 0), 1)(members, level, luck)

        values = jax.lax.map(live_on, (jax.tree.map(grouped, members), which, luck, jnp.asarray(self.horizons)))
        values = jnp.moveaxis(values, 0, 1).reshape(2, pairs)
        return Evolving(self.search.tell(state.search, noise, values), key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedDescent:
    """Meta-gradients through a few updates of learners in mid-life, who are born again at the end of their lives.

    Attributes:
        lives, levels, rule, horizons: see `LifetimeEvolution`; learners have the lifetimes in turn.
        optimizer: of the parameters.
        learners: how many at once.
        updates: that a gradient sees; a further rollout tells the loss.
        bonus: weight of the policy's entropy in the loss.

    Source: Oh et al. (2020), section 3.3; Jackson et al. (2023).
    """

    lives: Lives
    levels: CompiledLevel
    rule: Callable[[Any], UpdateRule]
    horizons: tuple[int, ...]
    optimizer: optax.GradientTransformation
    learners: int = 32
    updates: int = 5
    bonus: float = 0.01

    def __post_init__(self) -> None:
        if not self.horizons or min(self.horizons) < 1:
            raise UserError(f"horizons takes lifetimes from 1 update on, got {self.horizons}.")
        for name in ("learners", "updates"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")

    @property
    def lifetimes(self) -> np.ndarray:
        """Of each learner."""
        return np.resize(self.horizons, self.learners)

    def init(self, parameters: PyTree, key: Key[Array, ""]) -> Descending:
        """Before the first step. Lives begin somewhere in their middle, so that all ages are met from then on."""
        pick, live, key = jax.random.split(key, 3)
        which, lives = self._born(parameters, pick, live)
        age = jnp.asarray(np.arange(self.learners) * 7 % self.lifetimes)
        memory = self.optimizer.init(eqx.filter(parameters, eqx.is_inexact_array))
        return Descending(parameters, memory, lives._replace(step=age), which, key)

    def current(self, state: Descending) -> PyTree:
        """The parameters."""
        return state.parameters

    def advance(self, state: Descending, steps: int) -> Descending:
        """So many gradient steps later."""
        return _repeated(self._step, state, steps)

    def _born(self, parameters: PyTree, pick: Array, live: Array) -> tuple[Array, Life]:
        which = jax.random.randint(pick, (self.learners,), 0, self.levels.start.shape[0])
        rule = self.rule(parameters)
        keys = jax.random.split(live, self.learners)
        return which, jax.vmap(lambda level, key: self.lives.begin(rule, level, key))(self._at(which), keys)

    def _at(self, which: Array) -> CompiledLevel:
        return jax.tree.map(lambda leaf: leaf[which], self.levels)

    def _step(self, state: Descending) -> Descending:
        key, pick, live = jax.random.split(state.key, 3)
        lifetime = jnp.asarray(self.lifetimes)

        def unroll(parameters: PyTree, one: tuple[Life, CompiledLevel, Array]) -> tuple[Life, Array]:
            life, level, lifetime = one
            rule = self.rule(parameters)
            return after_updates(self.lives, rule, level, life, lifetime.astype(float), self.updates, self.bonus)

        learners = state.lives, self._at(state.level), lifetime
        gradient, lives, _ = truncated_meta_gradient(state.parameters, unroll, learners)
        change, memory = self.optimizer.update(gradient, state.optimizer)
        parameters = eqx.apply_updates(state.parameters, change)
        which, fresh = self._born(parameters, pick, live)
        over = lives.step >= lifetime

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(over.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return Descending(
            parameters, memory, jax.tree.map(chosen, fresh, lives), jnp.where(over, which, state.level), key
        )


def _repeated(step: Callable[[Any], Any], state: Any, times: int) -> Any:
    """`times` steps as one compiled loop over a state's arrays."""
    arrays, static = eqx.partition(state, eqx.is_array)

    def body(arrays: Any, _: None) -> tuple[Any, None]:
        return eqx.filter(step(eqx.combine(arrays, static)), eqx.is_array), None

    return eqx.combine(jax.lax.scan(body, arrays, None, times)[0], static)
