"""Two projections of the return distribution side by side, and a bonus where they disagree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from unseen.lab import UserError
from unseen.learners.q_learning import QLearner, QNetwork, follow, trained
from unseen.learners.replay import Transition
from unseen.methods.value_heads import Distribution, Head, ValueHead, mixture, project_categorical

Scalar = float | Float[Array, ""]


def grid_disagreement(a: Distribution, b: Distribution, low: float, high: float, atoms: int) -> Float[Array, " *batch"]:
    """The 1-Wasserstein distance after both are projected onto even atoms: `wasserstein1` up to the grid's
    resolution for what lies between `low` and `high`, without sorting (as in Zanger et al.'s code)."""
    difference = project_categorical(a, low, high, atoms) - project_categorical(b, low, high, atoms)
    return jnp.abs(jnp.cumsum(difference, -1)[..., :-1]).sum(-1) * (high - low) / (atoms - 1)


@dataclasses.dataclass(frozen=True)
class UncertaintyHead:
    """How much disagreement there is here and on the way from here on, as a value function of its own (Zanger et
    al. 2024, theorem 3 and appendix B.2).

    The network's output is only what is to come; the disagreement here can be computed and is added ("intrinsic
    reward prior"). So an unvisited state has its own disagreement as a bonus before anything is learned.

    Attributes:
        discount: of disagreement; the theorem's modulus of contraction times the discount.
        episodic: nothing follows the end of an episode; else disagreement goes on through it.
    """

    discount: Scalar = 0.99
    episodic: bool = True

    def bonus(self, here: Float[Array, "*batch"], to_come: Float[Array, "*batch"]) -> Float[Array, " *batch"]:
        """The uncertainty of a state and action."""
        return here + to_come

    def target(self, following: Float[Array, " batch"], terminal: Bool[Array, " batch"]) -> Float[Array, " batch"]:
        """What the network should say, from the next state's bonus."""
        return self.discount * jnp.where(terminal & self.episodic, 0.0, following)

    def loss(self, to_come: Float[Array, " batch"], target: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """Half the squared error."""
        return 0.5 * jnp.square(to_come - target)


class EnsembleNetwork(NamedTuple):
    """The networks of a projection ensemble: one for each value head, the one that values disagreement to come, and
    the bonus's weight now (not learned)."""

    heads: tuple[QNetwork, ...]
    uncertainty: QNetwork
    scale: Float[Array, ""]


class EnsembleState(NamedTuple):
    """State of learning: networks, their slowly following targets, optimizer and number of updates."""

    network: EnsembleNetwork
    target: EnsembleNetwork
    optimizer: Any
    updates: Int[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectionEnsemble:
    """PE-DQN (Zanger et al. 2024, section 5): value heads with trunks of their own learn from one target, the
    mixture of both; where they disagree there is a bonus, and a third network values the bonuses to come.

    It has `QLearner`'s interface, so `q_learning` runs it: its action is the best by
    value + scale * (disagreement here + disagreement to come). Two heads of one kind are its control.

    Example:
        >>> heads = QuantileHead(21), CategoricalHead(-1.0, 1.0, 21)
        >>> learner = ProjectionEnsemble(actions=2, heads=heads, low=-1.0, high=1.0)
        >>> run = q_learning(learner, DeepSea(8), total_steps=8_000, every=800, epsilon=0.0)

    Attributes:
        actions: number of actions.
        heads: two; a `QuantileHead` and a `CategoricalHead` for the paper's method.
        low, high, atoms: the grid on which disagreement is measured.
        bonus_scale: weight of the bonus in choosing an action: a number, or a function of the updates so far.
        uncertainty: how disagreement adds up over time.
        discount: of values.
        width, depth, prior_scale, target_rate, target_every, encoder: as in `QLearner`; each head has an encoder and
            a prior of its own, the network of disagreement to come has no prior.
    """

    actions: int
    heads: tuple[Head, ...]
    low: float
    high: float
    atoms: int = 21
    bonus_scale: Scalar | Callable[[Int[Array, ""]], Scalar] = 1.0
    uncertainty: UncertaintyHead = dataclasses.field(default_factory=UncertaintyHead)
    discount: Scalar = 0.99
    width: int = 64
    depth: int = 2
    prior_scale: float = 0.0
    target_rate: float = 0.005
    target_every: int = 1
    encoder: Callable[[Key[Array, ""]], Any] | None = None
    optimizer: optax.GradientTransformation = dataclasses.field(default_factory=lambda: optax.adam(1e-3))

    def __post_init__(self) -> None:
        if not self.low < self.high or self.atoms < 2:
            raise UserError(f"low takes less than high and atoms 2 or more, got {self.low}, {self.high}, {self.atoms}.")
        if len(self.heads) != 2:
            raise UserError(f"heads takes two, got {len(self.heads)}.")
        for head in self.heads:
            self._learner(head)

    @property
    def members(self) -> int:
        """Policies that a lane may follow: one."""
        return 1

    def _learner(self, head: Head, prior_scale: float = 0.0) -> QLearner:
        return QLearner(
            actions=self.actions, head=head, discount=self.discount, width=self.width, depth=self.depth,
            prior_scale=prior_scale, target_rate=self.target_rate, target_every=self.target_every,
            encoder=self.encoder,
        )  # fmt: skip

    def _scale(self, updates: Int[Array, ""]) -> Float[Array, ""]:
        scale = self.bonus_scale(updates) if callable(self.bonus_scale) else self.bonus_scale
        return jnp.asarray(scale, jnp.float32)

    def init(self, key: Key[Array, ""], observation: PyTree) -> EnsembleState:
        """The untrained state; targets equal the networks."""
        first, second, third = jax.random.split(key, 3)
        heads = tuple(
            self._learner(head, self.prior_scale).network(k, observation)
            for head, k in zip(self.heads, (first, second), strict=True)
        )
        updates = jnp.zeros((), int)
        network = EnsembleNetwork(heads, self._learner(ValueHead()).network(third, observation), self._scale(updates))
        return EnsembleState(network, network, self.optimizer.init(eqx.filter(network, _learned(network))), updates)

    def distributions(self, network: EnsembleNetwork, observation: PyTree) -> tuple[Distribution, Distribution]:
        """Each head's distributions of returns, (actions, atoms)."""
        first, second = (
            jax.tree.map(lambda x: x[0], head.distribution(net(observation)))
            for head, net in zip(self.heads, network.heads, strict=True)
        )
        return first, second

    def values(self, network: EnsembleNetwork, observation: PyTree) -> Float[Array, "heads actions"]:
        """Each head's expected returns."""
        return jnp.stack([distribution.mean() for distribution in self.distributions(network, observation)])

    def disagreement(self, network: EnsembleNetwork, observation: PyTree) -> Float[Array, " actions"]:
        """How far the heads' distributions are apart, in units of return."""
        return grid_disagreement(*self.distributions(network, observation), self.low, self.high, self.atoms)

    def bonus(self, network: EnsembleNetwork, observation: PyTree) -> Float[Array, " actions"]:
        """Disagreement, here and to come, without its weight."""
        to_come = network.uncertainty(observation)[0, :, 0]
        return self.uncertainty.bonus(self.disagreement(network, observation), to_come)

    def act(
        self, network: EnsembleNetwork, observation: PyTree, key: Key[Array, ""], epsilon: Scalar = 0.0,
        member: Int[Array, ""] | None = None,
    ) -> Int[Array, ""]:  # fmt: skip
        """The most promising action, bonus included; at random with probability `epsilon`."""
        any_key, whether = jax.random.split(key)
        arbitrary = jax.random.randint(any_key, (), 0, self.actions)
        promise = self.values(network, observation).mean(0) + network.scale * self.bonus(network, observation)
        return jnp.where(jax.random.bernoulli(whether, epsilon), arbitrary, jnp.argmax(promise))

    def greedy(self, network: EnsembleNetwork, observation: PyTree) -> Int[Array, ""]:
        """The best action by the mean of both heads' values, without the bonus."""
        return jnp.argmax(self.values(network, observation).mean(0))

    def targets(self, state: EnsembleState, batch: Transition) -> tuple[Distribution, Float[Array, " batch"]]:
        """The mixture that both heads learn, (batch, atoms), and the value of disagreement to come.

        The learned networks choose the next actions, by value for the mixture and by value and bonus for the
        disagreement; the target networks say what follows (double Q-learning)."""

        def one(observation: PyTree) -> tuple[Distribution, Float[Array, ""]]:
            values, bonus = self.values(state.network, observation).mean(0), self.bonus(state.network, observation)
            best = jax.nn.one_hot(jnp.argmax(values), self.actions)
            both = mixture(*self.distributions(state.target, observation))
            hopeful = jax.nn.one_hot(jnp.argmax(values + state.network.scale * bonus), self.actions)
            here = self.disagreement(state.network, observation)
            later = state.target.uncertainty(observation)[0, :, 0]
            return (
                jax.tree.map(lambda x: best @ x, both),
                hopeful @ self.uncertainty.bonus(here, later),
            )

        following, unsure = jax.vmap(one)(batch.next_observation)
        value = following.backup(batch.reward, self.discount * (1.0 - batch.terminal))
        return value, self.uncertainty.target(unsure, batch.terminal)

    def update(
        self, state: EnsembleState, batch: Transition, key: Key[Array, ""]
    ) -> tuple[EnsembleState, Float[Array, ""]]:
        """One update on a batch; its loss is that before it."""
        target, unsure = jax.tree.map(jax.lax.stop_gradient, self.targets(state, batch))
        learned, rest = eqx.partition(state.network, _learned(state.network))
        taken = jax.nn.one_hot(batch.action, self.actions)[..., None]

        def objective(learned: EnsembleNetwork) -> Float[Array, ""]:
            network = eqx.combine(learned, rest)
            total = jnp.zeros(())
            for head, net in zip(self.heads, network.heads, strict=True):
                outputs = (jax.vmap(net)(batch.observation)[:, 0] * taken).sum(-2)
                total = total + head.loss(outputs, target).mean()
            to_come = (jax.vmap(network.uncertainty)(batch.observation)[:, 0] * taken).sum((-1, -2))
            return total + self.uncertainty.loss(to_come, unsure).mean()

        loss, gradient = jax.value_and_grad(objective)(learned)
        change, optimizer = self.optimizer.update(gradient, state.optimizer, learned)
        count = state.updates + 1
        network = eqx.combine(eqx.apply_updates(learned, change), rest)._replace(scale=self._scale(count))
        rate = jnp.where(count % self.target_every == 0, self.target_rate, 0.0)
        return EnsembleState(network, follow(state.target, network, rate), optimizer, count), loss


def _learned(network: EnsembleNetwork) -> EnsembleNetwork:
    """Where an ensemble's arrays are learned: neither priors nor the bonus's weight."""
    mask = trained((network.heads, network.uncertainty), mask=True)
    return EnsembleNetwork(*mask, scale=False)  # type: ignore[arg-type]
