"""Pixel tasks played with a few buttons."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from gymnax.environments import spaces
from jaxtyping import Array, Float, Int, UInt8

from unseen.worlds.control.pixels import PixelControl, PixelParams, PixelState

FIVE = ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))  # stay, right, left, down, up


class DiscretePixels(PixelControl):
    """`PixelControl` with numbered actions and images of whole numbers from 0 to 255, which fill a quarter of the
    memory of a replay buffer.

    Args:
        task, size: as in `PixelControl`.
        actions: the move that each number stands for; by default stay, right, left, down and up.

    Raises:
        UserError: on an unknown task or a size below 8.
    """

    def __init__(self, task: str = "reach", size: int = 20, actions: tuple[tuple[float, float], ...] = FIVE):
        super().__init__(task, size)
        self.actions, self.plain = actions, PixelControl(task, size)

    def move(self, action: Int[Array, ""]) -> Float[Array, " 2"]:
        """What a number stands for."""
        return jnp.asarray(self.actions, jnp.float32)[action]

    def reset_env(self, key: Any, params: PixelParams) -> tuple[UInt8[Array, "size size 3"], PixelState]:  # type: ignore[override]
        """A new episode, the same as that of `PixelControl`."""
        _, state = self.plain.reset_env(key, params)
        return self.get_obs(state), state

    def step_env(self, key: Any, state: PixelState, action: Any, params: PixelParams) -> tuple:
        """One step of the task."""
        return super().step_env(key, state, self.move(action), params)

    def get_obs(self, state: PixelState, params: Any = None, key: Any = None) -> UInt8[Array, "size size 3"]:  # type: ignore[override]
        """The image, rounded."""
        return jnp.round(255 * self.render(state)[0]).astype(jnp.uint8)

    def action_space(self, params: PixelParams | None = None) -> Any:
        """The numbers."""
        return spaces.Discrete(len(self.actions))

    def observation_space(self, params: PixelParams | None = None) -> spaces.Box:
        """An image."""
        return spaces.Box(0, 255, (self.size, self.size, 3), jnp.uint8)

    @property
    def num_actions(self) -> int:
        """How many numbers."""
        return len(self.actions)

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.actions == other.actions  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.actions))
