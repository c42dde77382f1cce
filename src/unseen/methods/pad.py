"""A policy that goes on learning to see, without any reward, where it is deployed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from unseen.lab import UserError

Images = Float[Array, "n height width channels"]
Encoder = Callable[[Array], Array]


class Moments(NamedTuple):
    """Transitions without their rewards.

    Attributes:
        before, after: images.
        action: what was done between them.
    """

    before: Images
    action: Float[Array, "n action"]
    after: Images


class SelfSupervisedTask(Protocol):
    """What a policy can go on learning from observations alone, with an encoder that is not its own."""

    def loss(self, encoder: Encoder, moments: Moments, key: Key[Array, ""]) -> Float[Array, ""]:
        """Mean loss on some moments."""
        ...


class InverseDynamicsTask(eqx.Module):
    """Which action led from one image to the next? Squared error of a head on the features of both.

    Attributes:
        head: features of both images, side by side -> action.

    Source: Hansen et al. (2021), section 3.3; Pathak et al. (2017).
    """

    head: eqx.nn.MLP

    def __init__(self, features: int, actions: int, width: int = 64, depth: int = 1, *, key: Key[Array, ""]):
        self.head = eqx.nn.MLP(2 * features, actions, width, depth, key=key)

    def __call__(
        self, before: Float[Array, "n features"], after: Float[Array, "n features"]
    ) -> Float[Array, "n action"]:
        """Guessed actions."""
        return jax.vmap(self.head)(jnp.concatenate([before, after], -1))

    def loss(self, encoder: Encoder, moments: Moments, key: Key[Array, ""]) -> Float[Array, ""]:
        """Mean squared error; no randomness."""
        guess = self(encoder(moments.before), encoder(moments.after))
        return jnp.square(guess - moments.action).mean()


class RotationTask(eqx.Module):
    """By how many quarter turns was an image turned? Cross-entropy of a head on its features.

    Attributes:
        head: features -> logits of the four turns.

    Source: Hansen et al. (2021), section 3.3; Gidaris et al. (2018).
    """

    head: eqx.nn.MLP

    def __init__(self, features: int, width: int = 64, depth: int = 1, *, key: Key[Array, ""]):
        self.head = eqx.nn.MLP(features, 4, width, depth, key=key)

    def loss(self, encoder: Encoder, moments: Moments, key: Key[Array, ""]) -> Float[Array, ""]:
        """Mean cross-entropy on the later images, each turned at random."""
        turns = jax.random.randint(key, moments.after.shape[:1], 0, 4)
        logits = jax.vmap(self.head)(encoder(turned(moments.after, turns)))
        return optax.softmax_cross_entropy_with_integer_labels(logits, turns).mean()


def turned(images: Images, turns: Int[Array, " n"]) -> Images:
    """Every square image turned by its own number of quarter turns, counter-clockwise."""
    four = jnp.stack([jnp.rot90(images, k, (1, 2)) for k in range(4)])
    return jnp.einsum("kn,knhwc->nhwc", jax.nn.one_hot(turns, 4, axis=0), four)


def shifted_copies(key: Key[Array, ""], moment: Moments, count: int, pixels: int) -> Moments:
    """Copies of one moment (no leading axis), each moved by up to `pixels` in either direction, its edges repeated.

    Both images of a copy move together: a shift of its own for each would look like an action.
    """
    shifts = jax.random.randint(key, (count, 2), 0, 2 * pixels + 1)

    def moved(image: Array) -> Array:
        wide = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), "edge")
        return jax.vmap(lambda at: jax.lax.dynamic_slice(wide, (at[0], at[1], 0), image.shape))(shifts)

    action = jnp.broadcast_to(moment.action, (count, *moment.action.shape))
    return Moments(moved(moment.before), action, moved(moment.after))


class PADPolicy(eqx.Module):
    """A policy that shares its encoder with a self-supervised task.

    Attributes:
        encoder: batch of images -> batch of features.
        actor: features -> mean action.
        task: an `InverseDynamicsTask` or a `RotationTask`.
    """

    encoder: Any
    actor: Any
    task: Any

    def __call__(self, image: Float[Array, "height width channels"]) -> Float[Array, " action"]:
        """The action for one image."""
        return self.actor(self.encoder(image[None])[0])

    def joint_loss(
        self,
        policy_loss: Float[Array, ""],
        moments: Moments,
        key: Key[Array, ""],
        weight: float | Float[Array, ""] = 1.0,
    ) -> Float[Array, ""]:
        """What training minimises: the loss of the policy plus that of the task, which both reach the encoder.

        Source: Hansen et al. (2021), equation 1.
        """
        return policy_loss + weight * self.task.loss(self.encoder, moments, key)


class PADState(NamedTuple):
    """A policy in deployment.

    Attributes:
        policy: as it is now.
        optimizer: state, of the encoder and the task.
        actions: the latest ones, a ring; and how many there were.
    """

    policy: PADPolicy
    optimizer: Any
    actions: Float[Array, "memory action"]
    count: Int[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PAD:
    """Policy adaptation during deployment: one gradient step of the self-supervised task on every transition.

    The encoder and the task's head learn, the actor stays. A step is on `batch` shifted copies of the newest
    transition; nothing is kept of the others.

    Attributes:
        optimizer: of encoder and head.
        batch: copies.
        pixels: by which they are shifted, at most.
        labels: "own" actions; or, as a control, those of "shuffled" other moments among the last `memory`, which leaves
            the size of the updates and takes away what they say.
        memory: latest actions that are remembered, for this control only.

    Raises:
        UserError: on unknown labels or sizes below 1.

    Source: Hansen et al., "Self-Supervised Policy Adaptation during Deployment" (2021), section 3.2 and equation 2.
    """

    optimizer: optax.GradientTransformation
    batch: int = 32
    pixels: int = 1
    labels: Literal["own", "shuffled"] | str = "own"
    memory: int = 64

    def __post_init__(self) -> None:
        if self.labels not in ("own", "shuffled"):
            raise UserError(f"labels takes own or shuffled, got {self.labels!r}.")
        for name, least in (("batch", 1), ("pixels", 0), ("memory", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} takes a whole number from {least} on, got {getattr(self, name)}.")

    def init(self, policy: PADPolicy, actions: int) -> PADState:
        """Before the first step of a deployment; `actions` is the length of an action."""
        learned = eqx.filter((policy.encoder, policy.task), eqx.is_inexact_array)
        return PADState(
            policy, self.optimizer.init(learned), jnp.zeros((self.memory, actions)), jnp.zeros((), jnp.int32)
        )

    def update(self, state: PADState, moment: Moments, key: Key[Array, ""]) -> tuple[PADState, Float[Array, ""]]:
        """One step on one moment (no leading axis), and the loss before it."""
        copy, other, turn = jax.random.split(key, 3)
        actions = state.actions.at[state.count % self.memory].set(moment.action)
        count = state.count + 1
        if self.labels == "shuffled":
            known = jnp.minimum(count, self.memory)
            moment = moment._replace(action=actions[jax.random.randint(other, (), 0, known)])
        batch = shifted_copies(copy, moment, self.batch, self.pixels)
        arrays, static = eqx.partition((state.policy.encoder, state.policy.task), eqx.is_inexact_array)

        def loss(arrays: Any) -> Float[Array, ""]:
            encoder, task = eqx.combine(arrays, static)
            return task.loss(encoder, batch, turn)

        value, gradient = jax.value_and_grad(loss)(arrays)
        change, optimizer = self.optimizer.update(gradient, state.optimizer, arrays)
        encoder, task = eqx.combine(eqx.apply_updates(arrays, change), static)
        policy = PADPolicy(encoder, state.policy.actor, task)
        return PADState(policy, optimizer, actions, count), value


class Deployment(NamedTuple):
    """What happened: reward and self-supervised loss of every step, and the policy at the end."""

    rewards: Float[Array, " steps"]
    losses: Float[Array, " steps"]
    policy: PADPolicy


def deploy(
    policy: PADPolicy, environment: Any, params: Any, adapter: PAD | None, steps: int, key: Key[Array, ""]
) -> Deployment:
    """Plays a policy's mean actions for some steps, episode after episode, while it adapts.

    Args:
        environment, params: with gymnax's interface, observations are images.
        adapter: None leaves the policy as it is; its losses are then 0. The environment's draws are the same.
        steps: transitions, and gradient steps.

    Raises:
        UserError: on steps below 1.
    """
    if steps < 1:
        raise UserError(f"steps takes a whole number from 1 on, got {steps}.")
    begin, go = jax.random.split(key)
    observation, inner = environment.reset(begin, params)
    begun = policy if adapter is None else adapter.init(policy, environment.action_space(params).shape[0])
    arrays, static = eqx.partition(begun, eqx.is_array)

    def playing(state: Any) -> PADPolicy:
        return state if adapter is None else state.policy

    def step(carry: tuple[Any, Any, Any], key: Array) -> tuple[Any, tuple[Array, Array]]:
        arrays, seen, inner = carry
        state = eqx.combine(arrays, static)
        move, learn = jax.random.split(key)
        action = playing(state)(seen)
        # The image after the step, not that of a new episode which gymnax's `step` would return at a time limit.
        after, last, reward, terminated, _ = environment.step_env(move, inner, action, params)
        value = jnp.zeros(())
        if adapter is not None:
            state, value = adapter.update(state, Moments(seen, action, after), learn)
        over = terminated | (last.time >= params.max_steps_in_episode)
        fresh, anew = environment.reset_env(jax.random.fold_in(move, 1), params)
        seen, inner = jax.tree.map(lambda new, old: jnp.where(over, new, old), (fresh, anew), (after, last))
        return (eqx.filter(state, eqx.is_array), seen, inner), (reward, value)

    start = arrays, observation, inner
    (arrays, _, _), (rewards, losses) = jax.lax.scan(step, start, jax.random.split(go, steps))
    return Deployment(rewards, losses, playing(eqx.combine(arrays, static)))
