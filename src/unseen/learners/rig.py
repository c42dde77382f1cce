"""Practice on goals that the learner imagines itself, in a latent space that it learned from its own images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from unseen.lab import Learner, UserError
from unseen.learners.q_learning import QLearner, QNetwork, Scalar, q_learning
from unseen.learners.replay import GoalObservation, Hindsight
from unseen.models.world_model import BetaVAE

Goals = Callable[[Key[Array, ""], int], Float[Array, "n goal"]]
Reward = Callable[[Float[Array, "*batch goal"], Float[Array, "*batch goal"]], Float[Array, " *batch"]]


class Prior(NamedTuple):
    """Where latents lie: a normal distribution with independent components."""

    mean: Float[Array, " latent"]
    deviation: Float[Array, " latent"]


def fit_prior(latents: Float[Array, "n latent"]) -> Prior:
    """The prior of latent means that were seen: components that tell nothing of the images get no width, which the
    standard normal would give them.

    Source: Nair et al. (2018), algorithm 1.
    """
    return Prior(latents.mean(0), latents.std(0))


def imagined_goals(prior: Prior, n: int, *, key: Key[Array, ""]) -> Float[Array, "n latent"]:
    """Goals to practise: draws from the prior."""
    return prior.mean + prior.deviation * jax.random.normal(key, (n, *prior.mean.shape))


def latent_reward(
    reached: Float[Array, "*batch latent"], goal: Float[Array, "*batch latent"], scale: Scalar = 1.0
) -> Float[Array, " *batch"]:
    """Minus the Euclidean distance of two latents, in units of `scale`.

    Source: Nair et al. (2018), equation 3; the Mahalanobis distance of its derivation with equal precisions.
    """
    return -jnp.sqrt(jnp.square(reached - goal).sum(-1) + 1e-12) / scale


def pixel_reward(
    reached: Float[Array, "*batch height width channels"],
    goal: Float[Array, "*batch height width channels"],
    scale: Scalar = 1.0,
) -> Float[Array, " *batch"]:
    """Minus the Euclidean distance of two images, over all pixels, in units of `scale`."""
    return -jnp.sqrt(jnp.square(reached - goal).sum((-3, -2, -1)) + 1e-12) / scale


def as_picture(observation: Shaped[Array, "..."]) -> Float[Array, "..."]:
    """An image in [0, 1]: whole numbers are taken to be bytes."""
    if jnp.issubdtype(observation.dtype, jnp.floating):
        return observation
    return observation / 255


class GoalPractice:
    """Any environment as one of goals that the learner sets itself; its own reward is never looked at.

    It has gymnax's interface and observations (`GoalObservation`) of what is seen and of the goal, which holds until
    the episode ends.

    Attributes:
        environment: with gymnax 1.0's interface.
        see: its observation -> numbers.
        goals: key, n -> that many goals, in the space of what is seen.
        reward: (what is seen after the step, goal) -> reward.
    """

    def __init__(self, environment: Any, see: Callable[[PyTree], Array], goals: Goals, reward: Reward):
        self.environment, self.see, self.goals, self.reward = environment, see, goals, reward

    @property
    def default_params(self) -> Any:
        """The environment's."""
        return self.environment.default_params

    def reset(self, key: Key[Array, ""], params: Any = None) -> tuple[GoalObservation, Any]:
        """A new episode with a new goal."""
        key, goal_key = jax.random.split(key)
        observation, inner = self.environment.reset(key, params)
        goal = self.goals(goal_key, 1)[0]
        return GoalObservation(self.see(observation), goal), (inner, goal)

    def step(self, key: Key[Array, ""], state: Any, action: Int[Array, ""], params: Any = None) -> tuple:
        """One step; after the last one the observation is the next episode's."""
        key, goal_key = jax.random.split(key)
        inner, goal = state
        observation, inner, _, terminated, truncated, info = self.environment.step(key, inner, action, params)
        reached, done = self.see(info["final_observation"]), terminated | truncated
        following = jnp.where(done, self.goals(goal_key, 1)[0], goal)
        seen = GoalObservation(jnp.where(done, self.see(observation), reached), following)
        last = {"final_observation": GoalObservation(reached, goal)}
        return seen, (inner, following), self.reward(reached, goal), terminated, truncated, last


