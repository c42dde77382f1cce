"""Proximal policy optimisation with a memory that lives through trials of several episodes (RL2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from unseen.lab import Learner, UserError
from unseen.methods.policy_gradient import advantages, clipped_loss
from unseen.worlds.control.trials import TrialParams, Trials


class RecurrentPolicy(eqx.Module):
    """Actor and critic on a shared trunk: a tanh layer, then a GRU (or a second tanh layer without memory).

    Attributes:
        encode: observation -> features.
        cell: the GRU; `memory` says whether its state is used.
        plain: the layer in its place.
        actor: -> logits, or the means of a Gaussian.
        critic: -> value.
        log_std: of each action component; empty for finitely many actions.
    """

    encode: eqx.nn.Linear
    cell: eqx.nn.GRUCell | None
    plain: eqx.nn.Linear | None
    actor: eqx.nn.Linear
    critic: eqx.nn.Linear
    log_std: Float[Array, " action"]

    def __init__(
        self, observations: int, actions: int, discrete: bool, width: int = 64, memory: bool = True, *,
        key: PRNGKeyArray,
    ):  # fmt: skip
        one, two, three, four = jax.random.split(key, 4)
        self.encode = eqx.nn.Linear(observations, width, key=one)
        self.cell = eqx.nn.GRUCell(width, width, key=two) if memory else None
        self.plain = None if memory else eqx.nn.Linear(width, width, key=two)
        actor = eqx.nn.Linear(width, actions, key=three)
        # A first policy that hardly depends on what it sees explores evenly.
        self.actor = eqx.tree_at(lambda layer: layer.weight, actor, actor.weight * 0.01)
        self.critic = eqx.nn.Linear(width, 1, key=four)
        self.log_std = jnp.zeros(0 if discrete else actions)

    @property
    def start(self) -> Float[Array, " width"]:
        """The memory before the first step."""
        return jnp.zeros(self.encode.out_features)

    def __call__(
        self, memory: Float[Array, " width"], seen: Float[Array, " obs"]
    ) -> tuple[Float[Array, " width"], Float[Array, " action"], Float[Array, ""]]:
        """The memory after an observation, the action's logits or means, and the value."""
        x = jnp.tanh(self.encode(seen))
        if self.cell is not None:
            memory = x = self.cell(x, memory)
        else:
            x = jnp.tanh(self.plain(x))  # type: ignore[misc]
        return memory, self.actor(x), self.critic(x)[0]

    @property
    def discrete(self) -> bool:
        """Whether actions are finitely many."""
        return self.log_std.size == 0

    def mode(self, head: Float[Array, " action"]) -> Array:
        """The most likely action."""
        return jnp.argmax(head) if self.discrete else head

    def sample(self, key: Key[Array, ""], head: Float[Array, " action"]) -> Array:
        """An action drawn from the policy; Gaussian ones are not clipped."""
        if self.discrete:
            return jax.random.categorical(key, head)
        return head + jnp.exp(self.log_std) * jax.random.normal(key, head.shape)

    def log_prob(self, head: Float[Array, "*batch action"], action: Array) -> Float[Array, "*batch"]:
        """Log probability (density) of an action."""
        if self.discrete:
            return jnp.take_along_axis(jax.nn.log_softmax(head), action[..., None], -1)[..., 0]
        error = (action - head) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * error**2 - self.log_std - 0.5 * jnp.log(2 * jnp.pi), -1)

    def entropy(self, head: Float[Array, "*batch action"]) -> Float[Array, "*batch"]:
        """Entropy of the action."""
        if self.discrete:
            log = jax.nn.log_softmax(head)
            return -jnp.sum(jnp.exp(log) * log, -1)
        return jnp.broadcast_to(jnp.sum(self.log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e)), head.shape[:-1])

    def unroll(
        self,
        memory: Float[Array, "lanes width"],
        seen: Float[Array, "time lanes obs"],
        begins: Bool[Array, "time lanes"],
    ) -> tuple[Float[Array, "time lanes action"], Float[Array, "time lanes"]]:
        """Heads and values along sequences; the memory is cleared where an episode begins."""
        x = jnp.tanh(seen @ self.encode.weight.T + self.encode.bias)  # type: ignore[operator]
        if self.cell is None:
            x = jnp.tanh(x @ self.plain.weight.T + self.plain.bias)  # type: ignore[union-attr]
        else:
            # The input's half of the gates for all steps at once; only the memory's half is left to the loop.
            cell = self.cell
            gates = x @ cell.weight_ih.T + cell.bias  # type: ignore[operator]

            def step(h, inputs):
                gate, begin = inputs
                h = jnp.where(begin[:, None], 0.0, h)
                reset, update, new = jnp.split(gate, 3, -1)
                hr, hu, hn = jnp.split(h @ cell.weight_hh.T, 3, -1)
                candidate = jnp.tanh(new + jax.nn.sigmoid(reset + hr) * (hn + cell.bias_n))  # type: ignore[operator]
                update = jax.nn.sigmoid(update + hu)
                h = candidate + update * (h - candidate)
                return h, h

            _, x = jax.lax.scan(step, memory, (gates, begins))
        heads = x @ self.actor.weight.T + self.actor.bias  # type: ignore[operator]
        return heads, (x @ self.critic.weight.T + self.critic.bias)[..., 0]  # type: ignore[operator]


