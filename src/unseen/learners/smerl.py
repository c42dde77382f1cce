"""PPO with a latent that is paid for being recognised, as far as the task allows it."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError
from unseen.learners.minibatches import learn_epochs
from unseen.learners.skill_ppo import _drawn
from unseen.methods.latent_diversity import distinguishability, thresholded_diversity
from unseen.methods.policy_gradient import advantages, clipped_loss
from unseen.models.policy import GaussianPolicy


class LatentAgent(eqx.Module):
    """A policy and a critic that are told a latent (one-hot, after the observation; the critic also the share of the
    episode gone), and the discriminator that guesses it from observations."""

    policy: GaussianPolicy
    critic: eqx.nn.MLP
    discriminator: eqx.nn.MLP


class LatentEpisodes(NamedTuple):
    """Episodes played side by side; after its end an episode stands still and `alive` is false.

    Attributes:
        latent: the number that each episode's policy was told.
        observation: before each step, and after the last one.
        action, log_prob: as drawn, before the environment clips them.
        reward: 0 after the end.
        alive: whether the episode was still going on before the step.
        ends: where nothing follows a step.
    """

    latent: Int[Array, " episodes"]
    observation: Float[Array, "time+1 episodes obs"]
    action: Float[Array, "time episodes action"]
    log_prob: Float[Array, "time episodes"]
    reward: Float[Array, "time episodes"]
    alive: Bool[Array, "time episodes"]
    ends: Bool[Array, "time episodes"]


class LatentState(NamedTuple):
    """State of learning.

    Attributes:
        agent: the networks; actor, guesser: their optimizers' states, policy and critic apart from the discriminator.
        returns: mean of the last iteration's returns under each latent.
        recognised: mean log q(z|s) - log p(z) of the last iteration's steps.
    """

    agent: LatentAgent
    actor: Any
    guesser: Any
    returns: Float[Array, " latents"]
    recognised: Float[Array, ""]
    key: Key[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SMERL:
    """Several near-optimal ways to solve one task: latent-conditioned PPO with a discriminator.

    An iteration plays whole episodes, as many with each latent. Its steps pay the task's reward and, in the episodes
    whose return reaches `target`, how well the discriminator tells the latent from the state. Plain PPO (`told=0`,
    `diversity=0`), DIAYN (`task=0`, `thresholded=0`) and return plus diversity without a threshold (`thresholded=0`)
    are other values of numbers that may be traced: one program for all of them.

    Example:
        >>> from unseen.worlds.control import MazeTask
        >>> world = MazeTask()
        >>> learner = SMERL(environment=world, params=world.default_params, horizon=40, target=0.6)
        >>> state = learner.iterate(learner.init(jax.random.key(0)))

    Attributes:
        environment, params: gymnax 1.0's interface, continuous actions.
        horizon: steps of an episode, at most.
        latents: number of latents.
        target: return that an episode must reach to be paid for diversity.
        task, diversity: weights of the task's reward and of diversity.
        thresholded: 0 pays diversity in every episode.
        told: 0 hides the latent from policy and critic.
        episodes: in an iteration, a multiple of `latents` and of `minibatches`.
        epochs, minibatches: of the learning on them.
        spread: logarithm of the standard deviation of actions at first.
        guess_rate: learning rate of the discriminator.

    Raises:
        UserError: if the episodes cannot be shared out equally.

    Source: Kumar et al. (2020), algorithm 1, which has soft actor-critic in PPO's place.
    """

    environment: Any
    params: Any
    horizon: int
    target: float | Float[Array, ""]
    latents: int = 6
    task: float | Float[Array, ""] = 1.0
    diversity: float | Float[Array, ""] = 0.01
    thresholded: float | Float[Array, ""] = 1.0
    told: float | Float[Array, ""] = 1.0
    episodes: int = 48
    epochs: int = 4
    minibatches: int = 4
    width: int = 64
    learning_rate: float = 1e-3
    guess_rate: float = 1e-3
    gamma: float = 0.99
    trace: float = 0.95
    clip: float = 0.2
    entropy: float = 0.0
    value_weight: float = 0.5
    max_norm: float = 0.5
    spread: float = -0.5

    def __post_init__(self) -> None:
        if self.latents < 1:
            raise UserError(f"latents takes a number from 1 on, got {self.latents}.")
        for name in ("latents", "minibatches"):
            if self.episodes < 1 or self.episodes % getattr(self, name):
                raise UserError(f"episodes takes a multiple of {name}, {getattr(self, name)}, got {self.episodes}.")

    @property
    def steps(self) -> int:
        """Environment steps in an iteration, at most."""
        return self.horizon * self.episodes

    @property
    def _actor(self) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.max_norm), optax.adam(self.learning_rate, eps=1e-5))

    @property
    def _guesser(self) -> optax.GradientTransformation:
        return optax.adam(self.guess_rate)

    def init(self, key: Key[Array, ""]) -> LatentState:
        """An untrained agent."""
        key, networks = jax.random.split(key)
        seen = self.environment.observation_space(self.params).shape[0]
        actions = self.environment.action_space(self.params).shape[0]

        def make(key: Key[Array, ""]) -> LatentAgent:
            return LatentAgent(
                GaussianPolicy(seen + self.latents, actions, self.width, key=key),
                eqx.nn.MLP(seen + self.latents + 1, "scalar", self.width, 2, key=key),
                eqx.nn.MLP(seen, self.latents, self.width, 2, key=key),
            )

        agent = _drawn(networks, make)
        agent = eqx.tree_at(lambda a: a.policy.log_std, agent, jnp.full(actions, self.spread))
        return LatentState(
            agent, self._actor.init(eqx.filter((agent.policy, agent.critic), eqx.is_inexact_array)),
            self._guesser.init(eqx.filter(agent.discriminator, eqx.is_inexact_array)),
            jnp.zeros(self.latents), jnp.zeros(()), key,
        )  # fmt: skip

    # Acting ----------------------------------------------------------------------------------------------

    def features(self, observation: Float[Array, "*batch obs"], latent: Int[Array, "*batch"]) -> Float[Array, "..."]:
        """What the policy reads."""
        return jnp.concatenate([observation, self.told * jax.nn.one_hot(latent, self.latents)], -1)

    def act(
        self, agent: LatentAgent, key: Key[Array, ""], observation: Float[Array, " obs"], latent: Int[Array, ""]
    ) -> tuple[Float[Array, " action"], Float[Array, ""]]:
        """A drawn action and its log density."""
        features = self.features(observation, latent)
        mean, deviation = agent.policy(features), jnp.exp(jnp.clip(agent.policy.log_std, -5, 2))
        action = mean + deviation * jax.random.normal(key, mean.shape)
        return action, agent.policy.log_prob(features, action)

    def play(
        self, agent: LatentAgent, latent: Int[Array, " episodes"], key: Key[Array, ""], params: Any = None
    ) -> LatentEpisodes:
        """One episode with each of these latents, by default in the environment of the training."""
        params = self.params if params is None else params
        begin, go = jax.random.split(key)
        lanes = latent.shape[0]
        first, state = jax.vmap(self.environment.reset_env, (0, None))(jax.random.split(begin, lanes), params)

        def step(carry: tuple[Any, Any, Any], keys: Array) -> tuple[Any, Any]:
            observation, state, alive = carry
            act, move = jax.vmap(jax.random.split, out_axes=1)(keys)
            action, log_prob = jax.vmap(self.act, (None, 0, 0, 0))(agent, act, observation, latent)
            after, moved, reward, terminated, _ = jax.vmap(self.environment.step_env, (0, 0, 0, None))(
                move, state, action, params
            )
            after, moved = jax.tree.map(
                lambda new, old: jnp.where(alive.reshape(-1, *[1] * (new.ndim - 1)), new, old),
                (after, moved), (observation, state),
            )  # fmt: skip
            seen = (observation, action, log_prob, jnp.where(alive, reward, 0.0), alive, terminated & alive)
            return (after, moved, alive & ~terminated), seen

        keys = jax.random.split(go, (self.horizon, lanes))
        (last, _, _), seen = jax.lax.scan(step, (first, state, jnp.ones(lanes, bool)), keys)
        before, action, log_prob, reward, going, ends = seen
        observation = jnp.concatenate([before, last[None]])
        return LatentEpisodes(latent, observation, action, log_prob, reward, going, ends.at[-1].set(True))

    # Learning --------------------------------------------------------------------------------------------

    def iterate(self, state: LatentState) -> LatentState:
        """One iteration: play, pay, learn. The time limit is an end, which the critic can see coming."""
        key, play, learn, guess = jax.random.split(state.key, 4)
        agent = state.agent
        latent = jnp.arange(self.episodes) % self.latents
        played = self.play(agent, latent, play)
        seen, latents = played.observation[:-1], jnp.broadcast_to(latent, played.reward.shape)
        logits = jax.vmap(jax.vmap(agent.discriminator))(played.observation[1:])
        recognised = jnp.where(played.alive, distinguishability(logits, latents), 0.0)
        bonus = thresholded_diversity(played.reward, recognised, self.target, self.diversity, self.thresholded)
        reward = bonus - (1 - self.task) * played.reward
        gone = jnp.broadcast_to(jnp.arange(self.horizon)[:, None, None] / self.horizon, (*reward.shape, 1))
        features = self.features(seen, latents)
        known = jnp.concatenate([features, gone], -1)
        value = jax.vmap(jax.vmap(agent.critic))(known)
        advantage = advantages(reward, value, played.ends, jnp.zeros(self.episodes), self.gamma, self.trace)
        rows = known, played.action, played.log_prob, advantage, advantage + value, played.alive
        by_episode = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), rows)
        (policy, critic), actor = learn_epochs(
            self._loss, (agent.policy, agent.critic), self._actor, state.actor, by_episode, learn,
            epochs=self.epochs, minibatches=self.minibatches,
        )  # fmt: skip
        told = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (played.observation[1:], latents, played.alive))
        discriminator, guesser = learn_epochs(
            _guess_loss, agent.discriminator, self._guesser, state.guesser, told, guess,
            epochs=self.epochs, minibatches=self.minibatches,
        )  # fmt: skip
        returns = played.reward.sum(0).reshape(-1, self.latents).mean(0)
        agent = LatentAgent(policy, critic, discriminator)
        return LatentState(agent, actor, guesser, returns, recognised.sum() / played.alive.sum(), key)

    def run(self, state: LatentState, iterations: int) -> LatentState:
        """Several iterations."""
        arrays, static = eqx.partition(state, eqx.is_array)

        def body(arrays: Any, _: None) -> tuple[Any, None]:
            return eqx.filter(self.iterate(eqx.combine(arrays, static)), eqx.is_array), None

        return eqx.combine(jax.lax.scan(body, arrays, None, iterations)[0], static)

    def _loss(self, networks: tuple[Any, Any], batch: Any) -> Float[Array, ""]:
        policy, critic = networks
        known, action, old, advantage, target, alive = batch
        share = alive / alive.sum()
        mean = (share * advantage).sum()
        deviation = jnp.sqrt((share * (advantage - mean) ** 2).sum())
        log_prob = jax.vmap(jax.vmap(policy.log_prob))(known[..., :-1], action)
        actor = clipped_loss(log_prob, old, (advantage - mean) / (deviation + 1e-8), self.clip)
        error = (jax.vmap(jax.vmap(critic))(known) - target) ** 2
        spread = jnp.clip(policy.log_std, -5, 2).sum()
        return (share * (actor + self.value_weight * 0.5 * error)).sum() - self.entropy * spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class DIAYN(SMERL):
    """Skills without a task: `SMERL` whose only pay is to be recognised.

    Source: Eysenbach et al., "Diversity is All You Need" (2019), algorithm 1, with PPO.
    """

    task: float | Float[Array, ""] = 0.0
    thresholded: float | Float[Array, ""] = 0.0
    target: float | Float[Array, ""] = 0.0


def _guess_loss(discriminator: eqx.nn.MLP, batch: Any) -> Float[Array, ""]:
    seen, latent, alive = batch
    logits = jax.vmap(jax.vmap(discriminator))(seen)
    return -(alive * distinguishability(logits, latent)).sum() / alive.sum()
