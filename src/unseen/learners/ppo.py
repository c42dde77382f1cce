"""Proximal policy optimisation: rejax's PPO as a Learner."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import rejax
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, Float, Key, PyTree

from unseen.lab import Learner, UserError
from unseen.worlds.control.context import ContextParams, episode_return
from unseen.worlds.control.own import HostContextMDP, Lottery

__all__ = ["Policy", "episode_return", "greedy", "ppo"]


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


def greedy(policy: Policy) -> Any:
    """(key, observation) -> the most likely action, as a pytree: programs that take it are compiled once for all
    policies of one shape."""
    return jax.tree_util.Partial(_mode, policy)


def _mode(policy: Policy, key: Any, observation: Float[Array, " obs"]) -> Array:
    return policy(observation)


def ppo(
    environment: Environment | HostContextMDP,
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
        environment: with gymnax 1.0's interface; or a `HostContextMDP`, which is stepped in Python while every
            update is still rejax's own (one member at a time then, and no traced numbers).
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
    static = dict(
        num_envs=num_envs,
        num_steps=num_steps,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        normalize_rewards=normalize_rewards,
        width=width,
        depth=depth,
        activation=activation,
    )
    numbers = dict(
        learning_rate=learning_rate,
        gamma=gamma,
        gae_lambda=gae_lambda,
        clip_eps=clip_eps,
        ent_coef=ent_coef,
        vf_coef=vf_coef,
        max_grad_norm=max_grad_norm,
    )
    rounds = max(1, round(total_steps / batch / every))
    if isinstance(environment, HostContextMDP):
        trainer = _HostPPO(environment, params or environment.params(), static, numbers)
        return Learner(
            init=trainer.init,
            advance=lambda state: trainer.advance(state, every),
            measure=(lambda state: measure(trainer.policy(state))) if measure else lambda state: {},
            final=lambda state: trainer.finish(state, final),
            steps=rounds * every,
            every=every,
            host=True,
            **learner,
        )
    params = environment.default_params if params is None else params
    algorithm = _algorithm(rejax.PPO, _FiveTuple(environment), params, static, numbers)

    def advance(leaves):
        start = _state_of(algorithm, leaves)
        state, _ = jax.lax.scan(lambda s, _: (algorithm.train_iteration(s), None), start, None, every)
        return tuple(jax.tree.leaves(state))

    def policy(leaves) -> Policy:
        return Policy(_state_of(algorithm, leaves).actor_ts.params, algorithm.actor)

    return Learner(
        init=lambda key: _leaves_of(algorithm, key),
        advance=advance,
        measure=(lambda leaves: measure(policy(leaves))) if measure else lambda leaves: {},
        final=(lambda leaves: final(policy(leaves))) if final else None,
        steps=rounds * every,
        every=every,
        **learner,
    )


def _algorithm(kind: Any, environment: Any, params: Any, static: Mapping[str, Any], numbers: Mapping[str, Any]) -> Any:
    """rejax's algorithm with our names of its settings."""
    rest = dict(static)
    layers, activation = (rest.pop("width"),) * rest.pop("depth"), rest.pop("activation")
    agent = {"hidden_layer_sizes": layers, "activation": activation}
    made = kind.create(env=environment, agent_kwargs=agent, **rest)
    return made.replace(env_params=params, **numbers)  # after `create`, which would deep-copy traced values


# rejax makes a new state class, and optax new closures, at every `init_state`: two such states have unequal tree
# structures and could neither be stacked nor restored. So a Learner's state is the arrays alone, and each traced
# function makes the structure anew (what it computes for it is dead code to the compiler).


def _state_of(algorithm: Any, leaves: Any) -> Any:
    return jax.tree.unflatten(jax.tree.structure(algorithm.init_state(jax.random.key(0))), leaves)


def _leaves_of(algorithm: Any, key: Key[Array, ""]) -> tuple[Any, ...]:
    """Arrays of a new state. rejax starts its counters as Python numbers: those of running means are floats, those
    of steps and updates ints."""
    state = algorithm.init_state(key)
    means = {
        name: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), getattr(state, name))
        for name in ("obs_rms_state", "rew_rms_state")
    }
    leaves = jax.tree.leaves(state.replace(**means))
    return tuple(jnp.asarray(leaf, jnp.int32) if isinstance(leaf, int) else leaf for leaf in leaves)


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


# Environments on the host ------------------------------------------------------------------------------------


def _given(self: Any, ts: Any) -> tuple[Any, Any]:
    """What rejax's `collect_trajectories` gives, from (observations, actions, rewards, ends, last observation)."""
    seen, actions, rewards, ends, last = self.rollout
    if self.normalize_rewards:
        scale, rewards = jax.lax.scan(
            lambda rms, step: self.update_and_normalize_rew(rms, *step), ts.rew_rms_state, (rewards, ends)
        )
        ts = ts.replace(rew_rms_state=scale)
    flat = seen.reshape(-1, seen.shape[-1])
    taken = actions.reshape(-1, *actions.shape[2:])
    log_prob, _ = self.actor.apply(ts.actor_ts.params, flat, taken, method="log_prob_entropy")
    value = self.critic.apply(ts.critic_ts.params, flat)
    played = rejax.algos.ppo.Trajectory(
        seen, actions, log_prob.reshape(ends.shape), rewards, value.reshape(ends.shape), ends
    )
    return ts.replace(last_obs=last, last_done=ends[-1], global_step=ts.global_step + ends.size), played