def practise(
    learner: QLearner, environment: Any, params: Any = None, *, see: Callable[[PyTree], Array], goals: Goals,
    reward: Reward, future: Scalar = 0.4, imagination: Scalar = 0.5, **settings: Any,
) -> Learner:  # fmt: skip
    """Goal-conditioned Q-learning on one's own goals, with hindsight.

    Args:
        see, goals, reward: as in `GoalPractice`.
        future: share of a batch whose goals become what was reached later in the episode.
        imagination: share whose goals are drawn anew from `goals`.
        settings: of `q_learning` (total_steps, every, lanes, epsilon, ...).
    """

    def paid(reached: Array, goal: Array) -> tuple[Array, Array]:
        value = reward(reached, goal)
        return value, jnp.zeros(value.shape, bool)  # a goal that is reached is to be kept: no end

    relabel = Hindsight(achieved=lambda seen: seen, reward=paid, future=future, imagined=goals, imagination=imagination)
    return q_learning(
        learner, GoalPractice(environment, see, goals, reward), params, relabel=relabel, **settings
    )  # fmt: skip


class Perception(eqx.Module):
    """What was learned of images before any practice.

    Attributes:
        vae: image, as one row of numbers <-> latent.
        prior: of the explored images' latents.
        latents: of the explored images.
        scale: mean distance of two of them, the unit of rewards.
    """

    vae: BetaVAE
    prior: Prior
    latents: Float[Array, "explored latent"]
    scale: Float[Array, ""]

    def see(self, picture: Float[Array, "..."]) -> Float[Array, " latent"]:
        """The latent of an image: the encoder's mean."""
        return self.vae.encode(picture.ravel())[0]

    def goals(self, key: Key[Array, ""], n: int) -> Float[Array, "n latent"]:
        """Imagined ones."""
        return imagined_goals(self.prior, n, key=key)

    def reward(
        self, reached: Float[Array, "*batch latent"], goal: Float[Array, "*batch latent"]
    ) -> Float[Array, " *batch"]:
        """Latent distance, -1 on average for two explored images."""
        return latent_reward(reached, goal, self.scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RIG:
    """Reinforcement learning with imagined goals: explore at random, learn to see, practise, and then reach the image
    that a user shows. No reward of the environment is ever used.

    The autoencoder's latent is the input of the Q-network and the measure of distance, and its prior proposes the
    goals. A replayed step keeps its goal or gets one that was reached later in its episode or a freshly imagined one;
    shares as in the official pushing experiment.

    Example:
        >>> rig = RIG(learner=QLearner(actions=9), environment=DiscretePixels("reach"))
        >>> perception = rig.perceive(rig.explore(key), key)
        >>> practice = rig.practice(perception, total_steps=40_000, every=1_000)   # a Learner
        >>> action = rig.act(state.learning.network, perception, image, shown_image)

    Attributes:
        learner: what learns to reach goals.
        environment, params: with gymnax 1.0's interface and numbered actions.
        picture: its observation -> image.
        autoencoder: key -> an untrained `BetaVAE` of flat images; None makes one for the environment's images, of
            dense layers.
        latent, width, beta: of that one: size of the latent, width of the one hidden layer of encoder and decoder, and
            weight of the divergence in its loss.
        explored: steps of random actions, in `lanes` episodes at a time.
        updates, batch_size, learning_rate: of the autoencoder (Adam; the rate falls to 0 on a cosine).
        future, imagination: shares of relabelled goals.

    Raises:
        UserError: on sizes below 1.

    Source: Nair et al. (2018), algorithm 1; rail-berkeley/rlkit v0.1.2, examples/rig. Here actions are numbered, so the
    actor-critic (TD3) is a Double DQN, and the autoencoder is not tuned further during practice.
    """

    learner: QLearner
    environment: Any
    params: Any = None
    picture: Callable[[PyTree], Array] = as_picture
    autoencoder: Callable[[Key[Array, ""]], BetaVAE] | None = None
    latent: int = 8
    width: int = 64
    beta: Scalar = 0.1
    explored: int = 15_000
    lanes: int = 20
    updates: int = 2_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    future: Scalar = 0.4
    imagination: Scalar = 0.5

    def __post_init__(self) -> None:
        for name in ("latent", "width", "explored", "lanes", "updates", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")
        if self.explored % self.lanes:
            raise UserError(f"explored takes a multiple of lanes, {self.lanes}, got {self.explored}.")

    def explore(self, key: Key[Array, ""]) -> PyTree:
        """Observations after random actions, leaves (explored, ...)."""
        params = self.environment.default_params if self.params is None else self.params
        start, run = jax.random.split(key)
        _, inner = jax.vmap(self.environment.reset, (0, None))(jax.random.split(start, self.lanes), params)

        def step(inner: Any, key: Array) -> tuple[Any, PyTree]:
            act, move = jax.random.split(key)
            actions = jax.random.randint(act, (self.lanes,), 0, self.learner.actions)
            found = jax.vmap(self.environment.step, (0, 0, 0, None))(
                jax.random.split(move, self.lanes), inner, actions, params
            )
            return found[1], found[5]["final_observation"]

        _, seen = jax.lax.scan(step, inner, jax.random.split(run, self.explored // self.lanes))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen)

    def perceive(self, observations: PyTree, key: Key[Array, ""]) -> Perception:
        """An autoencoder trained on what was explored, and the prior of its latents."""
        count = jax.tree.leaves(observations)[0].shape[0]
        make, train, pair = jax.random.split(key, 3)
        if self.autoencoder is None:
            pixels = jax.eval_shape(lambda o: self.picture(jax.tree.map(lambda x: x[0], o)), observations).size
            vae = BetaVAE(pixels, self.latent, self.width, 1, self.beta, key=make)
        else:
            vae = self.autoencoder(make)
        optimizer = optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.updates))
        learned, rest = eqx.partition(vae, eqx.is_inexact_array)

        def update(carry: Any, key: Array) -> tuple[Any, None]:
            learned, state = carry
            draw, noise = jax.random.split(key)
            rows = jax.random.randint(draw, (self.batch_size,), 0, count)
            images = jax.vmap(self.picture)(jax.tree.map(lambda x: x[rows], observations))
            images = images.reshape(self.batch_size, -1)
            keys = jax.random.split(noise, self.batch_size)

            def loss(learned: BetaVAE) -> Array:
                vae = eqx.combine(learned, rest)
                return jax.vmap(vae.loss)(images, keys).mean()

            change, state = optimizer.update(jax.grad(loss)(learned), state, learned)
            return (eqx.apply_updates(learned, change), state), None

        carry = learned, optimizer.init(learned)
        (learned, _), _ = jax.lax.scan(update, carry, jax.random.split(train, self.updates))
        vae = eqx.combine(learned, rest)
        latents = jax.lax.map(lambda o: vae.encode(self.picture(o).ravel())[0], observations, batch_size=256)
        other = latents[jax.random.randint(pair, (count,), 0, count)]
        return Perception(vae, fit_prior(latents), latents, -latent_reward(latents, other).mean())

    def practice(self, perception: Perception, **settings: Any) -> Learner:
        """The Learner that practises in a latent space; `settings` are those of `q_learning`."""
        return practise(
            self.learner, self.environment, self.params, see=lambda seen: perception.see(self.picture(seen)),
            goals=perception.goals, reward=perception.reward, future=self.future, imagination=self.imagination,
            **settings,
        )  # fmt: skip

    def act(self, network: QNetwork, perception: Perception, observation: PyTree, shown: PyTree) -> Int[Array, ""]:
        """The greedy action towards what is shown, an observation like the present one."""
        now, goal = (perception.see(self.picture(x)) for x in (observation, shown))
        return self.learner.values(network, GoalObservation(now, goal)).mean(0).argmax()
