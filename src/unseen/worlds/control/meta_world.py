"""The real Meta-World: 50 tasks of a simulated arm, its splits and its scripted experts, as a world on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import metaworld.env_dict
import numpy as np
from jaxtyping import Bool, Float
from metaworld.policies import ENV_POLICY_MAP

from unseen.lab import UserError

TRAIN_POSITIONS = 50  # numbers 0 to 49 are for training, as many as Meta-World's own benchmarks have
OBSERVATION, ACTION = 39, 4  # hand, gripper, two objects with rotations; the same one step before; the goal


def _benchmarks() -> dict[str, Mapping[str, tuple[str, ...]]]:
    known = metaworld.env_dict
    found = {name: {"train": tuple(getattr(known, f"{name}_V3")), "test": ()} for name in ("MT10", "MT25", "MT50")}
    for name in ("ML10", "ML25", "ML45"):
        split = getattr(known, f"{name}_V3")
        found[name] = {"train": tuple(split["train"]), "test": tuple(split["test"])}
    return found


BENCHMARKS: dict[str, Mapping[str, tuple[str, ...]]] = _benchmarks()


class MetaWorldSuite:
    """Tasks of the real Meta-World (MuJoCo), with `TaskSuite`'s words: tasks, positions, an expert, success.

    Axes: the task, and the position within a task: number i seeds the simulator's own draw of object and goal, so
    positions 0 to 49 (training) and those from 50 on (new) never overlap. Observations are Meta-World's 39 numbers;
    in the ML benchmarks the last three, the goal, are zeros. Nothing is unpickled: tasks are made from their names.

    Args:
        benchmark: MT10, MT25, MT50, ML10, ML25 or ML45; or the name of one task ("reach-v3").
        split: "train" or "test" (the ML benchmarks have held-out tasks).
        shows_goal: whether the goal is observed; by default as the benchmark says.
        max_steps: of an episode; Meta-World's own limit is 500.

    Raises:
        UserError: on an unknown benchmark or task, or a split without tasks.

    Source: Yu et al., "Meta-World" (2019), sections 4.1 to 4.3; package metaworld 3.
    """

    host = True

    def __init__(
        self, benchmark: str = "ML10", split: str = "train", *, shows_goal: bool | None = None, max_steps: int = 500
    ):
        if benchmark in BENCHMARKS:
            self.tasks = BENCHMARKS[benchmark].get(split, ())
            if not self.tasks:
                raise UserError(
                    f"split takes train{' or test' if 'ML' in benchmark else ''} of {benchmark}, got {split!r}."
                )
        elif benchmark in ENV_POLICY_MAP:
            self.tasks = (benchmark,)
        else:
            raise UserError(f"benchmark takes {', '.join(BENCHMARKS)} or a task's name, got {benchmark!r}.")
        if not 1 <= max_steps <= 500:
            raise UserError(f"max_steps takes 1 to 500, Meta-World's own limit, got {max_steps}.")
        self.shows_goal = not benchmark.startswith("ML") if shows_goal is None else shows_goal
        self.max_steps = max_steps
        self._simulators: dict[str, Any] = {}
        self._experts = {task: ENV_POLICY_MAP[task]() for task in self.tasks}

    def simulator(self, task: str) -> Any:
        """Meta-World's environment of a task; made once, since making one takes a tenth of a second."""
        if task not in self._simulators:
            if task not in self.tasks:
                raise UserError(f"task takes one of {', '.join(self.tasks)}, got {task!r}.")
            made = metaworld.env_dict.ALL_V3_ENVIRONMENTS[task]()
            made.seeded_rand_vec, made._freeze_rand_vec, made._set_task_called = True, False, True
            # The goal is hidden in `seen`, since experts need it; the bounds to which the simulator clips what it
            # observes were made for hidden goals, and are made again without.
            made._partially_observable = False
            made.__dict__.pop("sawyer_observation_space", None)
            self._simulators[task] = made
        return self._simulators[task]

    def start(self, task: str, position: int) -> Float[np.ndarray, "39"]:
        """The first observation (with the goal) of an episode."""
        simulator = self.simulator(task)
        simulator.seed(position)
        return simulator.reset()[0]

    def seen(self, observation: Float[np.ndarray, "*batch 39"]) -> Float[np.ndarray, "*batch 39"]:
        """What a policy sees of an observation."""
        if self.shows_goal:
            return observation
        hidden = observation.copy()
        hidden[..., -3:] = 0
        return hidden

    def expert(self, task: str, observation: Float[np.ndarray, "39"]) -> Float[np.ndarray, "4"]:
        """The scripted expert's action; it needs the goal in the observation."""
        # A copy, since some of the experts write into what they are given.
        return np.clip(self._experts[task].get_action(observation.copy()), -1.0, 1.0)

    def episode(
        self, task: str, position: int, act: Callable[[Any], Any] | None = None, *, until_success: bool = True
    ) -> Iterator[tuple[Any, Any, float, bool]]:
        """Observation (with the goal), action, reward and success of each step; by default the expert's.

        Args:
            act: what a policy sees -> action, clipped here.
            until_success: end the episode at the first success; otherwise at `max_steps`.

        Raises:
            UserError: if the simulator or the policy raises, or gives NaN.
        """
        simulator, observation = self.simulator(task), self.start(task, position)
        for step in range(self.max_steps):
            try:
                if act is None:
                    action = self.expert(task, observation)
                else:
                    action = np.clip(np.asarray(act(self.seen(observation)), float), -1.0, 1.0)
                following, reward, _, _, info = simulator.step(action)
            except Exception as error:
                raise UserError(
                    f"{task} raised {type(error).__name__} ({error}) at step {step} of position {position}."
                ) from error
            if reward != reward:
                raise UserError(f"{task} returned NaN at step {step} of position {position}.")
            success = info["success"] > 0
            yield observation, action, float(reward), success
            if success and until_success:
                return
            observation = following

    def demonstrations(
        self, positions: Sequence[int], tasks: Sequence[str] | None = None
    ) -> dict[str, Float[np.ndarray, "..."] | Bool[np.ndarray, "..."]]:
        """The experts' steps until success: `observation` (steps, 39) as a policy sees it, `action` (steps, 4), and
        `success` (tasks, positions)."""
        seen, actions, success = [], [], []
        for task in self.tasks if tasks is None else tasks:
            for position in positions:
                solved = False
                for observation, action, _, now in self.episode(task, position):
                    seen.append(observation)
                    actions.append(action)
                    solved |= now
                success.append(solved)
        return {
            "observation": self.seen(np.asarray(seen, np.float32)),
            "action": np.asarray(actions, np.float32),
            "success": np.reshape(success, (-1, len(positions))),
        }

    def solved(
        self, act: Callable[[Any], Any] | None, positions: Sequence[int], tasks: Sequence[str] | None = None
    ) -> Bool[np.ndarray, "tasks positions"]:
        """Whether a policy (None: the expert) succeeds at any time, for each task and position."""
        found = [
            [any(success for *_, success in self.episode(task, position, act)) for position in positions]
            for task in (self.tasks if tasks is None else tasks)
        ]
        return np.array(found, bool)
