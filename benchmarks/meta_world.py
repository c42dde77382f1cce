"""What a learner on the real Meta-World costs beside the simulator's own steps.

    python -m benchmarks.meta_world [--write]

Both sides play the same episodes of all ML10 training tasks, reset for reset and step for step: the bare loop calls
MuJoCo with recorded actions, the learner runs in the engine on `MetaWorldSuite`, chooses its actions by a 2 x 64
network, looks for NaN, counts successes, and is measured and checkpointed. No update of the network is in either.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from benchmarks.clock import Lap, interleave, said, timed
from benchmarks.engine_side import own_home, population
from benchmarks.report import Result, command
from unseen.lab.learner import Learner
from unseen.lab.study import Study
from unseen.worlds.control.meta_world import MetaWorldSuite

GOAL = 0.10
LAYERS = (39, 64, 64, 4)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with fixed weights, so that both sides may play the same."""

    weights: tuple[Any, ...]

    @classmethod
    def random(cls, seed: int) -> Network:
        rng = np.random.default_rng(seed)
        return cls(tuple(rng.normal(size=(i, o)) / np.sqrt(i) for i, o in itertools.pairwise(LAYERS)))

    def __call__(self, seen: Any) -> Any:
        for weight in self.weights:
            seen = np.tanh(seen @ weight)
        return seen


SUITE: list[MetaWorldSuite] = []


def suite(steps: int) -> MetaWorldSuite:
    """One suite for both sides, so that both step the same simulators."""
    if not SUITE or SUITE[0].max_steps != steps:
        SUITE[:] = [MetaWorldSuite("ML10", max_steps=steps)]
    return SUITE[0]


class RealSuccess(Study):
    """Success of a network on every task of ML10, a task a round."""

    episode: int = 200  # steps
    positions: int = 2  # of each task
    tasks: int = 10

    def learner(self) -> Learner:
        world = suite(self.episode)

        def advance(state: dict[str, Any]) -> dict[str, Any]:
            network = Network(tuple(state["weights"]))
            solved = world.solved(network, range(self.positions), world.tasks[state["round"] :][:1])
            return {**state, "round": state["round"] + 1, "solved": state["solved"] + int(solved.sum())}

        return Learner(
            init=lambda key: {"weights": list(Network.random(0).weights), "round": 0, "solved": 0},
            advance=advance,
            measure=lambda state: {"solved": np.float32(state["solved"])},
            steps=self.tasks,
            host=True,
        )


def recorded(study: RealSuccess) -> list[tuple[str, int, list[Any]]]:
    """The actions of every episode, as the learner chooses them."""
    world, network = suite(study.episode), Network.random(0)
    return [
        (task, position, [action for _, action, *_ in world.episode(task, position, network)])
        for task in world.tasks[: study.tasks]
        for position in range(study.positions)
    ]


def bare(study: RealSuccess, episodes: list[tuple[str, int, list[Any]]]) -> None:
    """The simulator alone."""
    world = suite(study.episode)
    for task, position, actions in episodes:
        simulator = world.simulator(task)
        simulator.seed(position)
        simulator.reset()
        for action in actions:
            simulator.step(action)


def measure(tiny: bool = False) -> Result:
    """Both sides in turns."""
    small = dict(episode=5, positions=1, tasks=2) if tiny else {}
    study = RealSuccess(seeds=1, first_seed=0, **small)
    episodes = recorded(study)  # also makes the simulators
    steps = sum(len(actions) for *_, actions in episodes)
    with own_home():
        sides = {
            "bare steps": lambda: Lap(timed(lambda: bare(study, episodes))),
            "learner": lambda: population(study),
        }
        found = interleave(sides, 1 if tiny else 5)
    over = [100 * (ratio - 1) for ratio in found["learner"].ratios(found["bare steps"])]
    rows = [
        [name, said([1e6 * s / steps for s in laps.seconds], " µs"), said(over, " %", 2) if name == "learner" else ""]
        for name, laps in found.items()
    ]
    notes = [
        f"{steps:,} steps in {len(episodes)} episodes of {study.tasks} tasks, resets included; {len(over)} interleaved "
        f"repeats, median (smallest to largest). Goal: at most {GOAL:.0%} over, "
        f"{'met' if np.median(over) <= 100 * GOAL else 'missed'}.",
    ]
    packages = ("metaworld", "mujoco", "gymnasium")
    columns = ["", "time of a step", "over"]
    return Result("meta-world", "The real Meta-World on the host", columns, rows, notes, packages)


if __name__ == "__main__":
    command(__doc__, measure)