class RecurrentState(eqx.Module):
    """What training carries on: policy, optimizer, and the running episodes with their memories."""

    policy: RecurrentPolicy
    optimizer: Any
    environment: Any
    seen: Float[Array, "lanes obs"]
    begins: Bool[Array, " lanes"]
    memory: Float[Array, "lanes width"]
    scale: Float[Array, "3"]  # mean, spread and number of discounted returns: what rewards are divided by
    returns: Float[Array, " lanes"]
    key: Key[Array, ""]


def recurrent_ppo(
    environment: Environment,
    params: Any = None,
    *,
    total_steps: int = 1_000_000,
    every: int = 1,
    measure: Callable[[RecurrentPolicy], dict[str, Any]] | None = None,
    final: Callable[[RecurrentPolicy], dict[str, Any]] | None = None,
    learning_rate: float | Float[Array, ""] = 3e-4,
    gamma: float | Float[Array, ""] = 0.99,
    gae_lambda: float | Float[Array, ""] = 0.95,
    clip_eps: float | Float[Array, ""] = 0.2,
    ent_coef: float | Float[Array, ""] = 0.0,
    vf_coef: float | Float[Array, ""] = 0.5,
    max_grad_norm: float | Float[Array, ""] = 0.5,
    num_envs: int = 32,
    num_steps: int = 160,
    num_epochs: int = 4,
    num_minibatches: int = 4,
    width: int = 64,
    memory: bool = True,
    anneal: bool = True,
    **learner: Any,
) -> Learner:
    """PPO whose policy has a memory. On a `Trials` environment this is RL2: the memory lives through the episodes of
    a trial, so learning a task is a matter of activations, and is cleared where a trial begins.

    Args:
        environment: with gymnax 1.0's interface; actions Discrete, or a Box to whose bounds Gaussian ones are clipped.
        params: its parameters; may hold traced arrays.
        total_steps: environment steps, rounded to whole iterations of `num_envs * num_steps`.
        every: iterations between two measurements.
        measure, final: policy -> {name: array}.
        learning_rate ... max_grad_norm: numbers, may be traced.
        anneal: whether the learning rate falls linearly to 0 over the run, or stays.
        num_envs ... memory: fix the compiled program. Minibatches are of whole sequences of `num_steps`.
        memory: False puts a tanh layer in the GRU's place.
        learner: further settings of the Learner (dims, coords).

    A time limit counts as the end of the episode, and rewards are divided by the spread of discounted returns, both
    as in `ppo`. Loss of one update: clipped policy gradient + vf_coef x half the clipped squared value error.

    Raises:
        UserError: if environments do not split into equal minibatches.

    Source: Duan et al., "RL2" (2016), section 2; Schulman et al. (2017), equations 7 and 9.
    """
    if num_envs % num_minibatches:
        raise UserError(f"num_minibatches takes a divisor of num_envs = {num_envs}, got {num_minibatches}.")
    params = environment.default_params if params is None else params
    space = environment.action_space(params)
    discrete = isinstance(space, spaces.Discrete)
    actions = space.n if discrete else space.shape[0]  # type: ignore[union-attr]
    observations = environment.observation_space(params).shape[0]
    reset = jax.vmap(lambda key: environment.reset(key, params))
    play = jax.vmap(lambda key, state, action: environment.step(key, state, action, params))
    rounds = max(1, round(total_steps / (num_envs * num_steps) / every))
    updates = rounds * every * num_epochs * num_minibatches
    rate = optax.linear_schedule(learning_rate, 0.0, updates) if anneal else learning_rate
    optimizer = optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(rate, eps=1e-5))

    def init(key):
        network, start, key = jax.random.split(key, 3)
        policy = RecurrentPolicy(observations, actions, discrete, width, memory, key=network)
        seen, state = reset(jax.random.split(start, num_envs))
        return RecurrentState(
            policy, optimizer.init(eqx.filter(policy, eqx.is_inexact_array)), state, seen,
            jnp.ones(num_envs, bool), jnp.zeros((num_envs, width)), jnp.array([0.0, 1.0, 1e-4]), jnp.zeros(num_envs),
            key,
        )  # fmt: skip

    def rollout(state: RecurrentState):
        policy = state.policy

        def step(carry, key):
            simulators, seen, begins, hidden, scale, returns = carry
            act, move = jax.random.split(key)
            hidden = jnp.where(begins[:, None], 0.0, hidden)
            hidden, head, value = jax.vmap(policy)(hidden, seen)
            action = jax.vmap(policy.sample)(jax.random.split(act, num_envs), head)
            taken = action if discrete else jnp.clip(action, space.low, space.high)
            following, simulators, reward, terminated, truncated, _ = play(
                jax.random.split(move, num_envs), simulators, taken
            )
            done = terminated | truncated
            returns = reward + gamma * returns * (1 - begins)
            scale = _update_scale(scale, returns)
            played = (
                seen,
                begins,
                action,
                policy.log_prob(head, action),
                value,
                reward / jnp.sqrt(scale[1] + 1e-8),
                done,
            )
            return (simulators, following, done, hidden, scale, returns), played

        start = state.environment, state.seen, state.begins, state.memory, state.scale, state.returns
        key, now = jax.random.split(state.key)
        after, played = jax.lax.scan(step, start, jax.random.split(now, num_steps))
        return after, played, key

    def loss(policy: RecurrentPolicy, hidden, batch):
        seen, begins, action, log_prob, value, advantage = batch
        head, now = policy.unroll(hidden, seen, begins)
        target = advantage + value
        scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        actor = clipped_loss(policy.log_prob(head, action), log_prob, scaled, clip_eps).mean()
        near = value + jnp.clip(now - value, -clip_eps, clip_eps)
        error = 0.5 * jnp.maximum((now - target) ** 2, (near - target) ** 2).mean()
        return actor + vf_coef * error - ent_coef * policy.entropy(head).mean()

    def iteration(state: RecurrentState, _):
        after, played, key = rollout(state)
        simulators, seen, begins, hidden, scale, returns = after
        last = jax.vmap(state.policy)(hidden, seen)[2] * (1 - begins)
        batch = (*played[:5], advantages(played[5], played[4], played[6], last, gamma, gae_lambda))

        def epoch(carry, key):
            order = jax.random.permutation(key, num_envs).reshape(num_minibatches, -1)

            def update(carry, lanes):
                policy, moments = carry
                part = jax.tree.map(lambda x: x[:, lanes], batch)
                gradient = eqx.filter_grad(loss)(policy, state.memory[lanes], part)
                step, moments = optimizer.update(gradient, moments)
                return (eqx.apply_updates(policy, step), moments), None

            return jax.lax.scan(update, carry, order)[0], None

        key, shuffle = jax.random.split(key)
        (policy, moments), _ = jax.lax.scan(
            epoch, (state.policy, state.optimizer), jax.random.split(shuffle, num_epochs)
        )
        return RecurrentState(policy, moments, simulators, seen, begins, hidden, scale, returns, key), None

    return Learner(
        init=init,
        advance=lambda state: jax.lax.scan(iteration, state, None, every)[0],
        measure=(lambda state: measure(state.policy)) if measure else lambda state: {},
        final=(lambda state: final(state.policy)) if final else None,
        steps=rounds * every,
        every=every,
        **learner,
    )


