"""Levels in which there is something to earn."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Key

from unseen.worlds.control.grid_levels import GridLevel, LevelKind


@dataclasses.dataclass(frozen=True)
class FirstPays:
    """Levels of a kind whose first object has a positive reward: the sign of its number is dropped. So no level's best
    return is 0.

    Example:
        >>> level = FirstPays(RewardObjects(7, 3))(jax.random.key(0))

    Attributes:
        kind: key -> level.

    Source: the training levels of Jackson et al., "Discovering General Reinforcement Learning Algorithms with
    Adversarial Environment Design" (2023), in its official code.
    """

    kind: LevelKind

    def __call__(self, key: Key[Array, ""]) -> GridLevel:
        """One level."""
        level = self.kind(key)
        return eqx.tree_at(lambda one: one.reward, level, level.reward.at[..., 0].set(jnp.abs(level.reward[..., 0])))
