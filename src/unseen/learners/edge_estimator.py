"""How long a policy takes from one state to another, as a distribution: the edges of a graph of checkpoints."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from unseen.lab import UserError
from unseen.learners.q_learning import QLearner, QState, Scalar
from unseen.learners.replay import Transition
from unseen.methods.value_heads import CategoricalHead, Distribution


class Decided(NamedTuple):
    """An observation and what the policy does there, in the place of a batch's `next_observation`."""

    observation: PyTree
    action: Int[Array, " batch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeEstimator(QLearner):
    """Learns the distribution of the number of steps to a goal that is part of the observation: 1 to `longest`, and one
    class for longer and never. Nothing is discounted while it learns; any discount can be read off afterwards.

    It learns either the policy with the fewest expected steps (double Q-learning), or, where the batch's
    `next_observation` is a `Decided`, how long the policy takes that decides so.

    Example:
        >>> estimator = EdgeEstimator(actions=4, longest=16)
        >>> reward, terminal = estimator.pay(arrived, over)          # of a batch's steps, for their goals
        >>> state, loss = estimator.update(state, batch, key)
        >>> steps = estimator.distribution(state.network, observation)[0]     # of each action
        >>> estimator.arrival(steps, 0.95)                                    # E[0.95^T], 0 for never

    Source: Zhao et al. (2024, arXiv 2310.00229): cumulative discount by way of a histogram of distances, learned beside
        a goal-conditioned policy. Theirs has a head for the reward on the way, too; where only the end of a task
        pays, the reward of an edge to it is what is paid times the discount.

    Attributes:
        longest: steps that are told apart from never.
    """

    longest: int = 16

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise UserError(f"longest takes a whole number from 1 on, got {self.longest}.")
        # A return is minus the number of steps, so that everything that learns returns can learn it.
        object.__setattr__(self, "head", CategoricalHead(-(self.longest + 1.0), 0.0, self.longest + 2))
        object.__setattr__(self, "discount", 1.0)
        super().__post_init__()

    def pay(
        self, arrived: Bool[Array, "*batch"], over: Bool[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
        """Reward, and whether nothing follows, of a step with which one has `arrived` at the goal, or with which it is
        `over` without."""
        never = -(self.longest + 1.0)
        return jnp.where(over & ~arrived, never, -1.0), arrived | over

    def arrival(self, steps: Distribution, discount: Scalar) -> Float[Array, "..."]:
        """Expected discount at the arrival, E[discount^T]."""
        taken = -steps.locations
        weight = jnp.where(taken < self.longest + 0.5, jnp.asarray(discount, float) ** taken, 0.0)
        return (weight * steps.probabilities).sum(-1)

    def length(self, steps: Distribution) -> Float[Array, "..."]:
        """Expected steps, where never counts as `longest` + 1."""
        return -steps.mean()

    def targets(self, state: QState, batch: Transition) -> Distribution:
        """Distributions of one step more than from the next state, (batch, members, atoms)."""
        if not isinstance(batch.next_observation, Decided):
            return super().targets(state, batch)
        seen, action = batch.next_observation
        following = jax.vmap(lambda o: self.distribution(state.target, o))(seen)
        taken = jax.nn.one_hot(action, self.actions)[:, None, :, None]
        chosen = Distribution((following.locations * taken).sum(-2), (following.probabilities * taken).sum(-2))
        goes_on = (1.0 - batch.terminal[:, None]) * jnp.ones((1, self.members))
        return chosen.backup(jnp.broadcast_to(batch.reward[:, None], goes_on.shape), goes_on)
