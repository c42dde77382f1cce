"""Proximal policy optimisation: rejax's PPO as a Learner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import rejax
from gymnax.environments.environment import Environment
from jaxtyping import Array, Float, Key, PyTree

from unseen.lab import Learner, UserError


class Policy(eqx.Module):
    """A trained actor. Call it with one observation for the most likely action.

    Attributes:
        parameters: of the flax actor.
        actor: the flax module (`rejax.networks.DiscretePolicy` or `GaussianPolicy`).
    """

    parameters: PyTree
    actor: Any = eqx.field(static=True)

    def __call__(self, observation: Float[Array, " obs"]) -> Array:
        """The mode of the action distribution (continuous actions are clipped by the simulator)."""
        return self._distribution(observation).mode()[0]

    def sample(self, key: Key[Array, ""], observation: Float[Array, " obs"]) -> Array:
        """An action drawn from the policy."""
        return self._distribution(observation).sample(seed=key)[0]

    def _distribution(self, observation: Float[Array, " obs"]) -> Any:
        return self.actor.apply(self.parameters, observation[None], method="_action_dist")


def episode_return(
    environment: Environment, params: Any, act: Callable[[Any, Any], Any], key: Key[Array, ""]
) -> Float[Array, ""]:
    """Undiscounted return of one episode, until the environment ends it or its time limit.

    Args:
        act: (key, observation) -> action.
        params: the environment's parameters, with a static `max_steps_in_episode`.
    """
    start, run = jax.random.split(key)
    observation, state = environment.reset_env(start, params)

    def step(carry, key):
        observation, state, alive, total = carry
        act_key, step_key = jax.random.split(key)
        observation, state, reward, terminated, _ = environment.step_env(
            step_key, state, act(act_key, observation), params
        )
        return (observation, state, alive & ~terminated, total + jnp.where(alive, reward, 0.0)), None

    carry = observation, state, jnp.array(True), jnp.zeros(())
    carry, _ = jax.lax.scan(step, carry, jax.random.split(run, params.max_steps_in_episode))
    return carry[3]


def ppo(
    environment: Environment,
    params: Any = None,
    *,
    total_steps: int = 300_000,
    every: int = 1,
    measure: Callable[[Policy], dict[str, Any]] | None = None,
    final: Callable[[Policy], dict[str, Any]] | None = None,
    learning_rate: float | Float[Array, ""] = 3e-4,
    gamma: float | Float[Array, ""] = 0.99,
    gae_lambda: float | Float[Array, ""] = 0.95,
    clip_eps: float | Float[Array, ""] = 0.2,
    ent_coef: float | Float[Array, ""] = 0.0,
    vf_coef: float | Float[Array, ""] = 0.5,
    max_grad_norm: float | Float[Array, ""] = 0.5,
    num_envs: int = 64,
    num_steps: int = 64,
    num_epochs: int = 4,
    num_minibatches: int = 16,
    normalize_rewards: bool = False,
    width: int = 64,
    depth: int = 2,
    activation: str = "tanh",
    **learner: Any,
) -> Learner:
    """PPO on any gymnax environment, trained by rejax itself (Schulman et al. 2017; rejax's defaults differ
    from the ones here: 8 epochs, swish, no gradient clipping, entropy bonus 0.01).

    Args:
        environment: with gymnax 1.0's interface.
        params: its parameters; may hold traced arrays.
        total_steps: environment steps, rounded to whole iterations of `num_envs * num_steps`.
        every: iterations between two measurements.
        measure, final: policy -> {name: array}, see `Learner`.
        learning_rate ... max_grad_norm: numbers, may be traced.
        num_envs ... activation: fix the compiled program.
        learner: further settings of the Learner (dims, coords).

    As in rejax, a time limit counts as the end of the episode (no bootstrapping from the cut-off state).

    Raises:
        UserError: if a rollout does not split into equal minibatches.
    """
    batch = num_envs * num_steps
    if batch % num_minibatches:
        raise UserError(f"num_minibatches takes a divisor of num_envs * num_steps = {batch}, got {num_minibatches}.")
    algorithm = rejax.PPO.create(
        env=_FiveTuple(environment),
        num_envs=num_envs,
        num_steps=num_steps,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        normalize_rewards=normalize_rewards,
        agent_kwargs={"hidden_layer_sizes": (width,) * depth, "activation": activation},
    ).replace(  # after `create`, which would deep-copy traced values
        env_params=environment.default_params if params is None else params,
        learning_rate=learning_rate,
        gamma=gamma,
        gae_lambda=gae_lambda,
        clip_eps=clip_eps,
        ent_coef=ent_coef,
        vf_coef=vf_coef,
        max_grad_norm=max_grad_norm,
    )
    # rejax makes a new state class, and optax new closures, at every `init_state`: two such states have unequal
    # tree structures and could neither be stacked nor restored. So the Learner's state is the arrays alone, and
    # each traced function makes the structure anew (what it computes for it is dead code to the compiler).
    # Types are those after an iteration, because rejax starts its counters as Python ints.
    start = jax.eval_shape(algorithm.init_state, jax.random.key(0))
    types = [leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(algorithm.train_iteration, start))]

    def restored(leaves):
        return jax.tree.unflatten(jax.tree.structure(algorithm.init_state(jax.random.key(0))), leaves)

    def init(key):
        leaves = jax.tree.leaves(algorithm.init_state(key))
        return tuple(
            leaf if jnp.issubdtype(dtype, jax.dtypes.prng_key) else jnp.asarray(leaf, dtype)
            for leaf, dtype in zip(leaves, types, strict=True)
        )

    def advance(leaves):
        state, _ = jax.lax.scan(lambda s, _: (algorithm.train_iteration(s), None), restored(leaves), None, every)
        return tuple(jax.tree.leaves(state))

    def policy(leaves) -> Policy:
        return Policy(restored(leaves).actor_ts.params, algorithm.actor)

    rounds = max(1, round(total_steps / batch / every))
    return Learner(
        init=init,
        advance=advance,
        measure=(lambda leaves: measure(policy(leaves))) if measure else lambda leaves: {},
        final=(lambda leaves: final(policy(leaves))) if final else None,
        steps=rounds * every,
        every=every,
        **learner,
    )


class _FiveTuple:
    """rejax 0.1.3 expects `step` to return five values with one `done`, gymnax 1.0 returns six: terminated and
    truncated apart. Everything else is passed on."""

    def __init__(self, environment: Environment):
        self.environment = environment

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "environment":
            raise AttributeError(name)
        return getattr(self.environment, name)

    def step(self, key, state, action, params):
        """observation, state, reward, done, info."""
        observation, state, reward, terminated, truncated, info = self.environment.step(key, state, action, params)
        return observation, state, reward, terminated | truncated, info

    def reset(self, key, params):
        """observation, state."""
        return self.environment.reset(key, params)
