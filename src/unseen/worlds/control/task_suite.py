"""Fifteen manipulation tasks in state space: a gripper and one object that moves freely or along a curve.

State layout (also that of the tabletop simulator's state mode). Lengths are in metres, x to the right, y away
from the robot, z up; the gripper's workspace is |x| <= 0.4, |y| <= 0.3, 0 <= z <= 0.4.

| field | size | what |
|---|---|---|
| `hand` | 3 | the gripper's point |
| `opening` | 1 | 1 open, 0 closed |
| `point` | 3 | the object's centre or handle: what is grasped, pushed and tested |
| `joint` | 1 | a mechanism's coordinate between its ends 0 and 1; 0 for a free object |
| `grasped` | 1 | whether the gripper holds the point |
| `goal` | 3 | where the point (when reaching: the hand) has to be |

An observation is hand / 0.25, opening, point / 0.25, joint, grasped, goal / 0.25 (zeros when hidden), in this
order: 12 numbers; then, if asked for, which task it is. Actions are four numbers in [-1, 1]: a motion of at most 5 cm
along each axis, and the gripper (above 0 it closes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from unseen.lab import UserError

LOW, HIGH = np.array([-0.4, -0.3, 0.0], np.float32), np.array([0.4, 0.3, 0.4], np.float32)
STEP, UNIT, TOLERANCE = 0.05, 0.25, 0.04  # metres: of a motion, of an observation, of success
GRASP, CONTACT, REST = 0.04, 0.06, 0.02  # metres: radius of a grasp, of a push, height of an object on the table
TRAIN_POSITIONS = 50  # positions 0 to 49 of every task are trained on, as in Meta-World; those from 50 on are new


# NumPy's when this module is read, so that nothing starts JAX; JAX's within programs.
_Number = Float[Array | np.ndarray, "*tasks"]
_Vector = Float[Array | np.ndarray, "*tasks 3"]


class Mechanism(eqx.Module):
    """The curve on which a handle moves: base + cos(angle q) a + sin(angle q) b + q travel, for q from 0 to 1.

    A slide has only `travel`; a hinge or a dial turns by `angle` in the plane of a and b. `free` objects have none.
    """

    free: _Number
    a: _Vector
    b: _Vector
    angle: _Number
    travel: _Vector

    def point(self, base: Float[Array, "3"], q: Float[Array, ""]) -> Float[Array, "3"]:
        """Where the handle is."""
        turn = self.angle * q
        return base + jnp.cos(turn) * self.a + jnp.sin(turn) * self.b + q * self.travel

    def tangent(self, q: Float[Array, ""]) -> Float[Array, "3"]:
        """The curve's derivative."""
        turn = self.angle * q
        return self.angle * (jnp.cos(turn) * self.b - jnp.sin(turn) * self.a) + self.travel


class Task(eqx.Module):
    """A task = constraint x interaction x where it begins and ends; stacked, one row a task.

    Attributes:
        mechanism: what the object can do.
        reach: 1 if the hand itself has to get to the goal.
        grasp: 1 if the object can be held. (Everything can be pushed with the closed gripper.)
        low, high: box of the object's first position (a mechanism's base).
        goal_low, goal_high: box of the goal of a free object or a reach.
        start, end: joint coordinates where a mechanism begins and has to be.
    """

    mechanism: Mechanism
    reach: _Number
    grasp: _Number
    low: _Vector
    high: _Vector
    goal_low: _Vector
    goal_high: _Vector
    start: _Number
    end: _Number


def _task(
    *, at: Any, goal: Any = None, reach: bool = False, grasp: bool = True, a: Any = (0, 0, 0), b: Any = (0, 0, 0),
    angle: float = 0.0, travel: Any = (0, 0, 0), start: float = 0.0, end: float = 1.0,
) -> Task:  # fmt: skip
    def vector(values: Any) -> Float[np.ndarray, "3"]:
        return np.asarray(values, np.float32)

    (low, high), aim = at, goal or ((0, 0, 0), (0, 0, 0))
    numbers = {"reach": reach, "grasp": grasp, "start": start, "end": end}
    mechanism = Mechanism(
        np.array(goal is not None, np.float32), vector(a), vector(b), np.array(angle, np.float32), vector(travel)
    )
    return Task(
        mechanism, low=vector(low), high=vector(high), goal_low=vector(aim[0]), goal_high=vector(aim[1]),
        **{name: np.array(value, np.float32) for name, value in numbers.items()},
    )  # fmt: skip


