"""Supervised policies on a log: behaviour cloning under a condition, one implementation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from unseen.lab import Learner
from unseen.methods.temporal_augmentation import TemporalAugmentation
from unseen.worlds.control.dataset import Hindsight, OfflineDataset

# (observation, condition) of one step -> the policy's feature vector
Inputs = Callable[[Any, Any], Float[Array, " features"]]
Count = int | Int[Array, ""]


class CloningBatch(NamedTuple):
    """What a policy is asked to imitate.

    Attributes:
        inputs: features of observation and condition.
        action: numbers (Gaussian head) or an index (categorical head).
        weight: of each example in the loss.
    """

    inputs: Float[Array, "batch features"]
    action: Shaped[Array, "batch ..."]
    weight: Float[Array, " batch"]


class Training(NamedTuple):
    """State of training: the model, its optimizer's state, the stream of randomness, mean loss of the last
    round."""

    model: Any
    optimizer: Any
    key: PRNGKeyArray
    loss: Float[Array, ""]


def negative_log_likelihood(policy: Any, batch: CloningBatch) -> Float[Array, ""]:
    """Weighted mean of -log pi(action | inputs)."""
    return -jnp.mean(batch.weight * jax.vmap(policy.log_prob)(batch.inputs, batch.action))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutcomeBC:
    """Supervised policies a = pi(s, c) on a log.

    What is cloned is the sampler's business: `goal_conditioned` (GCSL, RvS), `return_conditioned`, plain or
    top-fraction cloning (`cloned` with `top_fraction`), exponential-advantage weights
    (`advantage_weights`). The head is the policy's.

    Sources: Ghosh et al. (2021, arXiv 1912.06088); Emmons et al. (2022, arXiv 2112.10751).

    Example:
        >>> sample = goal_conditioned(log, 128, inputs)
        >>> bc = OutcomeBC(model=lambda key: GaussianPolicy(4, 2, key=key), sample=sample)
        >>> bc.learner(steps=8_000, every=1_000, final=lambda policy, key: {"success": ...})

    Attributes:
        model: key -> policy.
        sample: key -> batch.
        optimizer: an optax transformation.
        loss: (policy, batch) -> scalar.
    """

    model: Callable[[PRNGKeyArray], Any]
    sample: Callable[[PRNGKeyArray], Any]
    optimizer: optax.GradientTransformation = dataclasses.field(default_factory=lambda: optax.adam(3e-4))
    loss: Callable[[Any, Any], Float[Array, ""]] = negative_log_likelihood

    def init(self, key: PRNGKeyArray) -> Training:
        """The untrained state."""
        of_model, stream = jax.random.split(key)
        model = self.model(of_model)
        return Training(model, self.optimizer.init(eqx.filter(model, eqx.is_inexact_array)), stream, jnp.zeros(()))

    def train(self, state: Training, steps: int) -> Training:
        """`steps` updates."""
        key, stream = jax.random.split(state.key)
        learned, fixed = eqx.partition(state.model, eqx.is_inexact_array)

        def update(carry: tuple[Any, Any], key: PRNGKeyArray) -> tuple[tuple[Any, Any], Float[Array, ""]]:
            learned, optimizer = carry
            batch = self.sample(key)
            loss, gradient = jax.value_and_grad(lambda p: self.loss(eqx.combine(p, fixed), batch))(learned)
            change, optimizer = self.optimizer.update(gradient, optimizer, learned)
            return (optax.apply_updates(learned, change), optimizer), loss

        (learned, optimizer), losses = jax.lax.scan(update, (learned, state.optimizer), jax.random.split(stream, steps))
        return Training(eqx.combine(learned, fixed), optimizer, key, losses.mean())

    def learner(
        self,
        *,
        steps: int,
        every: int,
        final: Callable[[Any, PRNGKeyArray], Any],
        loss: str = "loss",
        **more: Any,
    ) -> Learner:
        """The Learner: measures the training loss under the name `loss`, and `final(policy, key)` at the end.

        The key that `final` gets is the seed's own stream, the same under every condition that has drawn as
        often from it.
        """
        return Learner(
            init=self.init,
            advance=lambda state: self.train(state, every),
            measure=lambda state: {loss: state.loss},
            final=lambda state: final(state.model, state.key),
            steps=steps,
            every=every,
            **more,
        )


class SegmentBatch(NamedTuple):
    """What a sequence model is asked to imitate.

    Attributes:
        valid: steps that count in the loss; padding otherwise.
    """

    condition: Float[Array, "batch length condition"]
    observation: Float[Array, "batch length observation"]
    action: Float[Array, "batch length action"]
    valid: Bool[Array, "batch length"]


def squared_error(model: Any, batch: SegmentBatch) -> Float[Array, ""]:
    """Mean squared error of the predicted actions, over the valid steps."""
    predicted = jax.vmap(model)(batch.condition, batch.observation, batch.action)
    error = jnp.mean((predicted - batch.action) ** 2, axis=-1)
    return jnp.sum(jnp.where(batch.valid, error, 0.0)) / jnp.sum(batch.valid)


# What is cloned ---------------------------------------------------------------------------------------------


def goal_conditioned(
    log: OfflineDataset,
    batch: int,
    inputs: Inputs,
    *,
    how: Hindsight = "uniform",
    discount: float = 0.99,
    limit: Count | None = None,
    augmentation: TemporalAugmentation | None = None,
    probability: float | Float[Array, ""] = 0.5,
) -> Callable[[PRNGKeyArray], CloningBatch]:
    """Sampler of goal-conditioned cloning: the condition is a later state of the same trajectory, or where
    the augmentation swaps it, one of another trajectory."""

    def sample(key: PRNGKeyArray) -> CloningBatch:
        of_step, of_goal, of_swap = jax.random.split(key, 3)
        steps = log.transitions(of_step, batch, limit=limit)
        place = log.hindsight(of_goal, steps.episode, steps.time, how=how, discount=discount, limit=limit)
        if augmentation is not None:
            place = augmentation(of_swap, *place, probability=probability, limit=limit)
        return CloningBatch(jax.vmap(inputs)(steps.observation, log.at(*place)), steps.action, jnp.ones(batch))

    return sample


def return_conditioned(
    log: OfflineDataset, batch: int, inputs: Inputs, *, discount: float = 1.0, limit: Count | None = None
) -> Callable[[PRNGKeyArray], CloningBatch]:
    """Sampler of return-conditioned cloning: the condition is the return to go, a scalar."""
    returns = log.returns_to_go(discount)

    def sample(key: PRNGKeyArray) -> CloningBatch:
        steps = log.transitions(key, batch, limit=limit)
        return CloningBatch(
            jax.vmap(inputs)(steps.observation, returns[steps.episode, steps.time]),
            steps.action,
            jnp.ones(batch),
        )

    return sample


def cloned(
    log: OfflineDataset,
    batch: int,
    inputs: Callable[[Any], Float[Array, " features"]],
    *,
    weights: Float[Array, "episode time"] | None = None,
    limit: Count | None = None,
) -> Callable[[PRNGKeyArray], CloningBatch]:
    """Sampler of unconditional cloning, each step with its weight (see `top_fraction`,
    `advantage_weights`)."""

    def sample(key: PRNGKeyArray) -> CloningBatch:
        steps = log.transitions(key, batch, limit=limit)
        weight = jnp.ones(batch) if weights is None else weights[steps.episode, steps.time]
        return CloningBatch(jax.vmap(inputs)(steps.observation), steps.action, weight)

    return sample


def top_fraction(log: OfflineDataset, fraction: float) -> Float[Array, "episode time"]:
    """Weight 1 for the steps of the episodes with the highest returns (at least `fraction` of them, ties
    in), 0 for the others."""
    returns = log.returns_to_go()[:, 0]
    bar = jnp.sort(returns)[-max(1, round(fraction * len(returns)))]
    return jnp.broadcast_to((returns >= bar)[:, None].astype(float), log.reward.shape)


def advantage_weights(advantage: Float[Array, "..."], temperature: float, clip: float = 100.0) -> Float[Array, "..."]:
    """min(exp(temperature * advantage), clip).

    Source: Peng et al. (2019, arXiv 1910.00177), equation 3 and section 4.2, with the inverse temperature of
    Kostrikov et al. (2022, arXiv 2110.06169), equation 7.
    """
    return jnp.minimum(jnp.exp(temperature * advantage), clip)


def goal_segments(
    log: OfflineDataset,
    batch: int,
    length: int,
    *,
    observe: Callable[[Any], Float[Array, " observation"]] = lambda observation: observation,
    condition: Callable[[Any], Float[Array, " condition"]] = lambda goal: goal,
    limit: Count | None = None,
    augmentation: TemporalAugmentation | None = None,
    probability: float | Float[Array, ""] = 0.5,
) -> Callable[[PRNGKeyArray], SegmentBatch]:
    """Sampler of segments with a goal, the goal uniform over the states of the episode after the segment.

    Where the augmentation swaps, a turning point is drawn uniformly from the states after the segment's
    start; from there on the segment follows the trajectory of a waypoint in the turning point's cluster, and
    the goal is a later state of that one.

    Source: Ghugare et al. (2024), the sequence version of their repository.
    """

    def between(key: PRNGKeyArray, low: Array, high: Array) -> Array:
        return low + jnp.floor(jax.random.uniform(key, low.shape) * (high - low + 1)).astype(int)

    def sample(key: PRNGKeyArray) -> SegmentBatch:
        of_step, of_goal, of_turn, of_waypoint, of_coin = jax.random.split(key, 5)
        steps = log.transitions(of_step, batch, limit=limit)
        # Steps before `turn` are the episode's own; those from it on follow `other` from its state `resumed`
        # on.
        turn, other, resumed = steps.time, steps.episode, steps.time
        if augmentation is not None:
            swap = jax.random.uniform(of_coin, (batch,)) < probability
            drawn = between(of_turn, steps.time + 1, log.length[steps.episode])
            waypoint = augmentation.waypoint(of_waypoint, steps.episode, drawn, limit=limit)
            turn = jnp.where(swap, drawn, turn)
            other = jnp.where(swap, waypoint[0], other)
            resumed = jnp.where(swap, waypoint[1], resumed)
        wanted = steps.time[:, None] + jnp.arange(length)
        turned = wanted >= turn[:, None]
        episode = jnp.where(turned, other[:, None], steps.episode[:, None])
        time = jnp.where(turned, wanted + (resumed - turn)[:, None], wanted)
        valid = time < log.length[episode]
        time = jnp.minimum(time, log.length[episode] - 1)
        last = log.length[other]
        first = resumed + jnp.maximum(steps.time + length - turn, 0)
        goal = between(of_goal, jnp.minimum(first, last), last)
        conditions = jax.vmap(condition)(log.at(other, goal))
        return SegmentBatch(
            jnp.repeat(conditions[:, None], length, axis=1),
            jax.vmap(jax.vmap(observe))(log.observation[episode, time]),
            log.action[episode, time],
            valid,
        )

    return sample
