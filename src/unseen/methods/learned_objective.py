"""Meta-learned update rules: learned policy gradients (LPG) and learned policy optimisation (LPO), which may know how
much of a learner's life has passed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

Scalar = float | int | Float[Array, ""]

FARTHEST = 4.0  # ratios beyond exp(+-4) count as exp(+-4): their squares stay finite


def lifetime_inputs(step: Scalar, lifetime: Scalar, aware: Scalar = 1.0, reference: Scalar = 1.0) -> Float[Array, "2"]:
    """What a temporally-aware rule knows of time: the fraction n/N of the lifetime and log N; zeros for a blind one.

    Args:
        step: updates so far, n.
        lifetime: updates in all, N.
        aware: 1, or 0 for a blind rule (traceable, so that both run in one program).
        reference: unit of N: log(N / reference) is small where lifetimes are near it.

    Source: Jackson et al., "Discovering temporally-aware reinforcement learning algorithms" (2024), inputs of time.
    """
    step, lifetime = jnp.asarray(step, float), jnp.asarray(lifetime, float)
    return aware * jnp.stack([step / lifetime, jnp.log(lifetime / reference)])


# Drifts ---------------------------------------------------------------------------------------------------------


def ppo_clip_drift(
    ratio: Float[Array, "*n"], advantage: Float[Array, "*n"], epsilon: Scalar = 0.2
) -> Float[Array, "*n"]:
    """PPO's clipping as a drift: `max(0, (r - clip(r, 1 - epsilon, 1 + epsilon)) A)`, so that `r A` minus the drift is
    the clipped surrogate of Schulman et al. (2017) (Lu et al. 2022)."""
    return jax.nn.relu((ratio - jnp.clip(ratio, 1 - epsilon, 1 + epsilon)) * advantage)


class LPO(eqx.Module):
    """A learned drift: what is taken off the surrogate `r A` for moving the policy by the ratio r at advantage A.

    `f = relu(network(x, when_1 x, when_2 x) - xi - |margin A|)` with x eight functions of r and A that vanish at r = 1.
    The network has no biases and an activation that is 0 at 0, so f is nowhere negative and zero with zero gradient at
    r = 1, whatever the weights: a drift in the sense of mirror learning. Times enter as products with x, which keeps
    it so. `margin` is not in the source (there it is 0); with it PPO's clip is one of the drifts: network (r - 1) A,
    margin epsilon.

    Example:
        >>> rule = LPO(key=jax.random.key(0))
        >>> penalty = rule(ratio, advantage, lifetime_inputs(step, lifetime))

    Attributes:
        first: weights of the first layer, for x and its products with the two times.
        rest: the other layers.
        margin: width of the region without drift, in advantages.
        activation: of the first layer.
        xi: keeps the drift off at r = 1.

    Source: Lu et al., "Discovered policy optimisation" (2022), the learned drift; times: Jackson et al. (2024).
    """

    first: Float[Array, "times width features"]
    rest: eqx.nn.MLP
    margin: Float[Array, ""]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    xi: float = eqx.field(static=True, default=1e-6)

    def __init__(
        self, width: int = 32, depth: int = 2, activation: Callable[[Array], Array] = jnp.tanh, *,
        key: Key[Array, ""], margin: float = 0.0,
    ):  # fmt: skip
        """Random weights, uniform within one over the root of a layer's inputs.

        Args:
            width, depth: of the hidden layers.
            activation: 0 at 0.
            key: for the weights.
            margin: its first value.
        """
        first, rest = jax.random.split(key)
        bound = 24**-0.5
        self.first = jax.random.uniform(first, (3, width, 8), minval=-bound, maxval=bound)
        self.rest = eqx.nn.MLP(
            width, "scalar", width, depth - 1, activation, use_bias=False, use_final_bias=False, key=rest
        )
        self.margin = jnp.asarray(margin, float)
        self.activation = activation

    @staticmethod
    def features(ratio: Float[Array, ""], advantage: Float[Array, ""]) -> Float[Array, "8"]:
        """Functions of ratio and advantage, all 0 at ratio 1."""
        log = jnp.clip(jnp.log(ratio), -FARTHEST, FARTHEST)
        near = 1 - jnp.exp(log)
        terms = jnp.stack([near, near**2, log, log**2])
        return jnp.concatenate([terms, terms * advantage])

    def __call__(
        self, ratio: Float[Array, ""], advantage: Float[Array, ""], when: Float[Array, "2"]
    ) -> Float[Array, ""]:
        """The drift of one sample (vmap for many).

        Args:
            ratio: probability of the action now over that when it was taken.
            advantage: of the action.
            when: from `lifetime_inputs`.
        """
        # The times are the same for a whole rollout: under vmap these weights are made once.
        weights = self.first[0] + when[0] * self.first[1] + when[1] * self.first[2]
        score = self.rest(self.activation(weights @ self.features(ratio, advantage)))
        return jax.nn.relu(score - self.xi - jnp.abs(self.margin * advantage))


def surrogate_weight(
    drift: Callable[[Array, Array, Array], Array],
    ratio: Float[Array, " n"],
    advantage: Float[Array, " n"],
    when: Float[Array, "2"],
) -> Float[Array, " n"]:
    """Derivative of the surrogate `r A - drift(r, A)` by the ratio: what multiplies the policy gradient of a sample."""

    def value(ratio: Array) -> Array:
        return jax.vmap(drift, (0, 0, None))(ratio, advantage, when)

    return advantage - jax.jvp(value, (ratio,), (jnp.ones_like(ratio),))[1]


# Learned policy gradient ----------------------------------------------------------------------------------------


class LPG(eqx.Module):
    """A learned policy gradient: a GRU that runs backwards over a rollout and says, for each step, by how much to
    change the log probability of the action taken, and which categorical prediction to move towards.

    What the predictions mean is not given: it is found by meta-learning.

    Example:
        >>> rule = LPG(key=jax.random.key(0))
        >>> coefficient, target = rule(reward, done, chance, here, there, lifetime_inputs(step, lifetime))
        >>> loss = lpg_loss(log_chance, here, coefficient, target)

    Attributes:
        embed: prediction -> number, the same for here and there.
        cell: the GRU; reads reward, done, probability of the action, both embeddings and the two times.
        coefficient, target: read-outs.

    Source: Oh et al., "Discovering reinforcement learning algorithms" (2020), section 3; a GRU instead of an LSTM
    and the lifetime inputs as in Jackson et al. (2023, 2024).
    """

    embed: eqx.nn.MLP
    cell: eqx.nn.GRUCell
    coefficient: eqx.nn.Linear
    target: eqx.nn.Linear

    def __init__(self, width: int = 32, targets: int = 8, embedding: int = 16, *, key: Key[Array, ""]):
        """Random weights.

        Args:
            width: of the GRU.
            targets: categories of a prediction.
            embedding: width of the embedding's hidden layer.
            key: for the weights.
        """
        embed, cell, coefficient, target = jax.random.split(key, 4)
        self.embed = eqx.nn.MLP(targets, "scalar", embedding, 1, key=embed)
        self.cell = eqx.nn.GRUCell(7, width, key=cell)
        self.coefficient = eqx.nn.Linear(width, "scalar", key=coefficient)
        self.target = eqx.nn.Linear(width, targets, key=target)

    def __call__(
        self,
        reward: Float[Array, " time"],
        done: Bool[Array, " time"],
        chance: Float[Array, " time"],
        here: Float[Array, "time targets"],
        there: Float[Array, "time targets"],
        when: Float[Array, "2"],
    ) -> tuple[Float[Array, " time"], Float[Array, "time targets"]]:
        """What to do with one rollout (vmap for many).

        Args:
            reward, done: of each step; what follows the end of an episode does not reach back over it.
            chance: probability of the action taken.
            here, there: predictions (sum to 1) in the state of the step and in the next one.
            when: from `lifetime_inputs`.

        Returns the coefficient of each action's log probability (positive raises it) and the prediction's target.
        """
        value = jax.vmap(self.embed)
        now, then = value(here), jnp.where(done, 0.0, value(there))
        times = jnp.broadcast_to(when, (reward.size, 2))
        inputs = jnp.concatenate([jnp.stack([reward, done.astype(float), chance, now, then], 1), times], 1)

        def back(memory: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
            x, end = step
            memory = self.cell(x, jnp.where(end, 0.0, memory))
            return memory, memory

        _, memories = jax.lax.scan(back, jnp.zeros(self.cell.hidden_size), (inputs, done), reverse=True)
        seen = jax.nn.relu(memories)
        return jax.vmap(self.coefficient)(seen), jax.nn.softmax(jax.vmap(self.target)(seen))


def lpg_loss(
    log_chance: Float[Array, "*n"],
    prediction: Float[Array, "*n targets"],
    coefficient: Float[Array, "*n"],
    target: Float[Array, "*n targets"],
    weight: Scalar = 0.5,
) -> Float[Array, ""]:
    """The learner's loss: minus coefficient times log probability, plus `weight` times KL(prediction || target), means
    over samples (Oh et al. 2020, equation 2; there the coefficient has the other sign)."""
    tiny = 1e-8
    divergence = jnp.sum(prediction * (jnp.log(prediction + tiny) - jnp.log(target + tiny)), -1)
    return jnp.mean(weight * divergence - coefficient * log_chance)


# Meta-gradients -------------------------------------------------------------------------------------------------


def truncated_meta_gradient(
    rule: PyTree,
    unroll: Callable[[PyTree, Any], tuple[Any, Float[Array, ""]]],
    learners: Any,
) -> tuple[PyTree, Any, Float[Array, ""]]:
    """Gradient of a rule through a few of its own updates, mean over learners.

    `unroll(rule, learner)` applies the rule a few times (five, say) to one learner in mid-life and says how much it
    then loses; truncated, since the gradient knows nothing of the updates before and after.

    Args:
        rule: any pytree; its floating arrays are differentiated.
        unroll: (rule, learner) -> (learner later on, loss). It must be differentiable in the rule.
        learners: pytree with a leading axis.

    Returns the gradient, the learners later on, and the mean loss.

    Source: Oh et al. (2020), section 3.3; Xu et al., "Meta-gradient reinforcement learning" (2018).
    """
    inner, static = eqx.partition(rule, eqx.is_inexact_array)

    def loss(inner: PyTree) -> tuple[Float[Array, ""], Any]:
        later, losses = jax.vmap(lambda one: unroll(eqx.combine(inner, static), one))(learners)
        return jnp.mean(losses), later

    (mean, later), gradient = jax.value_and_grad(loss, has_aux=True)(inner)
    return gradient, later, mean
