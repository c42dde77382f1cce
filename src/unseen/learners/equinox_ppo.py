"""PPO for a policy of your own: rejax's algorithm with an Equinox module as its actor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import rejax
from gymnax.environments.environment import Environment
from jaxtyping import Array, Float

from unseen.lab import Learner, UserError
from unseen.learners.ppo import _FiveTuple, _leaves_of, _state_of


class GaussianActor:
    """What rejax expects of its flax actor, around an Equinox module that gives the mean of every action component.

    The components have one learned deviation in common, which makes sense for bodies with different numbers of them.
    A component whose `mask` is 0 counts neither in probabilities nor in the entropy.

    Attributes:
        model: key -> module, observations -> means. What is no float array in it must not depend on the key.
        mask: observations -> 1 for the components that exist; broadcast against the means.
    """

    def __init__(self, model: Callable[[Any], Any], mask: Callable[[Any], Any]):
        self.model, self.mask = model, mask
        self.rest = eqx.partition(model(jax.random.key(0)), eqx.is_inexact_array)[1]

    def init(self, key: Any, observations: Any, _: Any = None) -> dict[str, Any]:
        """The parameters."""
        return {"model": eqx.filter(self.model(key), eqx.is_inexact_array), "log_std": jnp.zeros(())}

    def module(self, parameters: Mapping[str, Any]) -> Any:
        """The Equinox module with these parameters."""
        return eqx.combine(parameters["model"], self.rest)

    def apply(self, parameters: Mapping[str, Any], observations: Any, *more: Any, method: str) -> Any:
        """rejax's two calls: `action_log_prob` with a key, `log_prob_entropy` with actions."""
        mean = self.module(parameters)(observations)
        log_std, mask = parameters["log_std"], jnp.broadcast_to(self.mask(observations), mean.shape)
        if method == "action_log_prob":
            noise = jax.random.normal(more[0], mean.shape)
            return mean + jnp.exp(log_std) * noise, _log_prob(noise, log_std, mask)
        if method == "log_prob_entropy":
            entropy = (mask * (log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e))).sum(-1)
            return _log_prob((more[0] - mean) * jnp.exp(-log_std), log_std, mask), entropy
        raise AttributeError(method)


def _log_prob(noise: Array, log_std: Array, mask: Array) -> Array:
    return -(mask * (0.5 * noise**2 + log_std + 0.5 * jnp.log(2 * jnp.pi))).sum(-1)


def equinox_ppo(
    model: Callable[[Any], Any],
    environment: Environment,
    params: Any = None,
    *,
    mask: Callable[[Any], Any] = lambda observations: jnp.ones(()),
    total_steps: int = 300_000,
    every: int = 1,
    measure: Callable[[Any], Mapping[str, Array]] | None = None,
    final: Callable[[Any], Mapping[str, Array]] | None = None,
    learning_rate: float | Float[Array, ""] = 1e-3,
    gamma: float | Float[Array, ""] = 0.97,
    gae_lambda: float | Float[Array, ""] = 0.95,
    clip_eps: float | Float[Array, ""] = 0.2,
    ent_coef: float | Float[Array, ""] = 0.0,
    vf_coef: float | Float[Array, ""] = 0.5,
    max_grad_norm: float | Float[Array, ""] = 0.5,
    num_envs: int = 64,
    num_steps: int = 64,
    num_epochs: int = 2,
    num_minibatches: int = 16,
    normalize_rewards: bool = True,
    anneal: bool = True,
    critic_width: int = 64,
    **layout: Any,
) -> Learner:
    """PPO as in `ppo`, but for a network of your own and observations of any shape: a Gaussian policy whose means the
    network gives, without bounds (the environment clips; means that a tanh bounds collapsed in our pilots). The
    critic is rejax's, two layers on the flat observation.

    Args:
        model: key -> equinox module, batch of observations -> batch of mean actions.
        environment: with gymnax 1.0's interface and actions in a box.
        params: its parameters; may hold traced arrays.
        mask: batch of observations -> which components of the actions exist.
        total_steps: environment steps, rounded to whole iterations of `num_envs * num_steps`.
        every: iterations between two measurements.
        measure, final: trained module -> {name: array}, see `Learner`.
        learning_rate ... max_grad_norm: numbers, may be traced.
        anneal: whether the learning rate falls linearly to 0 over the run, or stays.
        num_envs ... critic_width: fix the compiled program.
        layout: dims and coords of the Learner.

    Example:
        >>> from unseen.models import AnyMorphPolicy
        >>> from unseen.worlds.control import Embodiments
        >>> learner = equinox_ppo(lambda key: AnyMorphPolicy(key=key), Embodiments(), mask=lambda o: o[..., 0])
        >>> state = learner.advance(learner.init(jax.random.key(0)))  # doctest: +SKIP

    Raises:
        UserError: if a rollout does not split into equal minibatches.
    """
    batch = num_envs * num_steps
    if batch % num_minibatches:
        raise UserError(f"num_minibatches takes a divisor of num_envs * num_steps = {batch}, got {num_minibatches}.")
    rounds = max(1, round(total_steps / batch / every))
    updates = rounds * every * num_epochs * num_minibatches
    actor = GaussianActor(model, mask)
    algorithm = rejax.PPO.create(
        env=_FiveTuple(environment),
        num_envs=num_envs,
        num_steps=num_steps,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        normalize_rewards=normalize_rewards,
        agent_kwargs={"hidden_layer_sizes": (critic_width,) * 2, "activation": "tanh"},
    ).replace(
        actor=actor,
        env_params=environment.default_params if params is None else params,
        learning_rate=optax.linear_schedule(learning_rate, 0.0, updates) if anneal else learning_rate,
        gamma=gamma,
        gae_lambda=gae_lambda,
        clip_eps=clip_eps,
        ent_coef=ent_coef,
        vf_coef=vf_coef,
        max_grad_norm=max_grad_norm,
    )

    def advance(leaves: Any) -> Any:
        start = _state_of(algorithm, leaves)
        state, _ = jax.lax.scan(lambda s, _: (algorithm.train_iteration(s), None), start, None, every)
        return tuple(jax.tree.leaves(state))

    def trained(leaves: Any) -> Any:
        return actor.module(_state_of(algorithm, leaves).actor_ts.params)

    return Learner(
        init=lambda key: _leaves_of(algorithm, key),
        advance=advance,
        measure=(lambda leaves: measure(trained(leaves))) if measure else lambda leaves: {},
        final=(lambda leaves: final(trained(leaves))) if final else None,
        steps=rounds * every,
        every=every,
        **layout,
    )
