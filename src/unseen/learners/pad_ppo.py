"""PPO on images, whose encoder also learns a self-supervised task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from unseen.lab import UserError
from unseen.learners.minibatches import learn_epochs
from unseen.methods.pad import Moments, PADPolicy
from unseen.methods.policy_gradient import advantages, clipped_loss

Scalar = float | Float[Array, ""]


class PADAgent(eqx.Module):
    """A policy with a self-supervised task, and what only training needs.

    Attributes:
        policy: encoder, actor (features -> mean action) and task.
        critic: features -> discounted mean of the rewards to come.
        log_std: of the actions.
    """

    policy: PADPolicy
    critic: eqx.nn.MLP
    log_std: Float[Array, " action"]


class Played(NamedTuple):
    """Episodes side by side, all of the same length; one that the environment ends is followed by another.

    Attributes:
        moments: images before and after each step; actions as the environment takes them.
        action, log_prob: as drawn.
        value: by the critic, before the step.
        ends: where the environment ended an episode.
        last: value after the last step.
    """

    moments: Moments
    action: Float[Array, "time lanes action"]
    log_prob: Float[Array, "time lanes"]
    reward: Float[Array, "time lanes"]
    value: Float[Array, "time lanes"]
    ends: Bool[Array, "time lanes"]
    last: Float[Array, " lanes"]


class PADTraining(NamedTuple):
    """State of training.

    Attributes:
        agent, optimizer: as they are now.
        reward: mean of a step, in the last iteration.
        task_loss: self-supervised, on the first rows of the last iteration, after learning.
    """

    agent: PADAgent
    optimizer: Any
    reward: Float[Array, ""]
    task_loss: Float[Array, ""]
    key: Key[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PADPPO:
    """PPO whose loss is `PADPolicy.joint_loss`: actor, critic and a self-supervised task share an encoder of images.

    An iteration plays a fresh episode in every lane and learns on its steps. The time limit is no end: the critic
    says what would have followed. Rewards count (1 - gamma) of themselves, so that values are as large as rewards.

    Example:
        >>> from unseen.models import PatchEncoder
        >>> from unseen.methods import InverseDynamicsTask
        >>> from unseen.worlds.control import PixelControl
        >>> def policy(key):
        ...     a, b, c = jax.random.split(key, 3)
        ...     actor = eqx.nn.MLP(32, 2, 32, 1, final_activation=jnp.tanh, key=b)
        ...     return PADPolicy(PatchEncoder(outputs=32, key=a), actor, InverseDynamicsTask(32, 2, key=c))
        >>> world = PixelControl("reach")
        >>> learner = PADPPO(environment=world, params=world.default_params, policy=policy, features=32)
        >>> state = learner.iterate(learner.init(jax.random.key(0)))  # doctest: +SKIP

    Attributes:
        environment, params: gymnax 1.0's interface, images, actions in a box.
        policy: key -> `PADPolicy`; the actor's output is the mean of a Gaussian.
        features: of the policy's encoder.
        weight: of the self-supervised loss; 0 is PPO.
        horizon: steps of an episode.
        lanes: episodes side by side.
        epochs, minibatches: of the learning on an iteration's steps.
        width: of the critic's hidden layer.
        spread: logarithm of the standard deviation of actions at first.

    Raises:
        UserError: if the steps of an iteration do not split into equal minibatches.

    Source: Hansen et al. (2021), equation 1, which has soft actor-critic or A2C in PPO's place.
    """

    environment: Any
    params: Any
    policy: Callable[[Any], PADPolicy]
    features: int
    weight: Scalar = 1.0
    horizon: int = 30
    lanes: int = 32
    epochs: int = 2
    minibatches: int = 8
    width: int = 64
    learning_rate: Scalar = 1e-3
    gamma: Scalar = 0.95
    trace: Scalar = 0.95
    clip: Scalar = 0.2
    entropy: Scalar = 0.0
    value_weight: Scalar = 0.5
    max_norm: Scalar = 0.5
    spread: float = -0.5

    def __post_init__(self) -> None:
        for name in ("horizon", "lanes", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")
        if self.steps % self.minibatches:
            raise UserError(f"minibatches takes a divisor of horizon * lanes = {self.steps}, got {self.minibatches}.")

    @property
    def steps(self) -> int:
        """Environment steps in an iteration."""
        return self.horizon * self.lanes

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.max_norm), optax.adam(self.learning_rate, eps=1e-5))

    def init(self, key: Key[Array, ""]) -> PADTraining:
        """An untrained agent."""
        key, policy, critic = jax.random.split(key, 3)
        actions = self.environment.action_space(self.params).shape[0]
        agent = PADAgent(
            self.policy(policy),
            eqx.nn.MLP(self.features, "scalar", self.width, 1, key=critic),
            jnp.full(actions, self.spread),
        )
        optimizer = self._optimizer.init(eqx.filter(agent, eqx.is_inexact_array))
        return PADTraining(agent, optimizer, jnp.zeros(()), jnp.zeros(()), key)

    def play(self, agent: PADAgent, key: Key[Array, ""]) -> Played:
        """An iteration's episodes."""
        begin, go = jax.random.split(key)
        box = self.environment.action_space(self.params)
        images, inner = jax.vmap(self.environment.reset_env, (0, None))(
            jax.random.split(begin, self.lanes), self.params
        )

        def step(carry: tuple[Any, Any], key: Array) -> tuple[Any, Any]:
            images, inner = carry
            act, move, again = jax.random.split(key, 3)
            features = agent.policy.encoder(images)
            mean, value = jax.vmap(agent.policy.actor)(features), jax.vmap(agent.critic)(features)
            action = mean + jnp.exp(agent.log_std) * jax.random.normal(act, mean.shape)
            taken = jnp.clip(action, box.low, box.high)
            after, moved, reward, ends, _ = jax.vmap(self.environment.step_env, (0, 0, 0, None))(
                jax.random.split(move, self.lanes), inner, taken, self.params
            )
            fresh = jax.vmap(self.environment.reset_env, (0, None))(jax.random.split(again, self.lanes), self.params)
            following = jax.tree.map(
                lambda new, old: jnp.where(ends.reshape(-1, *[1] * (old.ndim - 1)), new, old), fresh, (after, moved)
            )
            log_prob = _log_prob(mean, agent.log_std, action)
            return following, (Moments(images, taken, after), action, log_prob, reward, value, ends)

        (images, _), played = jax.lax.scan(step, (images, inner), jax.random.split(go, self.horizon))
        return Played._make((*played, jax.vmap(agent.critic)(agent.policy.encoder(images))))

    def iterate(self, state: PADTraining) -> PADTraining:
        """One iteration: play and learn."""
        key, play, learn, turn = jax.random.split(state.key, 4)
        played = self.play(state.agent, play)
        reward = (1 - self.gamma) * played.reward
        advantage = advantages(reward, played.value, played.ends, played.last, self.gamma, self.trace)
        rows = played.moments, played.action, played.log_prob, advantage, advantage + played.value
        rows = jax.tree.map(lambda leaf: leaf.reshape(self.steps, *leaf.shape[2:]), rows)
        keyed = *rows, jax.random.split(turn, self.steps)
        agent, optimizer = learn_epochs(
            self.loss, state.agent, self._optimizer, state.optimizer, keyed, learn,
            epochs=self.epochs, minibatches=self.minibatches,
        )  # fmt: skip
        first = jax.tree.map(lambda leaf: leaf[: self.steps // self.minibatches], rows[0])
        task_loss = agent.policy.task.loss(agent.policy.encoder, first, turn)
        return PADTraining(agent, optimizer, played.reward.mean(), task_loss, key)

    def run(self, state: PADTraining, iterations: int) -> PADTraining:
        """Several iterations."""
        arrays, static = eqx.partition(state, eqx.is_array)

        def body(arrays: Any, _: None) -> tuple[Any, None]:
            return eqx.filter(self.iterate(eqx.combine(arrays, static)), eqx.is_array), None

        return eqx.combine(jax.lax.scan(body, arrays, None, iterations)[0], static)

    def loss(self, agent: PADAgent, batch: Any) -> Float[Array, ""]:
        """PPO's loss on some steps, plus the task's.

        Args:
            batch: moments; drawn actions, their log densities, advantages and targets of the values; keys, of which
                the first is the task's.
        """
        moments, action, old, advantage, target, keys = batch
        features = agent.policy.encoder(moments.before)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_prob = _log_prob(jax.vmap(agent.policy.actor)(features), agent.log_std, action)
        error = jnp.square(jax.vmap(agent.critic)(features) - target)
        ppo = (clipped_loss(log_prob, old, advantage, self.clip) + self.value_weight * error).mean()
        return agent.policy.joint_loss(ppo - self.entropy * agent.log_std.sum(), moments, keys[0], self.weight)


def _log_prob(
    mean: Float[Array, "n action"], log_std: Float[Array, " action"], action: Float[Array, "n action"]
) -> Float[Array, " n"]:
    error = (action - mean) * jnp.exp(-log_std)
    return (-0.5 * error**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)).sum(-1)
