"""Several images in one observation, so that speeds can be seen."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, Bool, Float, Int

from unseen.lab import UserError


class FrameStackState(eqx.Module):
    """State of the environment behind, and what was seen last.

    Attributes:
        inner: of the environment behind.
        frames: the latest images, one after the other along the channels, newest last.
    """

    inner: Any
    frames: Float[Array, "height width channels"]

    @property
    def time(self) -> Int[Array, ""]:
        """Steps since the start of the episode."""
        return self.inner.time


class FrameStack(Environment):
    """An environment of images whose observation is the last `count` of them, one after the other along the channels.

    At the start of an episode there are `count` copies of its first image. Everything else, randomness included, is
    that of the environment behind.

    Args:
        environment: with gymnax's interface and images (height, width, channels) as observations.
        count: images.

    Raises:
        UserError: on a count below 1.
    """

    def __init__(self, environment: Environment, count: int = 2):
        super().__init__()
        if count < 1:
            raise UserError(f"count takes a number of images from 1 on, got {count}.")
        self.environment, self.count = environment, count

    @property
    def default_params(self) -> Any:
        """Those of the environment behind."""
        return self.environment.default_params

    def reset_env(self, key: Any, params: Any) -> tuple[Float[Array, "height width channels"], FrameStackState]:
        """A new episode."""
        image, inner = self.environment.reset_env(key, params)
        frames = jnp.tile(image, (1, 1, self.count))
        return frames, FrameStackState(inner, frames)

    def step_env(self, key: Any, state: FrameStackState, action: Any, params: Any) -> tuple:
        """One step of the environment behind."""
        image, inner, reward, terminated, info = self.environment.step_env(key, state.inner, action, params)
        frames = jnp.concatenate([state.frames[..., image.shape[-1] :], image], -1)
        return frames, FrameStackState(inner, frames), reward, terminated, info

    def get_obs(self, state: FrameStackState, params: Any = None, key: Any = None) -> Float[Array, "h w c"]:
        """The images."""
        return state.frames

    def is_terminated(self, state: FrameStackState, params: Any) -> Bool[Array, ""]:
        """As the environment behind says."""
        return self.environment.is_terminated(state.inner, params)

    def action_space(self, params: Any = None) -> Any:
        """That of the environment behind."""
        return self.environment.action_space(params)

    def observation_space(self, params: Any = None) -> spaces.Box:
        """Images with `count` times the channels."""
        one = self.environment.observation_space(params)
        height, width, channels = one.shape
        return spaces.Box(one.low, one.high, (height, width, channels * self.count), one.dtype)

    @property
    def name(self) -> str:
        """That of the environment behind, and the count."""
        return f"{self.environment.name}-x{self.count}"

    @property
    def num_actions(self) -> int:
        """As the environment behind says."""
        return self.environment.num_actions

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrameStack) and (self.environment, self.count) == (other.environment, other.count)

    def __hash__(self) -> int:
        return hash((FrameStack, self.environment, self.count))
