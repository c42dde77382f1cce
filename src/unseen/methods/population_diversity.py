"""Populations that are pushed apart: behaviours, diversity scores and the weight that they get."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from unseen.lab import UserError
from unseen.methods.evolution import ESState, EvolutionStrategies, standardised

Diversity = Callable[[Float[Array, "members numbers"]], Float[Array, " members"]]


class BehaviorEmbedding(eqx.Module):
    """A policy as its actions on probe states, end to end (Parker-Holder et al. 2020, section 3.2).

    Attributes:
        probes: observations on which every policy is asked.
    """

    probes: Float[Array, "probes obs"]

    def __call__(self, policy: Callable[[Array], Array]) -> Float[Array, " numbers"]:
        """The embedding of one policy, `probes` times the size of an action long."""
        return jax.vmap(policy)(self.probes).ravel()


def behaviour_kernel(embeddings: Float[Array, "members numbers"]) -> Float[Array, "members members"]:
    """Squared-exponential kernel exp(-mean squared difference): 1 on the diagonal."""
    squared = jnp.square(embeddings[:, None] - embeddings[None]).mean(-1)
    return jnp.exp(-squared)


def log_volume(embeddings: Float[Array, "members numbers"], jitter: float = 1e-4) -> Float[Array, ""]:
    """Log-determinant of the kernel: 0 if no two members are alike at all, falling without bound (but for the
    jitter on the diagonal) as any member becomes redundant given the others (equation 4)."""
    kernel = behaviour_kernel(embeddings) + jitter * jnp.eye(len(embeddings))

    def eliminate(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rest, total = carry
        row = rest[i]
        return rest - jnp.outer(row, row) / row[i], total + jnp.log(row[i])

    # Gaussian elimination in a loop: batched over perturbations it stays elementwise, whereas LAPACK would be
    # called once a matrix.
    return jax.lax.fori_loop(0, len(embeddings), eliminate, (kernel, jnp.zeros(())))[1]


def mean_distance(embeddings: Float[Array, "members numbers"]) -> Float[Array, " members"]:
    """Mean distance of each member to the others (root of the mean squared difference)."""
    squared = jnp.square(embeddings[:, None] - embeddings[None]).mean(-1)
    return jnp.sqrt(squared).sum(1) / (len(embeddings) - 1)


@dataclasses.dataclass(frozen=True)
class NoveltySearchES:
    """Evolution strategies whose members seek reward and distance from each other (after Conti et al. 2018).

    Every member's fitness is (1 - weight) * return + weight * its mean distance to the others, both standardised
    over the perturbations of an update, as in Parker-Holder et al.'s code.

    Attributes:
        search: the joint search, with one centre a member and without shaping of its own.
    """

    search: EvolutionStrategies

    def __post_init__(self) -> None:
        if self.search.centres is None or self.search.centres < 2 or self.search.shaping is not None:
            raise UserError("search takes EvolutionStrategies with 2 centres or more and shaping=None.")

    def diversity(self, embeddings: Float[Array, "members numbers"]) -> Float[Array, " members"]:
        """What is rewarded of the behaviours, one number a member."""
        return mean_distance(embeddings)

    def fitness(
        self,
        returns: Float[Array, "2 pairs members"],
        embeddings: Float[Array, "2 pairs members numbers"],
        weight: float | Float[Array, ""],
    ) -> Float[Array, "2 pairs members"]:
        """The mixed fitness of a joint population; weight 0 is reward alone, 1 diversity alone."""
        apart = jax.vmap(jax.vmap(self.diversity))(embeddings)
        return (1 - weight) * self._shaped(returns) + weight * self._shaped(apart)

    def update(
        self,
        key: Key[Array, ""],
        state: ESState,
        evaluate: Callable[[PyTree], tuple[Float[Array, ""], Float[Array, " numbers"]]],
        weight: float | Float[Array, ""],
    ) -> ESState:
        """One joint update.

        Args:
            evaluate: parameters of one policy -> return, behaviour embedding.
            weight: of diversity.
        """
        noise, population = self.search.ask(key, state)
        arrays, static = eqx.partition(population, eqx.is_array)
        lanes = jax.vmap(jax.vmap(jax.vmap(lambda policy: evaluate(eqx.combine(policy, static)))))
        returns, embeddings = lanes(arrays)
        return self.search.tell(state, noise, self.fitness(returns, embeddings, weight))

    @staticmethod
    def _shaped(values: Float[Array, "2 pairs members"]) -> Float[Array, "2 pairs members"]:
        flat = values.reshape(-1, values.shape[-1])
        return jax.vmap(standardised, 1, 1)(flat).reshape(values.shape)


@dataclasses.dataclass(frozen=True)
class DvD(NoveltySearchES):
    """Diversity via determinants: all members share one diversity score, the log-volume that their behaviours
    span (Parker-Holder et al. 2020, section 4.1, equations 7 and 8). The weight may come from `ThompsonWeight`.

    Example:
        >>> search = EvolutionStrategies(pairs=40, sigma=0.1, centres=5, shaping=None)
        >>> state = DvD(search).update(key, state, lambda policy: (ret(policy), embedding(policy)), weight=0.5)
    """

    def diversity(self, embeddings: Float[Array, "members numbers"]) -> Float[Array, " members"]:
        """The population's log-volume, the same for every member."""
        return jnp.broadcast_to(log_volume(embeddings), len(embeddings))


