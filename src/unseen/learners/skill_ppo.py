"""PPO whose actions may be handed, for a while, to stored policies; with curiosity as (part of) the reward."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from unseen.lab import UserError
from unseen.methods.curiosity import CuriosityReward, CuriosityState, Steps
from unseen.methods.policy_gradient import advantages, clipped_loss
from unseen.methods.skills import SkillScheduler
from unseen.models.policy import CategoricalPolicy


class SkillAgent(eqx.Module):
    """What is learned: the new policy, who acts when, and a critic that also knows the share of the episode gone."""

    policy: CategoricalPolicy
    scheduler: SkillScheduler
    critic: eqx.nn.MLP


class Episodes(NamedTuple):
    """Episodes of one length, played side by side.

    Attributes:
        observation: before each step, and after the last one.
        action: numbers.
        choice: which policy acted: numbers of stored ones, then the new one.
        decided: whether it was chosen at this step.
        events: what held after each step.
    """

    observation: Float[Array, "time+1 episodes obs"]
    action: Int[Array, "time episodes"]
    choice: Int[Array, "time episodes"]
    decided: Bool[Array, " time"]
    events: Bool[Array, "time episodes events"]

    @property
    def newly(self) -> Bool[Array, "time episodes events"]:
        """What came about for the first time in its episode."""
        ever = jax.lax.associative_scan(jnp.logical_or, self.events)
        before = jnp.concatenate([jnp.zeros_like(ever[:1]), ever[:-1]])
        return ever & ~before


class SkillState(NamedTuple):
    """State of learning.

    Attributes:
        agent, optimizer: the networks and their optimizer's state.
        curiosity: the model of the world that is learned beside them.
        scale: running mean of the squared curiosity reward.
        achieved: share of the last iteration's episodes in which each event came about.
        iteration: number of iterations so far.
    """

    agent: SkillAgent
    optimizer: Any
    curiosity: CuriosityState
    scale: Float[Array, ""]
    achieved: Float[Array, " events"]
    iteration: Int[Array, ""]
    key: Key[Array, ""]


# (episodes, curiosity reward scaled to a mean square of one) -> reward of each step
Pay = Callable[[Episodes, Float[Array, "time episodes"]], Float[Array, "time episodes"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkillPPO:
    """PPO with a `SkillScheduler` over stored policies, on episodes of a fixed length in a gymnax environment.

    An iteration plays `episodes` whole episodes; the scheduler and the new policy are learned together by the clipped
    policy gradient of what they decided (the scheduler every `period` steps, the new policy where it acted); stored
    policies are never changed. Without stored policies it is plain PPO. The forward model of the curiosity reward
    labels each rollout before it learns from it, and learns from a memory of all rollouts.

    Attributes:
        environment: gymnax 1.0's interface, discrete actions; ends before the time limit are not looked at.
        params: its parameters.
        events: state -> what holds in it; reported, and what `pay` may pay for.
        horizon: steps of an episode, a multiple of `period`.
        episodes: in an iteration; epochs, minibatches: of the learning on them.
        curiosity: how the model of the world is learned.
        entropy: weight of the entropies of both decisions.
        width: of all networks but the curiosity's.

    Raises:
        UserError: if the horizon is no multiple of the period or the steps do not split into equal minibatches.
    """

    environment: Any
    params: Any
    events: Callable[[Any], Bool[Array, " events"]]
    horizon: int = 64
    episodes: int = 32
    epochs: int = 3
    minibatches: int = 8
    period: int = 8
    width: int = 64
    learning_rate: float = 1e-3
    gamma: float | Float[Array, ""] = 0.99
    trace: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    value_weight: float = 0.5
    max_norm: float = 0.5
    curiosity: CuriosityReward = dataclasses.field(default_factory=CuriosityReward)

    def __post_init__(self) -> None:
        if self.horizon % self.period:
            raise UserError(f"horizon takes a multiple of period = {self.period}, got {self.horizon}.")
        if self.horizon * self.episodes % self.minibatches:
            raise UserError(
                f"minibatches takes a divisor of horizon * episodes = {self.horizon * self.episodes}, got "
                f"{self.minibatches}."
            )

    @property
    def steps(self) -> int:
        """Environment steps in an iteration."""
        return self.horizon * self.episodes

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.max_norm), optax.adam(self.learning_rate, eps=1e-5))

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.environment.observation_space(self.params).shape[0], self.environment.num_actions

    def policy(self, key: Key[Array, ""]) -> CategoricalPolicy:
        """An untrained policy."""
        return _drawn(key, lambda key: CategoricalPolicy(*self._sizes, self.width, key=key))

    def init(self, key: Key[Array, ""], allowed: Bool[Array, " stored"] | None = None) -> SkillState:
        """An untrained agent, which may choose the stored policies that are allowed (by default there are none)."""
        key, networks, curious = jax.random.split(key, 3)
        observation, actions = self._sizes
        allowed = jnp.zeros(0, bool) if allowed is None else allowed

        def make(key: Key[Array, ""]) -> tuple[CategoricalPolicy, eqx.nn.MLP]:
            return self.policy(key), eqx.nn.MLP(observation + 1, "scalar", self.width, 2, key=key)

        policy, critic = _drawn(networks, make)
        scheduler = SkillScheduler(observation, allowed, self.width, period=self.period, key=curious)
        agent = SkillAgent(policy, scheduler, critic)
        optimizer = self._optimizer.init(eqx.filter(agent, eqx.is_inexact_array))
        seen = jax.eval_shape(lambda: self.events(self.environment.reset_env(jax.random.key(0), self.params)[1]))
        return SkillState(
            agent, optimizer, self.curiosity.init(curious, observation, actions), jnp.zeros(()),
            jnp.zeros(seen.shape), jnp.zeros((), int), key,
        )  # fmt: skip

    # Acting ----------------------------------------------------------------------------------------------

    def play(self, agent: SkillAgent, key: Key[Array, ""], stored: PyTree = None) -> Episodes:
        """Episodes of the agent with stored policies (a stack, as in a `SnapshotStore`)."""
        begin, go = jax.random.split(key)
        lanes = self.episodes
        observation, state = jax.vmap(self.environment.reset_env, (0, None))(
            jax.random.split(begin, lanes), self.params
        )
        options = None if stored is None else agent.scheduler.options(stored, agent.policy)

        def act(carry: tuple[Any, Any], key: Key[Array, ""], acting: Any, axis: Any) -> tuple[Any, Any]:
            observation, state = carry
            choose, move = jax.random.split(key)
            logits = eqx.filter_vmap(lambda p, o: p.log_probs(o), in_axes=(axis, 0))(acting, observation)
            action = jax.random.categorical(choose, logits)
            after, state, *_ = jax.vmap(self.environment.step_env, (0, 0, 0, None))(
                jax.random.split(move, lanes), state, action, self.params
            )
            return (after, state), (observation, action, jax.vmap(self.events)(state))

        def turn(carry: tuple[Any, Any], key: Key[Array, ""]) -> tuple[Any, Any]:
            decide, go = jax.random.split(key)
            choice = jax.random.categorical(decide, jax.vmap(agent.scheduler.log_probs)(carry[0]))
            if options is None:
                acting, axis = agent.policy, None
            else:
                arrays, static = eqx.partition(options, eqx.is_array)
                acting, axis = eqx.combine(jax.tree.map(lambda leaf: leaf[choice], arrays), static), eqx.if_array(0)
            carry, seen = jax.lax.scan(
                lambda carry, key: act(carry, key, acting, axis), carry, jax.random.split(go, self.period)
            )
            return carry, (*seen, jnp.broadcast_to(choice, (self.period, lanes)))

        turns = jax.random.split(go, self.horizon // self.period)
        (last, _), seen = jax.lax.scan(turn, (observation, state), turns)
        before, action, events, choice = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), seen)
        decided = jnp.arange(self.horizon) % self.period == 0
        return Episodes(jnp.concatenate([before, last[None]]), action, choice, decided, events)

    # Learning --------------------------------------------------------------------------------------------

    def log_prob(
        self, agent: SkillAgent, observation: Array, action: Array, choice: Array, decided: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log probability of what was decided in a step, and the entropy of these decisions."""
        choices, moves = agent.scheduler.log_probs(observation), agent.policy.log_probs(observation)
        own = choice == agent.scheduler.new
        spread = decided * _entropy(choices) + own * _entropy(moves)
        return decided * choices[choice] + own * moves[action], spread

    def value(self, agent: SkillAgent, observation: Float[Array, "time lanes obs"]) -> Float[Array, "time lanes"]:
        """The critic on an episode's observations from its beginning."""
        gone = jnp.arange(observation.shape[0]) / self.horizon
        seen = jnp.concatenate([observation, jnp.broadcast_to(gone[:, None, None], (*observation.shape[:2], 1))], -1)
        return jax.vmap(jax.vmap(agent.critic))(seen)

    def iterate(self, state: SkillState, pay: Pay, stored: PyTree = None) -> SkillState:
        """One iteration: play, label, learn."""
        key, play, shuffle, curious = jax.random.split(state.key, 4)
        played = self.play(state.agent, play, stored)
        observation = played.observation[:-1]
        steps = Steps(observation, jax.nn.one_hot(played.action, self._sizes[1]), played.observation[1:])
        surprise = self.curiosity.reward(state.curiosity, steps)
        rate = jnp.maximum(0.05, 1 / (state.iteration + 1.0))
        scale = (1 - rate) * state.scale + rate * (surprise**2).mean()
        reward = pay(played, surprise / jnp.sqrt(scale + 1e-8))
        curiosity = self.curiosity.learn(self.curiosity.observe(state.curiosity, steps), curious)
        agent, optimizer = self.learn(state.agent, state.optimizer, played, reward, shuffle)
        achieved = played.events.any(0).mean(0)
        return SkillState(agent, optimizer, curiosity, scale, achieved, state.iteration + 1, key)

    def learn(
        self, agent: SkillAgent, optimizer: Any, played: Episodes, reward: Float[Array, "time lanes"], key: Any
    ) -> tuple[SkillAgent, Any]:
        """PPO's epochs on a rollout. The time limit is an end, which the critic can see coming."""
        observation = played.observation[:-1]
        value = self.value(agent, observation)
        ends = jnp.zeros(reward.shape, bool).at[-1].set(True)
        advantage = advantages(reward, value, ends, jnp.zeros(reward.shape[1]), self.gamma, self.trace)
        decided = jnp.broadcast_to(played.decided[:, None], reward.shape)
        gone = jnp.broadcast_to(jnp.arange(self.horizon)[:, None] / self.horizon, reward.shape)
        did = observation, played.action, played.choice, decided
        each = jax.vmap(self.log_prob, (None, 0, 0, 0, 0))
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (*did, gone, advantage, advantage + value))
        rows = (*flat, each(agent, *flat[:4])[0])
        arrays, static = eqx.partition(agent, eqx.is_inexact_array)

        def loss(arrays: Any, batch: Any) -> Float[Array, ""]:
            agent = eqx.combine(arrays, static)
            *did, gone, advantage, target, old = batch
            log_prob, spread = each(agent, *did)
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            value = jax.vmap(agent.critic)(jnp.concatenate([did[0], gone[:, None]], -1))
            actor = clipped_loss(log_prob, old, advantage, self.clip).mean() - self.entropy * spread.mean()
            return actor + self.value_weight * 0.5 * ((value - target) ** 2).mean()

        def step(carry: tuple[Any, Any], chosen: Array) -> tuple[tuple[Any, Any], None]:
            arrays, optimizer = carry
            batch = jax.tree.map(lambda leaf: leaf[chosen], rows)
            change, optimizer = self._optimizer.update(jax.grad(loss)(arrays, batch), optimizer, arrays)
            return (eqx.apply_updates(arrays, change), optimizer), None

        order = jax.vmap(lambda key: jax.random.permutation(key, self.steps))(jax.random.split(key, self.epochs))
        batches = order.reshape(self.epochs * self.minibatches, -1)
        (arrays, optimizer), _ = jax.lax.scan(step, (arrays, optimizer), batches)
        return eqx.combine(arrays, static), optimizer


def _entropy(log_probs: Float[Array, " options"]) -> Float[Array, ""]:
    return -jnp.sum(jnp.exp(log_probs) * log_probs)


def _drawn(key: Key[Array, ""], make: Callable[[Any], Any]) -> Any:
    """Networks of the shapes that `make` gives, with weights uniform in +-1/sqrt(inputs) as Equinox has them and no
    biases, out of one draw: XLA takes as long to compile a draw as the rest of a layer's life, and there are many."""
    shapes = eqx.filter_eval_shape(make, key)
    leaves, tree = jax.tree.flatten(shapes)
    sizes = [math.prod(leaf.shape) if isinstance(leaf, jax.ShapeDtypeStruct) else 0 for leaf in leaves]
    parts = jnp.split(jax.random.uniform(key, (sum(sizes),), minval=-1), list(itertools.accumulate(sizes))[:-1])

    def made(leaf: Any, part: Array) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return part.reshape(leaf.shape) / math.sqrt(leaf.shape[-1]) if len(leaf.shape) > 1 else jnp.zeros(leaf.shape)

    return tree.unflatten([made(leaf, part) for leaf, part in zip(leaves, parts, strict=True)])
