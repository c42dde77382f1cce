"""Gridworld levels seen as coordinates, and what can be said of a playroom's state."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from jaxtyping import Array, Bool, Float

from unseen.worlds.control.grid_levels import GridLevel, GridLevels, GridParams, GridState

PLAYROOM_EVENTS = ("key", "box moved", "box in corner", "switch", "door", "treasure")


@dataclasses.dataclass(frozen=True)
class CoordinateLevels(GridLevels):
    """`GridLevels` whose observation is a short vector instead of planes: one-hot row and column of every player and of
    the box, then a bit each for the objects that are there, the key in hand and the switch.

    Walls and fixed things are not in it, so it suits agents that live in one level. Everything else is `GridLevels`.

    Example:
        >>> world = CoordinateLevels(Playroom(4))
        >>> params = world.params(levels_of(world.kind, 1))
    """

    def get_obs(self, state: GridState, params: GridParams, key: Any = None) -> Float[Array, " obs"]:
        """The vector."""
        rows, columns = self._example.size
        pairs = jnp.concatenate([state.player, state.box[None]])
        cells = [jax.nn.one_hot(pairs[:, 0], rows).ravel(), jax.nn.one_hot(pairs[:, 1], columns).ravel()]
        bits = jnp.concatenate([state.present, state.has_key[None], state.flipped[None]]).astype(jnp.float32)
        return jnp.concatenate([*cells, bits])

    def observation_space(self, params: GridParams | None = None) -> spaces.Box:
        """Zeros and ones."""
        level = self._example
        return spaces.Box(0, 1, ((level.players + 1) * sum(level.size) + level.objects + 2,), jnp.float32)


def playroom_events(level: GridLevel, state: GridState) -> Bool[Array, " events"]:
    """What is the case in a playroom, in the order of `PLAYROOM_EVENTS`: the key is in hand, the box is not where it
    was, it is in a corner of its room, the switch is on, the player stands in the doorway, the object behind the door
    is taken."""
    inner = level.size[0] - 2
    row, column = state.box
    corner = ((row == 1) | (row == inner)) & ((column == 1) | (column == inner))
    door = (state.player[0] == level.door).all()
    return jnp.stack([state.has_key, (state.box != level.box).any(), corner, state.flipped, door, ~state.present[0]])
