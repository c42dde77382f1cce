"""Adapter: XLand-MiniGrid's tasks with the interface of `GridLevels`."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError
from unseen.worlds.control.grid_levels import level_keys


class XMiniGridState(NamedTuple):
    """A running episode.

    Attributes:
        inner: xminigrid's own time step.
        which: number of the level among the parameters'.
        time: steps so far.
    """

    inner: Any
    which: Int[Array, ""]
    time: Int[Array, ""]


class XMiniGridParams(eqx.Module):
    """What may vary inside one compiled program.

    Attributes:
        levels: keys, see `level_keys`; each episode takes the level that xminigrid makes from one of them.
        max_steps_in_episode: the episode's time limit (in the reward too, as xminigrid has it).
    """

    levels: Key[Array, " levels"]
    max_steps_in_episode: int = eqx.field(static=True)


@dataclasses.dataclass(frozen=True)
class XMiniGridLevels(Environment):
    """A task of xminigrid 0.9 as a gymnax environment whose levels are keys.

    The agent turns and sees the cells in front of it; observations are one-hot planes of tile and colour
    (view, view, 13 + 12). Actions are xminigrid's own six: forward, turn right, turn left, pick up, put down, toggle.

    Axes: task (`name`), levels and split (`params`).

    Attributes:
        name_of_task: such as "MiniGrid-FourRooms" or "MiniGrid-DoorKey-8x8".

    Raises:
        UserError: if xminigrid is not installed or does not know the task.
    """

    name_of_task: str = "MiniGrid-FourRooms"

    def __post_init__(self) -> None:
        _made(self.name_of_task)

    def params(self, levels: Key[Array, " levels"], *, max_steps: int | None = None) -> XMiniGridParams:
        """Parameters of a run on levels, given by their keys; by default with the task's own time limit."""
        return XMiniGridParams(levels, max_steps or int(_made(self.name_of_task)[1].max_steps))

    @property
    def default_params(self) -> XMiniGridParams:
        """64 training levels."""
        return self.params(level_keys(64))

    def reset_env(self, key: Key[Array, ""], params: XMiniGridParams) -> tuple[Array, XMiniGridState]:
        """A new episode on one of the levels."""
        world, settings = self._inner(params)
        which = jax.random.randint(key, (), 0, params.levels.shape[0])
        state = XMiniGridState(world.reset(settings, params.levels[which]), which, jnp.zeros((), int))
        return self.get_obs(state, params), state

    def step_env(self, key: Key[Array, ""], state: XMiniGridState, action: Any, params: XMiniGridParams) -> tuple:
        """One step of xminigrid."""
        world, settings = self._inner(params)
        state = XMiniGridState(world.step(settings, state.inner, action), state.which, state.time + 1)
        terminated = state.inner.discount == 0
        return self.get_obs(state, params), state, state.inner.reward, terminated, {"level": state.which}

    def get_obs(
        self, state: XMiniGridState, params: XMiniGridParams | None = None, key: Any = None
    ) -> Float[Array, "view view planes"]:
        """One-hot planes of what the agent sees."""
        tiles, colours = self._sizes()
        seen = state.inner.observation
        return jnp.concatenate([jax.nn.one_hot(seen[..., 0], tiles), jax.nn.one_hot(seen[..., 1], colours)], -1)

    def is_terminated(self, state: XMiniGridState, params: XMiniGridParams) -> Bool[Array, ""]:
        """Whether the goal was reached."""
        return state.inner.discount == 0

    @property
    def name(self) -> str:
        """The task's name."""
        return self.name_of_task

    @property
    def num_actions(self) -> int:
        """Six."""
        return 6

    def action_space(self, params: XMiniGridParams | None = None) -> spaces.Discrete:
        """xminigrid's actions."""
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: XMiniGridParams | None = None) -> spaces.Box:
        """Planes of zeros and ones."""
        view = int(_made(self.name_of_task)[1].view_size)
        return spaces.Box(0, 1, (view, view, sum(self._sizes())), jnp.float32)

    def _inner(self, params: XMiniGridParams) -> tuple[Any, Any]:
        world, settings = _made(self.name_of_task)
        return world, settings.replace(max_steps=params.max_steps_in_episode)

    @staticmethod
    def _sizes() -> tuple[int, int]:
        from xminigrid.core.constants import NUM_COLORS, NUM_TILES

        return NUM_TILES, NUM_COLORS


def _made(name: str) -> tuple[Any, Any]:
    try:
        import xminigrid
    except ImportError:
        raise UserError("xminigrid's levels take the package xminigrid: pip install 'unseen[control]'.") from None
    try:
        return xminigrid.make(name)
    except ValueError:
        raise UserError(f"name_of_task takes one of xminigrid's registered environments, got {name!r}.") from None
