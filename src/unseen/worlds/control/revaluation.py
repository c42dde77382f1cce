"""Tasks that change after they were learned, in their rewards or in their transitions, at a few known sites."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from unseen.worlds.control.maze import LAYOUTS
from unseen.worlds.control.tabular import TabularMDPs, free_cells


class Task(NamedTuple):
    """One MDP with the states that an agent is tested from.

    Attributes:
        transition: `P[s, a, t]`.
        reward: `r[s, a]`; here a number for each state, whatever the action.
        start: distribution over the states that an agent is tested from.
    """

    transition: Float[Array, "states actions states"]
    reward: Float[Array, "states actions"]
    start: Float[Array, " states"]


class Change(NamedTuple):
    """A task after a change, and where it differs from the old one.

    Attributes:
        task: the new task.
        sites: (state, action) pairs; nothing else has changed.
    """

    task: Task
    sites: Int[Array, "sites 2"]


class ChangingTask(NamedTuple):
    """A task with two changes, each of which moves the best path elsewhere.

    Axes: what changes, `reward` or `transition`.
    """

    old: Task
    reward: Change
    transition: Change


def two_stage_graph() -> ChangingTask:
    """A choice between two rooms, then one between two of three boxes, and back to the start.

    0 leads to 1 or 2; 1 leads to box 3 or 4, 2 to box 5 or 4; every box leads to 0. Box 3 pays. Reward change: box 5
    pays instead. Transition change: the first actions of 1 and 2 lead to each other's box.

    Source: Momennejad et al., "The successor representation in human reinforcement learning" (2017), in the
    sequential form of Russek et al. (2017).
    """
    to = np.array([[1, 2], [3, 4], [5, 4], [0, 0], [0, 0], [0, 0]])
    swapped = to.copy()
    swapped[1, 0], swapped[2, 0] = 5, 3

    def task(to: np.ndarray, box: int) -> Task:
        reward = jnp.broadcast_to(jax.nn.one_hot(box, 6)[:, None], (6, 2))
        return Task(jax.nn.one_hot(to, 6), reward, jax.nn.one_hot(0, 6))

    boxes = jnp.array([(box, action) for box in (3, 5) for action in (0, 1)])
    return ChangingTask(task(to, 3), Change(task(to, 5), boxes), Change(task(swapped, 3), jnp.array([(1, 0), (2, 0)])))


def four_rooms_changes(key: Key[Array, ""], slip: float = 0.1) -> ChangingTask:
    """Four rooms of 4 x 4 cells; tests start in the top right one.

    The goal is a random cell of the top left room. Reward change: it moves to a random cell of the bottom right one.
    Transition change: the door between the two top rooms closes, which leaves the detour through the bottom.
    """
    cells = free_cells(LAYOUTS["four-rooms"])
    rooms = {
        name: np.flatnonzero(np.isin(cells[:, 0], rows) & np.isin(cells[:, 1], columns))
        for name, rows, columns in (
            ("top left", range(1, 5), range(1, 5)),
            ("top right", range(1, 5), range(6, 10)),
            ("bottom right", range(6, 10), range(6, 10)),
        )
    }
    first, second = jax.random.split(key)
    goal = jax.random.choice(first, jnp.asarray(rooms["top left"]))
    moved = jax.random.choice(second, jnp.asarray(rooms["bottom right"]))
    start = jnp.zeros(len(cells)).at[rooms["top right"]].set(1 / len(rooms["top right"]))
    open_, shut = (TabularMDPs.four_rooms(slip=slip, closed=doors).transition[0] for doors in ((), ((2, 5),)))

    def task(transition: Array, goal: Array) -> Task:
        reward = jnp.broadcast_to(jax.nn.one_hot(goal, len(cells))[:, None], (len(cells), 4))
        return Task(transition, reward, start)

    goals = jnp.stack([jnp.repeat(jnp.stack([goal, moved]), 4), jnp.tile(jnp.arange(4), 2)], 1)
    beside = [i for i, cell in enumerate(cells.tolist()) if cell in ([2, 4], [2, 6])]
    doors = jnp.array([(state, action) for state in beside for action in range(4)])
    return ChangingTask(task(open_, goal), Change(task(open_, moved), goals), Change(task(shut, goal), doors))
