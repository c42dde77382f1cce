"""Evolution strategies: search directions from the fitness of randomly perturbed parameters."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from unseen.lab import UserError

Shaping = Callable[[Float[Array, " samples"]], Float[Array, " samples"]]


def centred_ranks(fitness: Float[Array, " samples"]) -> Float[Array, " samples"]:
    """Ranks of fitness, evenly in [-0.5, 0.5]: worst -0.5, best 0.5; ties share their mean rank and NaN is worst
    (Salimans et al. 2017, section 2, after Wierstra et al. 2014)."""
    known = jnp.where(jnp.isnan(fitness), -jnp.inf, fitness)
    return (jax.scipy.stats.rankdata(known) - 1) / (fitness.shape[0] - 1) - 0.5


def standardised(fitness: Float[Array, " samples"]) -> Float[Array, " samples"]:
    """Fitness minus its mean, over its standard deviation; all zero where all are alike."""
    spread = fitness.std()
    return (fitness - fitness.mean()) / jnp.where(spread > 0, spread, 1.0)


class ESState(NamedTuple):
    """State of a search: the centre of the search distribution (with a leading axis where there are several),
    and the optimizer's state."""

    centre: PyTree
    optimizer: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvolutionStrategies:
    """Antithetic Gaussian search over any parameter pytree (Salimans et al. 2017, algorithm 1).

    `ask` gives perturbed parameters with two leading axes, (2, pairs): at `[0, i]` the centre plus noise i, at
    `[1, i]` the centre minus the same noise. `tell` takes the fitness of each, larger is better, and moves the
    centre up the estimated gradient of the smoothed fitness E f(centre + sigma * noise).

    With `centres`, several searches run jointly: every leaf has a leading axis of that many centres, `ask` gives
    leaves (2, pairs, centres, ...), and perturbation i of one centre meets perturbation i of every other. Fitness
    then is (2, pairs, centres), so that a centre's fitness may depend on the others (`DvD`).

    Example:
        >>> search = EvolutionStrategies(pairs=50, sigma=0.1, optimizer=optax.adam(0.05))
        >>> state = search.init({"x": jnp.ones(3)})
        >>> noise, population = search.ask(jax.random.key(0), state)
        >>> fitness = -jnp.square(population["x"]).sum(-1)
        >>> state = search.tell(state, noise, fitness)

    Attributes:
        pairs: antithetic pairs an update, for each centre.
        sigma: standard deviation of the perturbations, in the parameters' own unit.
        optimizer: applied to the estimated gradient (of the loss, that is minus the fitness).
        shaping: fitness of the 2 * pairs samples of a centre -> what the estimate weighs them by; None takes
            the fitness as it is, which makes the estimate unbiased.
        centres: how many centres are optimised jointly; None for one, without an axis of its own.
    """

    pairs: int = 40
    sigma: float | Float[Array, ""] = 0.1
    optimizer: optax.GradientTransformation = dataclasses.field(default_factory=lambda: optax.adam(0.05))
    shaping: Shaping | None = centred_ranks
    centres: int | None = None

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise UserError(f"pairs takes a whole number from 1 on, got {self.pairs}.")
        if isinstance(self.sigma, float | int) and self.sigma <= 0:
            raise UserError(f"sigma takes a number above 0, got {self.sigma}.")
        if self.centres is not None and self.centres < 1:
            raise UserError(f"centres takes None or a whole number from 1 on, got {self.centres}.")

    def init(self, parameters: PyTree) -> ESState:
        """The search at its start. Leaves that are no floating arrays are kept as they are and not searched.

        Raises:
            UserError: with `centres`, if a leaf's first axis is not of that length.
        """
        for leaf in jax.tree.leaves(eqx.filter(parameters, eqx.is_inexact_array)):
            if self.centres is not None and leaf.shape[:1] != (self.centres,):
                raise UserError(f"centres takes the length of every leaf's first axis, got {self.centres} and a leaf "
                                f"of shape {leaf.shape}.")  # fmt: skip
        return ESState(parameters, self.optimizer.init(eqx.filter(parameters, eqx.is_inexact_array)))

    def ask(self, key: Key[Array, ""], state: ESState) -> tuple[PyTree, PyTree]:
        """Noise, leaves (pairs, ...), and the population that it makes, leaves (2, pairs, ...)."""
        searched, rest = eqx.partition(state.centre, eqx.is_inexact_array)
        leaves, structure = jax.tree.flatten(searched)
        # One draw for all leaves: a generator for each would multiply the time to compile.
        drawn = jax.random.normal(key, (self.pairs, sum(leaf.size for leaf in leaves)))
        parts = jnp.split(drawn, list(itertools.accumulate(leaf.size for leaf in leaves))[:-1], axis=1)
        noise = jax.tree.unflatten(
            structure,
            [
                part.reshape(self.pairs, *leaf.shape).astype(leaf.dtype)
                for part, leaf in zip(parts, leaves, strict=True)
            ],
        )
        population = jax.tree.map(
            lambda centre, eps: jnp.stack([centre + self.sigma * eps, centre - self.sigma * eps]), searched, noise
        )
        return noise, eqx.combine(population, rest)

    def gradient(self, noise: PyTree, fitness: Float[Array, "2 pairs ..."]) -> PyTree:
        """Estimated gradient of the smoothed fitness: mean over pairs of (f+ - f-) / (2 sigma) times the noise.

        Args:
            noise: from `ask`.
            fitness: (2, pairs), or (2, pairs, centres).
        """
        shaped = fitness
        if self.shaping is not None:
            flat = fitness.reshape(2 * self.pairs, -1)
            shaped = jax.vmap(self.shaping, 1, 1)(flat).reshape(fitness.shape)
        half = (shaped[0] - shaped[1]) / (2 * self.sigma * self.pairs)

        def weighed(eps: Array) -> Array:
            if self.centres is None:
                return jnp.tensordot(half, eps, 1)
            return jnp.einsum("pc,pc...->c...", half, eps)

        return jax.tree.map(weighed, noise)

    def tell(self, state: ESState, noise: PyTree, fitness: Float[Array, "2 pairs ..."]) -> ESState:
        """The search after one update."""
        loss_gradient = jax.tree.map(jnp.negative, self.gradient(noise, fitness))
        searched, rest = eqx.partition(state.centre, eqx.is_inexact_array)
        updates, optimizer = self.optimizer.update(loss_gradient, state.optimizer, searched)
        return ESState(eqx.combine(optax.apply_updates(searched, updates), rest), optimizer)
