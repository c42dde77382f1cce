"""Policies on feature vectors: a multilayer perceptron with a Gaussian or a categorical head."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class GaussianPolicy(eqx.Module):
    """N(mean(features), std^2) over actions in [-1, 1]: the mean through a tanh, one learned std a component.

    Attributes:
        mlp: features -> mean before the tanh.
        log_std: kept between -5 and 2.
    """

    mlp: eqx.nn.MLP
    log_std: Float[Array, " action"]

    def __init__(self, features: int, actions: int, width: int = 64, depth: int = 2, *, key: PRNGKeyArray):
        self.mlp = eqx.nn.MLP(features, actions, width, depth, key=key)
        self.log_std = jnp.zeros(actions)

    def __call__(self, features: Float[Array, " features"]) -> Float[Array, " action"]:
        """The mean action."""
        return jnp.tanh(self.mlp(features))

    def log_prob(self, features: Float[Array, " features"], action: Float[Array, " action"]) -> Float[Array, ""]:
        """Log density of an action."""
        log_std = jnp.clip(self.log_std, -5, 2)
        error = (action - self(features)) * jnp.exp(-log_std)
        return jnp.sum(-0.5 * error**2 - log_std - 0.5 * jnp.log(2 * jnp.pi))


class CategoricalPolicy(eqx.Module):
    """A categorical distribution over numbered actions.

    Attributes:
        mlp: features -> logits.
    """

    mlp: eqx.nn.MLP

    def __init__(self, features: int, actions: int, width: int = 64, depth: int = 2, *, key: PRNGKeyArray):
        self.mlp = eqx.nn.MLP(features, actions, width, depth, key=key)

    def __call__(self, features: Float[Array, " features"]) -> Int[Array, ""]:
        """The most probable action."""
        return jnp.argmax(self.mlp(features))

    def log_probs(self, features: Float[Array, " features"]) -> Float[Array, " action"]:
        """Log probabilities of all actions."""
        return jax.nn.log_softmax(self.mlp(features))

    def log_prob(self, features: Float[Array, " features"], action: Int[Array, ""]) -> Float[Array, ""]:
        """Log probability of an action."""
        return self.log_probs(features)[action]