class BanditState(NamedTuple):
    """What a `ThompsonWeight` remembers: the arm in use, the last choices and whether they helped (a ring, -1 where
    there was none yet), the last returns, and the number of updates."""

    arm: Int[Array, ""]
    arms: Int[Array, " window"]
    helped: Bool[Array, " window"]
    returns: Float[Array, " back"]
    count: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class ThompsonWeight:
    """A Bernoulli bandit over diversity weights, by Thompson sampling with Beta(1, 1) priors.

    An arm has helped if the return after the update that used it is above the best of the `back` returns before
    (Parker-Holder et al. 2020, section 4.2; `back`, `window` and the number of arbitrary first choices are those
    of their code). Only the last `window` updates count, so that the choice follows the phase of training.

    Attributes:
        weights: the arms.
        window: updates that count.
        back: returns with which a new one is compared; also the number of first choices made at random.
    """

    weights: tuple[float, ...] = (0.0, 0.5)
    window: int = 50
    back: int = 5

    def __post_init__(self) -> None:
        if len(self.weights) < 2 or not all(0 <= weight <= 1 for weight in self.weights):
            raise UserError(f"weights takes two numbers or more in [0, 1], got {self.weights}.")
        for name in ("window", "back"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")

    def init(self, mean_return: Float[Array, ""]) -> BanditState:
        """Before the first update, with the return at the start; the first arm is in use."""
        return BanditState(
            jnp.zeros((), int), jnp.full(self.window, -1), jnp.zeros(self.window, bool),
            jnp.full(self.back, -jnp.inf).at[0].set(mean_return), jnp.zeros((), int),
        )  # fmt: skip

    def weight(self, state: BanditState) -> Float[Array, ""]:
        """The weight to use in the next update."""
        return jnp.asarray(self.weights)[state.arm]

    def beta(self, state: BanditState) -> tuple[Float[Array, " arms"], Float[Array, " arms"]]:
        """Both parameters of every arm's posterior."""
        chosen = state.arms == jnp.arange(len(self.weights))[:, None]
        return 1.0 + (chosen & state.helped).sum(1), 1.0 + (chosen & ~state.helped).sum(1)

    def observe(self, key: Key[Array, ""], state: BanditState, mean_return: Float[Array, ""]) -> BanditState:
        """After an update with the current weight: whether it helped, and which arm is next."""
        sample_key, any_key = jax.random.split(key)
        slot = state.count % self.window
        state = state._replace(
            arms=state.arms.at[slot].set(state.arm),
            helped=state.helped.at[slot].set(mean_return > state.returns.max()),
            returns=jnp.roll(state.returns, 1).at[0].set(mean_return),
            count=state.count + 1,
        )
        draws = jax.random.beta(sample_key, *self.beta(state))
        arbitrary = jax.random.randint(any_key, (), 0, len(self.weights))
        return state._replace(arm=jnp.where(state.count < self.back, arbitrary, jnp.argmax(draws)))
