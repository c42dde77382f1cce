"""Actor-critic in a world model: a policy that trains on imagined episodes alone, faithful or dream-like ones."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError
from unseen.methods.dreams import Dream
from unseen.methods.policy_gradient import advantages
from unseen.models.policy import CategoricalPolicy
from unseen.models.world_model import Segment, WorldModel


class ActorCritic(eqx.Module):
    """Both read a latent.

    Attributes:
        policy: over numbered actions.
        value: discounted return.
    """

    policy: CategoricalPolicy
    value: eqx.nn.MLP


class Imagined(NamedTuple):
    """An imagined episode; leading axes are batch axes.

    Attributes:
        latent: before each step, and after the last one.
        action, reward: of each step.
        ends: the model says that nothing follows the step.
        valid: nothing has ended before the step.
    """

    latent: Float[Array, "*batch time+1 latent"]
    action: Int[Array, "*batch time"]
    reward: Float[Array, "*batch time"]
    ends: Bool[Array, "*batch time"]
    valid: Bool[Array, "*batch time"]


class ImaginationState(NamedTuple):
    """State of training."""

    agent: ActorCritic
    optimizer: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imagination:
    """An actor-critic that lives in a `WorldModel`: it starts from real states, takes the model's word for what
    follows, and learns by policy gradients on lambda-returns, with an entropy bonus.

    Dreams (see `unseen.methods.dreams`) edit each predicted latent before anything is done with it; without any the
    imagination is faithful. A policy reads latents only, so that it acts on a real observation through the encoder.

    Example:
        >>> imagination = Imagination(latent=16, actions=4)
        >>> state = imagination.init(key)
        >>> state = imagination.update(state, model, starts, key, [RandomSwing(1.0)])
        >>> state.agent.policy(model.vae.encode(observation)[0])

    Source: after Hafner et al. (2021, arXiv 2010.02193; policy gradients for numbered actions); the dreams after
    Franceschelli and Musolesi (2024, arXiv 2403.07979).

    Attributes:
        latent: size of the model's latents.
        actions: how many there are.
        horizon: imagined steps.
        gamma, trace: discount, and lambda of the returns.
        entropy: weight of the policy's entropy.
        width, depth: of both networks.
        optimizer: of both together.
    """

    latent: int
    actions: int
    horizon: int = 15
    gamma: float = 0.95
    trace: float = 0.95
    entropy: float | Float[Array, ""] = 0.01
    width: int = 64
    depth: int = 1
    optimizer: optax.GradientTransformation = dataclasses.field(
        default_factory=lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    )

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise UserError(f"horizon takes a number of imagined steps from 1 on, got {self.horizon}.")

    def init(self, key: Key[Array, ""]) -> ImaginationState:
        """Untrained."""
        actor, critic = jax.random.split(key)
        agent = ActorCritic(
            CategoricalPolicy(self.latent, self.actions, self.width, self.depth, key=actor),
            eqx.nn.MLP(self.latent, "scalar", self.width, self.depth, key=critic),
        )
        return ImaginationState(agent, self.optimizer.init(eqx.filter(agent, eqx.is_inexact_array)))

    def dream(
        self,
        agent: ActorCritic,
        model: WorldModel,
        start: Float[Array, " latent"],
        key: Key[Array, ""],
        dreams: Sequence[Dream] = (),
    ) -> Imagined:
        """One imagined episode of `horizon` steps from a state, with an empty memory; `dreams` edit in turn."""
        features = functools.partial(hidden, model.vae.decoder)

        def step(carry: tuple[Array, Array, Array], key: Array) -> tuple[Any, Any]:
            memory, latent, over = carry
            act, end, edit = jax.random.split(key, 3)
            action = jax.random.categorical(act, agent.policy.log_probs(latent))
            memory, foreseen = model.dynamics(memory, latent, jax.nn.one_hot(action, self.actions))
            ends = jax.random.bernoulli(end, jax.nn.sigmoid(foreseen.ends))
            following = foreseen.latent
            for i, dream in enumerate(dreams):
                following = dream(jax.random.fold_in(edit, i), following, latent, features=features, value=agent.value)
            return (memory, following, over | ends), (following, action, foreseen.reward, ends, ~over)

        first = model.dynamics.start(), start, jnp.array(False)
        _, (latent, *rest) = jax.lax.scan(step, first, jax.random.split(key, self.horizon))
        return Imagined(jnp.concatenate([start[None], latent]), *rest)

    def update(
        self,
        state: ImaginationState,
        model: WorldModel,
        starts: Float[Array, "batch latent"],
        key: Key[Array, ""],
        dreams: Sequence[Dream] = (),
    ) -> ImaginationState:
        """One gradient step on one imagined episode from each start."""
        keys = jax.random.split(key, len(starts))
        imagined = jax.vmap(lambda start, key: self.dream(state.agent, model, start, key, dreams))(starts, keys)
        learned, static = eqx.partition(state.agent, eqx.is_inexact_array)
        gradient = jax.grad(lambda learned: self.loss(eqx.combine(learned, static), imagined))(learned)
        change, optimizer = self.optimizer.update(gradient, state.optimizer, learned)
        return ImaginationState(eqx.combine(eqx.apply_updates(learned, change), static), optimizer)

    def loss(self, agent: ActorCritic, imagined: Imagined) -> Float[Array, ""]:
        """Of a batch: minus log probability times standardised advantage, minus the entropy bonus, plus half the
        squared error of values against lambda-returns; means over valid steps."""
        value = jax.vmap(jax.vmap(agent.value))(imagined.latent)
        log_probs = jax.vmap(jax.vmap(agent.policy.log_probs))(imagined.latent[:, :-1])
        known = jax.lax.stop_gradient(value)
        found = advantages(imagined.reward.T, known[:, :-1].T, imagined.ends.T, known[:, -1], self.gamma, self.trace).T
        count = imagined.valid.sum()

        def mean(each: Array) -> Array:
            return jnp.sum(each * imagined.valid) / count

        spread = jnp.sqrt(mean((found - mean(found)) ** 2))
        log_prob = jnp.take_along_axis(log_probs, imagined.action[..., None], -1)[..., 0]
        gain = mean(log_prob * found / jnp.maximum(spread, 1e-3))
        entropy = mean(-jnp.sum(jnp.exp(log_probs) * log_probs, -1))
        error = mean(0.5 * (value[:, :-1] - known[:, :-1] - found) ** 2)
        return error - gain - self.entropy * entropy


def hidden(network: eqx.nn.MLP, inputs: Float[Array, " inputs"]) -> Float[Array, " width"]:
    """Activations of a network's last hidden layer."""
    for layer in network.layers[:-1]:
        inputs = jax.vmap(network.activation)(layer(inputs))
    return inputs


def fit_world_model(
    model: WorldModel,
    draw: Callable[[Key[Array, ""]], Segment],
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    *,
    steps: int,
) -> tuple[WorldModel, Float[Array, " steps"]]:
    """The model after `steps` gradient steps on batches of real segments, and the loss at each.

    Args:
        draw: key -> segments with one leading batch axis.
    """
    learned, static = eqx.partition(model, eqx.is_inexact_array)

    def step(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], Array]:
        learned, state = carry
        which, noise = jax.random.split(key)
        segments = draw(which)
        keys = jax.random.split(noise, segments.reward.shape[0])

        def loss(learned: Any) -> Array:
            return jax.vmap(eqx.combine(learned, static).loss)(segments, keys).mean()

        value, gradient = jax.value_and_grad(loss)(learned)
        change, state = optimizer.update(gradient, state, learned)
        return (eqx.apply_updates(learned, change), state), value

    (learned, _), losses = jax.lax.scan(step, (learned, optimizer.init(learned)), jax.random.split(key, steps))
    return eqx.combine(learned, static), losses