_TABLE = ((-0.25, -0.15, REST), (0.25, 0.1, REST))  # where free objects lie
_WALL = ((-0.2, 0.1, 0.1), (0.2, 0.15, 0.2))  # where mechanisms are mounted
_QUARTER = np.pi / 2

# name: (sentence, task). The first ten are trained on, the last five are held out.
_TASKS: dict[str, tuple[str, Task]] = {
    "reach": (
        "Move the gripper to the goal.",
        _task(at=_TABLE, goal=((-0.3, -0.05, 0.05), (0.3, 0.2, 0.35)), reach=True, grasp=False),
    ),
    "push": (
        "Push the puck along the table to the goal.",
        _task(at=_TABLE, goal=((-0.3, 0.0, REST), (0.3, 0.2, REST)), grasp=False),
    ),
    "pick-place": (
        "Pick up the puck and hold it at the goal in the air.",
        _task(at=_TABLE, goal=((-0.3, -0.1, 0.1), (0.3, 0.2, 0.3))),
    ),
    "door-open": (
        "Pull the door's handle until the door is open.",
        _task(at=_WALL, a=(0.2, 0, 0), b=(0, -0.2, 0), angle=_QUARTER),
    ),
    "drawer-close": (
        "Push the open drawer until it is closed.",
        _task(at=_WALL, travel=(0, -0.2, 0), start=1.0, end=0.0, grasp=False),
    ),
    "button-press": (
        "Press the button down from above.",
        _task(at=((-0.2, -0.1, 0.15), (0.2, 0.1, 0.2)), travel=(0, 0, -0.1), grasp=False),
    ),
    "dial-turn": (
        "Hold the dial and turn it by half a turn.",
        _task(at=((-0.2, -0.1, 0.1), (0.2, 0.1, 0.1)), a=(0.07, 0, 0), b=(0, 0.07, 0), angle=np.pi),
    ),
    "window-open": (
        "Push the window to the left until it is open.",
        _task(at=_WALL, travel=(-0.2, 0, 0), grasp=False),
    ),
    "handle-press": (
        "Press the lever's handle down.",
        _task(at=_WALL, a=(0, -0.15, 0.1), b=(0, -0.1, -0.15), angle=0.8 * _QUARTER, grasp=False),
    ),
    "sweep": (
        "Sweep the puck to the goal at the right of the table.",
        _task(at=((-0.25, -0.15, REST), (0.0, 0.15, REST)), goal=((0.2, -0.15, REST), (0.3, 0.15, REST)), grasp=False),
    ),
    "drawer-open": (
        "Hold the drawer's handle and pull it open.",
        _task(at=_WALL, travel=(0, -0.2, 0)),
    ),
    "door-close": (
        "Push the open door until it is closed.",
        _task(at=_WALL, a=(0.2, 0, 0), b=(0, -0.2, 0), angle=_QUARTER, start=1.0, end=0.0, grasp=False),
    ),
    "shelf-place": (
        "Pick up the puck and put it on the shelf at the back.",
        _task(at=((-0.25, -0.2, REST), (0.25, 0.0, REST)), goal=((-0.25, 0.2, 0.2), (0.25, 0.25, 0.3))),
    ),
    "sweep-into": (
        "Sweep the puck towards the robot, into the goal.",
        _task(at=((-0.25, 0.0, REST), (0.25, 0.2, REST)), goal=((-0.1, -0.25, REST), (0.1, -0.2, REST)), grasp=False),
    ),
    "lever-pull": (
        "Hold the lever and pull it up.",
        _task(at=((-0.2, 0.1, 0.05), (0.2, 0.15, 0.1)), a=(0, -0.2, 0), b=(0, 0, 0.2), angle=0.9 * _QUARTER),
    ),
}
TRAIN_TASKS: tuple[str, ...] = tuple(_TASKS)[:10]
TEST_TASKS: tuple[str, ...] = tuple(_TASKS)[10:]
SENTENCES: dict[str, str] = {name: sentence for name, (sentence, _) in _TASKS.items()}


class TaskState(eqx.Module):
    """The layout at the top of this module, with what an episode keeps constant.

    Attributes:
        base: origin of the mechanism.
        task: row of the suite's tasks.
        success: whether the goal has been reached within this episode.
    """

    hand: Float[Array, "3"]
    opening: Float[Array, ""]
    point: Float[Array, "3"]
    joint: Float[Array, ""]
    grasped: Float[Array, ""]
    goal: Float[Array, "3"]
    base: Float[Array, "3"]
    task: Int[Array, ""]
    success: Bool[Array, ""]
    time: Int[Array, ""]


