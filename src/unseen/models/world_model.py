"""Learned predictors of a world, for small observations: what is seen, what follows, what was done."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray


class ForwardModel(eqx.Module):
    """One step ahead: (observation, action) -> mean of the next observation, as a change of the present one.

    Attributes:
        net: what computes the change; depth 0 is linear.
    """

    net: eqx.nn.MLP

    def __init__(self, observation: int, action: int, width: int = 128, depth: int = 1, *, key: PRNGKeyArray):
        self.net = eqx.nn.MLP(observation + action, observation, width, depth, key=key)

    def __call__(self, observation: Float[Array, " obs"], action: Float[Array, " action"]) -> Float[Array, " obs"]:
        """The expected next observation. Actions are vectors; give numbered ones one-hot."""
        return observation + self.net(jnp.concatenate([observation, action]))

    def error(
        self, observation: Float[Array, " obs"], action: Float[Array, " action"], following: Float[Array, " obs"]
    ) -> Float[Array, ""]:
        """Half the squared distance between prediction and what followed."""
        return 0.5 * jnp.sum((self(observation, action) - following) ** 2)


class InverseModel(eqx.Module):
    """What was done between two observations: logits of a numbered action, or the mean of a continuous one.

    Attributes:
        net: reads both observations side by side; depth 0 is linear.
    """

    net: eqx.nn.MLP

    def __init__(self, observation: int, action: int, width: int = 128, depth: int = 1, *, key: PRNGKeyArray):
        self.net = eqx.nn.MLP(2 * observation, action, width, depth, key=key)

    def __call__(self, observation: Float[Array, " obs"], following: Float[Array, " obs"]) -> Float[Array, " action"]:
        """Logits or mean."""
        return self.net(jnp.concatenate([observation, following]))


class BetaVAE(eqx.Module):
    """Observations as a few numbers with a standard normal prior, and back (Higgins et al., 2017).

    Attributes:
        encoder: observation -> mean and log variance of the latent.
        decoder: latent -> mean of the observation, unit variance.
        beta: weight of the divergence from the prior, not learned; 1 is the variational autoencoder.
    """

    encoder: eqx.nn.MLP
    decoder: eqx.nn.MLP
    beta: float | Float[Array, ""]

    def __init__(
        self, observation: int, latent: int = 8, width: int = 128, depth: int = 1, beta: float | Array = 1.0,
        *, key: PRNGKeyArray,
    ):  # fmt: skip
        down, up = jax.random.split(key)
        self.encoder = eqx.nn.MLP(observation, 2 * latent, width, depth, key=down)
        self.decoder = eqx.nn.MLP(latent, observation, width, depth, key=up)
        self.beta = beta

    def encode(self, observation: Float[Array, " obs"]) -> tuple[Float[Array, " latent"], Float[Array, " latent"]]:
        """Mean and log variance."""
        mean, log_variance = jnp.split(self.encoder(observation), 2)
        return mean, jnp.clip(log_variance, -10, 4)

    def decode(self, latent: Float[Array, " latent"]) -> Float[Array, " obs"]:
        """Mean of the observation."""
        return self.decoder(latent)

    def loss(self, observation: Float[Array, " obs"], key: Key[Array, ""]) -> Float[Array, ""]:
        """Half the squared error of a reconstruction from a drawn latent, plus beta times the divergence."""
        mean, log_variance = self.encode(observation)
        latent = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
        error = 0.5 * jnp.sum((self.decode(latent) - observation) ** 2)
        return error + jax.lax.stop_gradient(self.beta) * divergence(mean, log_variance)


def divergence(mean: Float[Array, " latent"], log_variance: Float[Array, " latent"]) -> Float[Array, ""]:
    """KL(N(mean, variance) || N(0, 1)), summed over components, in nats."""
    return 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance)


class Foreseen(NamedTuple):
    """What a latent dynamics expects of a step.

    Attributes:
        latent: of the next observation.
        reward: of the step.
        ends: logit of the probability that nothing follows.
    """

    latent: Float[Array, "*batch latent"]
    reward: Float[Array, "*batch"]
    ends: Float[Array, "*batch"]


class LatentDynamics(eqx.Module):
    """Recurrent dynamics of latents, with heads for reward and termination.

    Attributes:
        cell: (latent and action, memory) -> memory.
        following, reward, ends: read the new memory.
    """

    cell: eqx.nn.GRUCell
    following: eqx.nn.Linear
    reward: eqx.nn.Linear
    ends: eqx.nn.Linear

    def __init__(self, latent: int, action: int, memory: int = 64, *, key: PRNGKeyArray):
        cell, following, reward, ends = jax.random.split(key, 4)
        self.cell = eqx.nn.GRUCell(latent + action, memory, key=cell)
        self.following = eqx.nn.Linear(memory, latent, key=following)
        self.reward = eqx.nn.Linear(memory, 1, key=reward)
        self.ends = eqx.nn.Linear(memory, 1, key=ends)

    def start(self) -> Float[Array, " memory"]:
        """The memory before a first step."""
        return jnp.zeros(self.cell.hidden_size)

    def __call__(
        self, memory: Float[Array, " memory"], latent: Float[Array, " latent"], action: Float[Array, " action"]
    ) -> tuple[Float[Array, " memory"], Foreseen]:
        """The memory after a step, and what it foresees."""
        memory = self.cell(jnp.concatenate([latent, action]), memory)
        return memory, Foreseen(self.following(memory), self.reward(memory)[0], self.ends(memory)[0])


class Segment(NamedTuple):
    """Consecutive steps of one stream of experience; leading axes are batch axes.

    Attributes:
        observation: before each step, and after the last one.
        action: vectors.
        reward: of each step.
        ends: where nothing follows.
        first: where a step is the first of its episode: what was before is forgotten there.
        valid: which steps count.
    """

    observation: Float[Array, "*batch time+1 obs"]
    action: Float[Array, "*batch time action"]
    reward: Float[Array, "*batch time"]
    ends: Bool[Array, "*batch time"]
    first: Bool[Array, "*batch time"]
    valid: Bool[Array, "*batch time"]


class WorldModel(eqx.Module):
    """A world in which to imagine: an encoder and decoder of observations, and the dynamics of their latents.

    Every part works alone; `ForwardModel` and `InverseModel` are further heads for who has no use of the rest.

    Example:
        >>> model = WorldModel(BetaVAE(90, 16, key=k1), LatentDynamics(16, 4, key=k2))
        >>> gradient = eqx.filter_grad(lambda m: m.loss(segment, key))(model)

    Attributes:
        vae: observation <-> latent.
        dynamics: latent, action -> next latent, reward, end.
    """

    vae: BetaVAE
    dynamics: LatentDynamics

    def watch(
        self, observation: Float[Array, "time obs"], action: Float[Array, "time action"], first: Bool[Array, " time"]
    ) -> tuple[Float[Array, "time memory"], Float[Array, "time latent"], Foreseen]:
        """Along real steps: the memory before each, the latent then, and what was foreseen of the step."""
        latent = jax.vmap(lambda seen: self.vae.encode(seen)[0])(observation)

        def step(memory: Array, now: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Foreseen]]:
            latent, action, first = now
            memory = jnp.where(first, self.dynamics.start(), memory)
            after, foreseen = self.dynamics(memory, latent, action)
            return after, (memory, foreseen)

        _, (memory, foreseen) = jax.lax.scan(step, self.dynamics.start(), (latent, action, first))
        return memory, latent, foreseen

    def loss(self, segment: Segment, key: Key[Array, ""]) -> Float[Array, ""]:
        """Of one segment: the autoencoder's loss, half the squared errors of foreseen latents (against the encoder's,
        which are not pulled), of the observations decoded from them and of rewards, and the cross-entropy of ends;
        means over steps that count."""
        _, _, foreseen = self.watch(segment.observation[:-1], segment.action, segment.first)
        following = segment.observation[1:]
        target = jax.lax.stop_gradient(jax.vmap(lambda seen: self.vae.encode(seen)[0])(following))
        keys = jax.random.split(key, len(following))
        seen = jax.vmap(self.vae.loss)(following, keys)
        latent = 0.5 * jnp.sum((foreseen.latent - target) ** 2, -1)
        decoded = 0.5 * jnp.sum((jax.vmap(self.vae.decode)(foreseen.latent) - following) ** 2, -1)
        reward = 0.5 * (foreseen.reward - segment.reward) ** 2
        ends = jax.nn.softplus(foreseen.ends) - segment.ends * foreseen.ends
        # What is seen after an end belongs to no step that a policy could reach.
        total = seen + jnp.where(segment.ends, 0.0, latent + decoded) + reward + ends
        return jnp.sum(total * segment.valid) / jnp.maximum(segment.valid.sum(), 1)
