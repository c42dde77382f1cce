"""Several episodes of one task in a row, as one long episode: what a meta-learner is trained on."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError


class TrialState(eqx.Module):
    """The running episode, and how every episode of the trial begins.

    Attributes:
        inner, first: the environment's states, now and at the beginning of an episode.
        before: the observation at the beginning.
        clock: steps of the running episode.
        episode: number of the running episode, from 0.
        time: steps of the trial.
    """

    inner: Any
    first: Any
    before: Float[Array, " obs"]
    clock: Int[Array, ""]
    episode: Int[Array, ""]
    time: Int[Array, ""]


class TrialParams(eqx.Module):
    """The environment's parameters, and the length of a trial."""

    inner: Any
    max_steps_in_episode: int = eqx.field(static=True)


class Trials(Environment):
    """A gymnax environment whose episode is a trial: `episodes` episodes of one task, each from the same beginning.

    The observation is the environment's, followed by the last action (one-hot if there are finitely many), the
    last reward, and whether an episode has just begun: all that is needed to learn the task from experience.

    Raises:
        UserError: if there is less than one episode.

    Source: Duan et al., "RL2" (2016), section 2.1.
    """

    def __init__(self, environment: Environment, episodes: int = 4):
        super().__init__()
        if episodes < 1:
            raise UserError(f"episodes takes a whole number from 1 on, got {episodes}.")
        self.environment, self.episodes = environment, episodes

    def params(self, inner: Any) -> TrialParams:
        """A trial under the environment's parameters."""
        return TrialParams(inner, self.episodes * inner.max_steps_in_episode)

    @property
    def default_params(self) -> TrialParams:
        """The environment's own."""
        return self.params(self.environment.default_params)

    @property
    def name(self) -> str:
        """The environment's name."""
        return self.environment.name

    def reset_env(self, key: Key[Array, ""], params: TrialParams) -> tuple[Float[Array, " obs"], TrialState]:
        """A trial of a new task."""
        before, first = self.environment.reset_env(key, params.inner)
        zero = jnp.zeros((), jnp.int32)
        state = TrialState(first, first, before, zero, zero, zero)
        return self._seen(before, self._no_action(params), 0.0, True), state

    def step_env(
        self, key: Key[Array, ""], state: TrialState, action: Any, params: TrialParams
    ) -> tuple[Float[Array, " obs"], TrialState, Float[Array, ""], Bool[Array, ""], dict[str, Any]]:
        """One step; after an episode's end the next one of the same task begins."""
        seen, inner, reward, terminated, info = self.environment.step_env(key, state.inner, action, params.inner)
        clock = state.clock + 1
        over = terminated | (clock >= params.inner.max_steps_in_episode)
        inner = jax.tree.map(lambda a, b: jnp.where(over, a, b), state.first, inner)
        seen = jnp.where(over, state.before, seen)
        episode = state.episode + over
        after = TrialState(inner, state.first, state.before, jnp.where(over, 0, clock), episode, state.time + 1)
        taken = action
        if isinstance(self.action_space(params), spaces.Discrete):
            taken = jax.nn.one_hot(action, self.action_space(params).n)
        seen = self._seen(seen, jnp.ravel(taken), reward, over)
        return seen, after, reward, episode >= self.episodes, {**info, "episode": state.episode, "ended": over}

    def is_terminated(self, state: TrialState, params: TrialParams) -> Bool[Array, ""]:
        """After the last episode."""
        return state.episode >= self.episodes

    def action_space(self, params: TrialParams | None = None) -> spaces.Space:
        """The environment's."""
        return self.environment.action_space(self.environment.default_params if params is None else params.inner)

    def observation_space(self, params: TrialParams | None = None) -> spaces.Box:
        """A vector."""
        params = self.default_params if params is None else params
        inner = self.environment.observation_space(params.inner)
        return spaces.Box(-jnp.inf, jnp.inf, (inner.shape[0] + self._no_action(params).size + 2,), jnp.float32)

    def _no_action(self, params: TrialParams) -> Float[Array, " action"]:
        space = self.action_space(params)
        return jnp.zeros(space.n if isinstance(space, spaces.Discrete) else space.shape)

    def _seen(self, seen: Any, action: Any, reward: Any, begun: Any) -> Float[Array, " obs"]:
        rest = jnp.stack([jnp.asarray(reward, jnp.float32), jnp.asarray(begun, jnp.float32)])
        return jnp.concatenate([seen, action, rest])