def _update_scale(scale: Float[Array, "3"], values: Float[Array, " lanes"]) -> Float[Array, "3"]:
    """Running mean and variance, merged with those of a batch."""
    mean, spread, count = scale
    size = values.shape[0]
    total, delta = count + size, values.mean() - mean
    square = spread * count + values.var() * size + delta**2 * count * size / total
    return jnp.stack([mean + delta * size / total, square / total, total])


def rl2(environment: Environment, params: Any = None, *, episodes: int = 4, **settings: Any) -> Learner:
    """RL2: `recurrent_ppo` on trials of several episodes of one task, through which the memory lives. One rollout
    holds one trial of each environment.

    Args:
        environment: tasks of a fixed length, whose parameters say which are drawn.
        params: its parameters; may hold traced arrays.
        episodes: of a trial.
        settings: of `recurrent_ppo`.

    Source: Duan et al., "RL2" (2016), section 2.
    """
    trials = Trials(environment, episodes)
    whole = trials.params(environment.default_params if params is None else params)
    return recurrent_ppo(trials, whole, num_steps=whole.max_steps_in_episode, **settings)


def adapt(
    policy: RecurrentPolicy, trials: Trials, params: TrialParams, keys: Key[Array, " trials"]
) -> Float[Array, "trials episodes"]:
    """Whether each episode of some trials succeeds, while the policy (which draws its actions) gets to know the task.

    Args:
        trials: of an environment whose `info` has a `success`, such as `TaskSuite`. Column i says how good the policy
            is after i episodes of adaptation.
        params: of the trials.
    """

    def trial(key):
        start, run = jax.random.split(key)
        seen, state = trials.reset_env(start, params)

        def step(carry, key):
            memory, seen, state, solved = carry
            act, move = jax.random.split(key)
            memory, head, _ = policy(memory, seen)
            seen, state, _, _, info = trials.step_env(move, state, policy.sample(act, head), params)
            now = info["success"] & (jnp.arange(trials.episodes) == info["episode"])
            return (memory, seen, state, solved | now), None

        carry = policy.start, seen, state, jnp.zeros(trials.episodes, bool)
        carry, _ = jax.lax.scan(step, carry, jax.random.split(run, params.max_steps_in_episode))
        return carry[3].astype(jnp.float32)

    return jax.vmap(trial)(keys)