# rejax's PPO on a rollout that was played elsewhere. Made by hand: rejax annotates its numbers more narrowly than it
# takes them, and a type checker over our own classes would refuse traced ones.
_Given: Any = types.new_class(
    "_Given",
    (rejax.PPO,),
    exec_body=lambda body: body.update(
        __annotations__={"rollout": Any}, rollout=struct.field(default=None), collect_trajectories=_given
    ),
)


class _Outline(Environment):
    """What rejax must know of an environment that it does not step: spaces, and one observation."""

    def __init__(self, observations: int, actions: Any):
        self.observations, self.actions = observations, actions

    def observation_space(self, params: Any = None) -> Any:
        """A vector."""
        return spaces.Box(-jnp.inf, jnp.inf, (self.observations,), jnp.float32)

    def action_space(self, params: Any = None) -> Any:
        """The environment's."""
        return self.actions

    def reset(self, key, params):
        """Zeros."""
        return jnp.zeros(self.observations), jnp.zeros(())


class _HostState:
    """A host member: rejax's arrays, the copies of the environment and the lottery. No pytree: environments cannot
    be written to a checkpoint, so an interrupted member starts again."""

    def __init__(self, leaves: Any, lanes: Any, lottery: Lottery, key: Any):
        self.leaves, self.lanes, self.lottery, self.key = leaves, lanes, lottery, key


class _HostPPO:
    def __init__(self, world: HostContextMDP, params: ContextParams, static: Mapping[str, Any], numbers: Any):
        if any(isinstance(x, jax.core.Tracer) for x in numbers.values()):
            raise UserError("An environment on the host takes numbers, not traced values, as PPO's settings.")
        self.world, self.params, self.static = world, params, static
        self.numbers = {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()}
        self.programs = _programs(world, tuple(sorted(static.items())))

    def init(self, key: Key[Array, ""]) -> _HostState:
        network, contexts, acting = jax.random.split(key, 3)
        lottery = Lottery(self.params.region, contexts)
        lanes = self.world.open(self.static["num_envs"], float(self.params.visible), self.params.max_steps_in_episode)
        for lane in range(len(lanes.copies)):
            lanes.reset(lane, *lottery.draw())
        return _HostState(self.programs["init"](self.numbers, network), lanes, lottery, acting)

    def advance(self, state: _HostState, iterations: int) -> _HostState:
        for _ in range(iterations):
            rollout = self.play(state)
            state.leaves = self.programs["update"](self.numbers, state.leaves, rollout)
        return state

    def play(self, state: _HostState) -> tuple[Any, ...]:
        """One rollout; (steps, copies, ...) arrays, and the observations after it."""
        lanes, steps = state.lanes, self.static["num_steps"]
        count = len(lanes.copies)
        policy = self.policy(state)
        state.key, now = jax.random.split(state.key)
        keys = jax.random.split(now, steps)
        seen = np.empty((steps, *lanes.seen.shape), np.float32)
        rewards, ends = np.empty((steps, count), np.float32), np.zeros((steps, count), bool)
        actions = []
        for t in range(steps):
            seen[t] = lanes.seen
            actions.append(np.asarray(_drawn(policy, keys[t], seen[t])))
            for lane in range(count):
                rewards[t, lane], ends[t, lane] = lanes.step(lane, actions[-1][lane])
                if ends[t, lane]:
                    lanes.reset(lane, *state.lottery.draw())
        return seen, np.stack(actions), rewards, ends, lanes.seen.copy()

    def finish(self, state: _HostState, final: Callable[[Policy], dict[str, Any]] | None) -> dict[str, Any]:
        """The final measures; the copies of the environment go to the next member."""
        self.world.close(state.lanes)
        return final(self.policy(state)) if final else {}

    def policy(self, state: _HostState) -> Policy:
        return Policy(self.programs["actor_of"](state.leaves), self.programs["actor"])


@eqx.filter_jit
def _drawn(policy: Policy, key: Key[Array, ""], seen: Float[np.ndarray | Array, "lanes obs"]) -> Array:
    return policy.actor.apply(policy.parameters, seen, key, method="action_log_prob")[0]


@functools.lru_cache(maxsize=16)
def _programs(world: HostContextMDP, static: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Compiled functions of one world and shape, shared by all members."""
    outline = _Outline(world.observation_space().shape[0], world.action_space())
    params = world.params()
    plain = _algorithm(_Given, outline, params, dict(static), {})

    def update(numbers, leaves, rollout):
        algorithm = plain.replace(**numbers, rollout=rollout)
        return tuple(jax.tree.leaves(algorithm.train_iteration(_state_of(algorithm, leaves))))

    return {
        "init": jax.jit(lambda numbers, key: _leaves_of(plain.replace(**numbers), key)),
        "update": jax.jit(update),
        "actor_of": jax.jit(lambda leaves: _state_of(plain, leaves).actor_ts.params),
        "actor": plain.actor,
    }