class TaskParams(eqx.Module):
    """What of a suite may vary inside one compiled program.

    Attributes:
        weight: probability of each of the suite's tasks.
        first, count: range of the positions that are drawn.
        max_steps_in_episode: time limit.
    """

    weight: Float[Array, " tasks"]
    first: Int[Array, ""]
    count: Int[Array, ""]
    max_steps_in_episode: int = eqx.field(static=True)


class TaskSuite(Environment):
    """Distinct manipulation tasks with gymnax's interface.

    Axes: the task (constraint x interaction x goal), and the position within a task: number i of a task always is
    the same place of object and goal. Positions 0 to 49 are for training, those from 50 on are new, so the two never
    overlap; whole tasks are held out by leaving them out of `tasks`.

    Reward of a step, in [0, 1]: 0.2 (1 - tanh(5 distance of hand and point)) + 0.3 (1 - tanh(5 distance to the
    goal)) + 0.5 within the goal's tolerance of 4 cm. (When reaching, both distances are the hand's to the goal.)

    Args:
        tasks: names out of `TRAIN_TASKS` and `TEST_TASKS`.
        shows_goal: whether the goal is observed (as in multi-task learning) or zeros (as in meta-learning).
        shows_task: whether the observation ends with a one-hot of the task.
        max_steps: length of an episode, which success does not end.

    Raises:
        UserError: on an unknown or repeated task.

    Source: a rebuilding in closed form of what Meta-World's tasks have in common (Yu et al. 2019, section 4).
    """

    def __init__(
        self,
        tasks: Sequence[str] = TRAIN_TASKS,
        *,
        shows_goal: bool = True,
        shows_task: bool = False,
        max_steps: int = 40,
    ):
        super().__init__()
        for i, task in enumerate(tasks):
            if task not in _TASKS or task in tasks[:i]:
                raise UserError(f"tasks takes different names out of {', '.join(_TASKS)}, got {task!r}.")
        self.tasks, self.shows_goal, self.shows_task, self.max_steps = tuple(tasks), shows_goal, shows_task, max_steps
        rows = [_TASKS[task][1] for task in tasks]
        self.table: Task = jax.tree.map(lambda *x: np.stack([np.asarray(v) for v in x]), *rows)
        self._seeds = np.array([list(_TASKS).index(task) for task in tasks], np.int32)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What each task asks for, in English."""
        return tuple(SENTENCES[task] for task in self.tasks)

    def params(
        self,
        task: int | Int[ArrayLike, ""] | None = None,
        first: int | Int[ArrayLike, ""] = 0,
        count: int | Int[ArrayLike, ""] = TRAIN_POSITIONS,
    ) -> TaskParams:
        """One task (its number in `tasks`) or all of them alike, at `count` positions from `first` on."""
        weight = jnp.full(len(self.tasks), 1 / len(self.tasks))
        if task is not None:
            weight = jax.nn.one_hot(jnp.asarray(task, int), len(self.tasks))
        return TaskParams(weight, jnp.asarray(first, int), jnp.asarray(count, int), self.max_steps)

    def new_positions(self, task: int | Int[ArrayLike, ""] | None = None, count: int = 1_000_000) -> TaskParams:
        """The same at positions that no training episode had."""
        return self.params(task, TRAIN_POSITIONS, count)

    # gymnax's interface ----------------------------------------------------------------------------------

    @property
    def default_params(self) -> TaskParams:
        """All tasks at their training positions."""
        return self.params()

    def reset_env(self, key: Key[Array, ""], params: TaskParams) -> tuple[Float[Array, " obs"], TaskState]:
        """An episode of one of the tasks at one of the positions."""
        which, where = jax.random.split(key)
        cumulative = jnp.cumsum(params.weight)
        task = jnp.sum(jax.random.uniform(which) * cumulative[-1] >= cumulative)
        position = params.first + jax.random.randint(where, (), 0, params.count)
        state = self.start(task, position)
        return self.get_obs(state, params), state

    def start(self, task: int | Int[ArrayLike, ""], position: int | Int[ArrayLike, ""]) -> TaskState:
        """The beginning of an episode: task number, number of the position."""
        spec = self.spec(task)
        key = jax.random.fold_in(jax.random.key(20191024), jnp.asarray(self._seeds)[task])
        here, there, hand = jax.random.split(jax.random.fold_in(key, position), 3)
        base = jax.random.uniform(here, (3,), minval=spec.low, maxval=spec.high)
        aim = jax.random.uniform(there, (3,), minval=spec.goal_low, maxval=spec.goal_high)
        free = spec.mechanism.free > 0
        # A puck that lies at its goal already is moved away from it.
        apart = base[:2] - aim[:2]
        away = apart / jnp.maximum(jnp.linalg.norm(apart), 1e-6) * jnp.maximum(0.12, jnp.linalg.norm(apart))
        lying = jnp.concatenate([jnp.clip(aim[:2] + away, LOW[:2] + 0.1, HIGH[:2] - 0.1), base[2:]])
        point = jnp.where(free, jnp.where(spec.reach > 0, base, lying), spec.mechanism.point(base, spec.start))
        goal = jnp.where(free, aim, spec.mechanism.point(base, spec.end))
        middle = jnp.array([0.0, -0.2, 0.25])
        return TaskState(
            hand=middle + jax.random.uniform(hand, (3,), minval=-0.05, maxval=0.05), opening=jnp.ones(()), point=point,
            joint=jnp.where(free, 0.0, spec.start), grasped=jnp.zeros(()), goal=goal, base=base,
            task=jnp.asarray(task, jnp.int32), success=jnp.zeros((), bool), time=jnp.zeros((), jnp.int32),
        )  # fmt: skip

    def step_env(
        self, key: Key[Array, ""], state: TaskState, action: Float[Array, "4"], params: TaskParams
    ) -> tuple[Float[Array, " obs"], TaskState, Float[Array, ""], Bool[Array, ""], dict[str, Any]]:
        """One motion: the hand moves, the gripper opens or closes, what is held or touched follows."""
        spec, action = self.spec(state.task), jnp.clip(action, -1, 1)
        free, closing = spec.mechanism.free > 0, action[3] > 0
        hand = jnp.clip(state.hand + STEP * action[:3], LOW, HIGH)
        near = jnp.linalg.norm(state.hand - state.point) < GRASP
        # It takes a gripper that was open to grasp: one that comes closed only pushes.
        holds = closing & (spec.grasp > 0) & ((state.grasped > 0) | (near & (state.opening > 0)))
        pushes = closing & ~holds & (spec.reach == 0)
        moved = hand - state.hand
        # What comes into the way of the closed gripper is moved ahead of it, also when a motion would jump over it.
        between = state.point - state.hand
        distance = jnp.maximum(jnp.linalg.norm(between), 1e-6)
        nearest = jnp.clip(jnp.dot(between, moved) / jnp.maximum(jnp.dot(moved, moved), 1e-12), 0, 1)
        touches = pushes & (jnp.linalg.norm(between - nearest * moved) < CONTACT)
        ahead = between / distance
        push = jnp.where(touches, jnp.maximum(CONTACT - jnp.dot(state.point - hand, ahead), 0.0), 0.0) * ahead
        # A mechanism follows along its curve only, and takes the hand that holds it along.
        tangent = spec.mechanism.tangent(state.joint)
        along = jnp.dot(jnp.where(holds, moved, push), tangent) / jnp.maximum(jnp.dot(tangent, tangent), 1e-6)
        joint = jnp.where(free, 0.0, jnp.clip(state.joint + jnp.where(holds | pushes, along, 0.0), 0, 1))
        bound = spec.mechanism.point(state.base, joint)
        # A free object is carried, pushed along the table, or falls.
        flat = jnp.concatenate([push[:2], jnp.zeros(1)])
        dropped = jnp.maximum(state.point[2] - STEP, REST)
        loose = jnp.concatenate([(state.point + flat)[:2], dropped[None]])
        loose = jnp.clip(jnp.where(holds, state.point + moved, loose), LOW, HIGH)
        point = jnp.where(free, loose, bound)
        hand = jnp.where(holds & ~free, jnp.clip(state.hand + point - state.point, LOW, HIGH), hand)
        reached = jnp.linalg.norm(jnp.where(spec.reach > 0, hand, point) - state.goal)
        success = reached < TOLERANCE
        toward = jnp.where(spec.reach > 0, reached, jnp.linalg.norm(hand - point))
        reward = 0.2 * (1 - jnp.tanh(5 * toward)) + 0.3 * (1 - jnp.tanh(5 * reached)) + 0.5 * success
        after = TaskState(
            hand=hand, opening=jnp.where(closing, 0.0, 1.0), point=point, joint=joint, grasped=holds.astype(float),
            goal=state.goal, base=state.base, task=state.task, success=state.success | success, time=state.time + 1,
        )  # fmt: skip
        return self.get_obs(after, params), after, reward, jnp.zeros((), bool), {"success": after.success}

    def get_obs(self, state: TaskState, params: Any = None, key: Any = None) -> Float[Array, " obs"]:
        """The observation in the order of the layout."""
        goal = state.goal / UNIT if self.shows_goal else jnp.zeros(3)
        parts = [
            state.hand / UNIT, state.opening[None], state.point / UNIT, state.joint[None], state.grasped[None], goal,
        ]  # fmt: skip
        if self.shows_task:
            parts.append(jax.nn.one_hot(state.task, len(self.tasks)))
        return jnp.concatenate(parts)

    def is_terminated(self, state: TaskState, params: TaskParams) -> Bool[Array, ""]:
        """Never: episodes have one length."""
        return jnp.zeros((), bool)

    def action_space(self, params: TaskParams | None = None) -> spaces.Box:
        """A motion and the gripper."""
        return spaces.Box(-1.0, 1.0, (4,), jnp.float32)

    def observation_space(self, params: TaskParams | None = None) -> spaces.Box:
        """A vector."""
        size = 12 + (len(self.tasks) if self.shows_task else 0)
        return spaces.Box(-jnp.inf, jnp.inf, (size,), jnp.float32)

    @property
    def num_actions(self) -> int:
        """Numbers in an action."""
        return 4

    def spec(self, task: int | Int[ArrayLike, ""]) -> Task:
        """One row of the tasks."""
        return jax.tree.map(lambda x: jnp.asarray(x)[task], self.table)

    # The expert ------------------------------------------------------------------------------------------

    def expert(self, state: TaskState) -> Float[Array, "4"]:
        """An action of the scripted expert, which knows the task and the mechanism. It solves every task."""
        spec = self.spec(state.task)
        free = spec.mechanism.free > 0
        # Which way the point has to go now.
        tangent = spec.mechanism.tangent(state.joint) * jnp.sign(spec.end - state.joint)
        ahead = jnp.where(free, state.goal - state.point, tangent)
        flat = jnp.where(free & (spec.grasp == 0), ahead * jnp.array([1.0, 1.0, 0.0]), ahead)
        way = flat / jnp.maximum(jnp.linalg.norm(flat), 1e-6)
        left = jnp.linalg.norm(state.goal - state.point)

        # Holding: open above the point, close on it, go.
        there = jnp.linalg.norm(state.hand - state.point) < 0.5 * GRASP
        carry = jnp.where(free, state.goal - state.point, way * STEP)
        grip = jnp.where(state.grasped > 0, 1.0, jnp.where(there & (state.opening > 0), 1.0, -1.0))
        still = (state.grasped == 0) & there
        move = jnp.where(state.grasped > 0, carry, jnp.where(still, 0.0, state.point - state.hand))
        hold = jnp.concatenate([move / STEP, grip[None]])

        # Pushing: open to a place behind the point, then closed along the way.
        offset = state.hand - state.point
        depth = jnp.dot(offset, way)
        aside = offset - depth * way
        lined = (depth < -0.6 * CONTACT) & (jnp.linalg.norm(aside) < 0.3 * CONTACT)
        behind = state.point - 1.1 * CONTACT * way - state.hand
        short = jnp.minimum(STEP, left + jnp.maximum(-depth - CONTACT, 0.0))
        push = jnp.concatenate(
            [jnp.where(lined, short * way - aside, behind) / STEP, jnp.where(lined, 1.0, -1.0)[None]]
        )

        reach = jnp.concatenate([(state.goal - state.hand) / STEP, jnp.full(1, -1.0)])
        action = jnp.where(spec.reach > 0, reach, jnp.where(spec.grasp > 0, hold, push))
        # One speed for all axes keeps a motion's direction.
        return jnp.concatenate([action[:3] / jnp.maximum(jnp.abs(action[:3]).max(), 1.0), action[3:]])

    def solved(self, act: Any, params: TaskParams, keys: Key[Array, " episodes"]) -> Bool[Array, " episodes"]:
        """Whether each of some episodes reaches its goal at any time.

        Args:
            act: (key, observation) -> action.
        """

        def episode(key):
            start, run = jax.random.split(key)
            seen, state = self.reset_env(start, params)

            def step(carry, key):
                seen, state = carry
                one, two = jax.random.split(key)
                seen, state, *_ = self.step_env(two, state, act(one, seen), params)
                return (seen, state), None

            (_, state), _ = jax.lax.scan(step, (seen, state), jax.random.split(run, params.max_steps_in_episode))
            return state.success

        return jax.vmap(episode)(keys)
