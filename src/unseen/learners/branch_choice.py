"""Model-free learning of bets: success or failure of one's own choices is all that is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.models.goal_counter import GoalConditionedCounter
from unseen.worlds.control.composite_goals import AT_MOST, MORE, CompositeGoal, branch_success


class BranchGame(NamedTuple):
    """A process as a learner of bets meets it: triples to bet on and how often each bet is won.

    Attributes:
        transition: the process.
        triples: (state, action, outcome) of the transitions that are bet on.
        at_most: probability that the outcome follows at most k times, by triple, place of the depth, and k.
    """

    transition: Float[Array, "states actions states"]
    triples: Int[Array, "triples 3"]
    at_most: Float[Array, "triples depths k"]

    @classmethod
    def of(
        cls, transition: Float[Array, "states actions states"], triples: Int[Array, "triples 3"], depths: Sequence[int]
    ) -> BranchGame:
        """The game at some depths; k runs to the largest."""
        k = jnp.arange(max(depths) + 1)
        p = transition[tuple(triples.T)]
        shape = (len(p), len(depths), len(k))
        tails = branch_success(
            jnp.broadcast_to(p[:, None, None], shape),
            jnp.broadcast_to(k, shape),
            jnp.broadcast_to(jnp.asarray(depths)[:, None], shape),
        )
        return cls(transition, triples, tails[..., AT_MOST])


class BranchLearning(NamedTuple):
    """A network that learns to bet."""

    model: GoalConditionedCounter
    moments: optax.OptState
    key: PRNGKeyArray


class BranchChoice(NamedTuple):
    """Learns by success and failure of its own bets, as a contextual bandit.

    A goal is drawn (a triple, a depth up to `deepest`, k below it), a branch chosen (the likelier by the network's
    own account, or with probability `explore` any), the bet won or lost with the branch's true probability, and the
    chosen branch's logit fitted to that outcome by cross-entropy. The other branch's outcome is never seen.

    Attributes:
        depths: the depths that exist, ascending.
        batch_size: bets in one update.
        optimizer: an optax optimizer.
        explore: share of bets on a random branch.
    """

    depths: tuple[int, ...]
    batch_size: int
    optimizer: optax.GradientTransformation
    explore: float = 0.2

    def init(self, model: GoalConditionedCounter, key: PRNGKeyArray) -> BranchLearning:
        """Before the first bet."""
        return BranchLearning(model, self.optimizer.init(eqx.filter(model, eqx.is_inexact_array)), key)

    def advance(
        self, run: BranchLearning, game: BranchGame, updates: int, deepest: int | Int[Array, ""]
    ) -> BranchLearning:
        """`updates` further batches of bets at depths up to `deepest` (a value, may be traced)."""
        depths = jnp.asarray(self.depths)
        open_depths = jnp.sum(depths <= deepest)

        def update(run: BranchLearning, _: None) -> tuple[BranchLearning, None]:
            key, *keys = jax.random.split(run.key, 6)
            size = (self.batch_size,)
            which = jax.random.randint(keys[0], size, 0, len(game.triples))
            place = jnp.floor(jax.random.uniform(keys[1], size) * open_depths).astype(int)
            depth = depths[place]
            k = jnp.minimum(jnp.floor(jax.random.uniform(keys[2], size) * depth).astype(int), depth - 1)
            state, action, outcome = game.triples[which].T
            at_most = game.at_most[which, place, k]
            stray, luck = jax.random.uniform(keys[3], (2, *size))
            coin = jax.random.bernoulli(keys[4], 0.5, size)

            def loss(model: GoalConditionedCounter) -> Array:
                logits = model(state, action, outcome, k, depth)
                branch = jnp.where(stray < self.explore, coin, logits[:, MORE] > logits[:, AT_MOST])
                won = luck < jnp.where(branch, 1 - at_most, at_most)
                logit = jnp.where(branch, logits[:, MORE], logits[:, AT_MOST])
                return optax.sigmoid_binary_cross_entropy(logit, won.astype(logit.dtype)).mean()

            gradient = eqx.filter_grad(loss)(run.model)
            step, moments = self.optimizer.update(gradient, run.moments)
            return BranchLearning(eqx.apply_updates(run.model, step), moments, key), None

        dynamic, static = eqx.partition(run, eqx.is_array)
        dynamic, _ = jax.lax.scan(
            lambda d, x: (eqx.filter(update(eqx.combine(d, static), x)[0], eqx.is_array), None), dynamic, length=updates
        )
        return eqx.combine(dynamic, static)


def branch_policy(model: GoalConditionedCounter) -> Callable[[CompositeGoal], Bool[Array, "*goals"]]:
    """A network's bets: whether "at most" is chosen."""

    def policy(goal: CompositeGoal) -> Bool[Array, "*goals"]:
        logits = model(goal.state, goal.action, goal.outcome, goal.at_most, goal.depth)
        return logits[..., AT_MOST] >= logits[..., MORE]

    return policy
