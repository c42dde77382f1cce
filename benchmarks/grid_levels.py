"""Four rooms, uniformly random actions: environment steps a second of GridLevels, xminigrid and minigrid.

python -m benchmarks.grid_levels [--write]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.clock import Lap, interleave, said, timed
from benchmarks.report import Result, command

SIDE = 19  # of minigrid's four rooms
ENVS = 1024


def ours(observation: str, envs: int, steps: int) -> Callable[[], Any]:
    """A compiled program of `steps` steps in each of `envs` environments, ours."""
    from unseen.worlds.control.grid_levels import GridLevels, Rooms, levels_of

    world = GridLevels(Rooms(SIDE), observation)  # type: ignore[arg-type]
    params = world.params(levels_of(world.kind, 1024))

    def step(carry: Any, key: Any) -> tuple[Any, Any]:
        state, total = carry
        act, go = jax.random.split(key)
        actions = jax.random.randint(act, (envs,), 0, world.num_actions)
        seen, state, reward, *_ = jax.vmap(world.step, (0, 0, 0, None))(
            jax.random.split(go, envs), state, actions, params
        )
        # Observations are used, so that they are computed: else the compiler leaves them out.
        return (state, total + reward.sum() + seen.sum()), None

    @jax.jit
    def run(key: Any) -> Any:
        _, state = jax.vmap(world.reset, (0, None))(jax.random.split(key, envs), params)
        (_, total), _ = jax.lax.scan(step, (state, jnp.zeros(())), jax.random.split(key, steps))
        return total

    return lambda: jax.block_until_ready(run(jax.random.key(0)))


def theirs(envs: int, steps: int) -> Callable[[], Any]:
    """The same in xminigrid with its own automatic reset."""
    import xminigrid
    from xminigrid.wrappers import GymAutoResetWrapper

    world, params = xminigrid.make("MiniGrid-FourRooms")
    world = GymAutoResetWrapper(world)

    def step(carry: Any, key: Any) -> tuple[Any, Any]:
        state, total = carry
        actions = jax.random.randint(key, (envs,), 0, world.num_actions(params))
        state = jax.vmap(world.step, (None, 0, 0))(params, state, actions)
        return (state, total + state.reward.sum() + state.observation.astype(jnp.float32).sum()), None

    @jax.jit
    def run(key: Any) -> Any:
        state = jax.vmap(world.reset, (None, 0))(params, jax.random.split(key, envs))
        (_, total), _ = jax.lax.scan(step, (state, jnp.zeros(())), jax.random.split(key, steps))
        return total

    return lambda: jax.block_until_ready(run(jax.random.key(0)))


def minigrid(steps: int) -> Callable[[], Any]:
    """One environment of minigrid in Python, observations as it makes them."""
    import gymnasium
    import minigrid  # noqa: F401 (registers its environments)
    import numpy as np

    world = gymnasium.make("MiniGrid-FourRooms-v0")
    actions = np.random.default_rng(0).integers(0, 6, steps)

    def run() -> None:
        world.reset(seed=0)
        for action in actions:
            *_, terminated, truncated, _ = world.step(int(action))
            if terminated or truncated:
                world.reset()

    return run


def side(build: Callable[[], Callable[[], Any]], steps: int) -> Callable[[], Lap]:
    """Seconds a step; building and the first call are set-up."""
    made: list[Callable[[], Any]] = []

    def lap() -> Lap:
        setup = 0.0
        if not made:
            began = time.perf_counter()
            made.append(build())
            made[0]()
            setup = time.perf_counter() - began
        return Lap(timed(made[0]) / steps, setup)

    return lap


def measure(tiny: bool = False) -> Result:
    """All sides, interleaved."""
    envs, steps, slow, repeats = (8, 2, 20, 1) if tiny else (ENVS, 200, 3_000, 5)
    found = interleave(
        {
            "GridLevels, planes": side(lambda: ours("planes", envs, steps), envs * steps),
            "GridLevels, index": side(lambda: ours("index", envs, steps), envs * steps),
            "xminigrid": side(lambda: theirs(envs, steps), envs * steps),
            "minigrid": side(lambda: minigrid(slow), slow),
        },
        repeats,
    )
    base = found["GridLevels, planes"]
    rows = [
        [name, said([1 / s for s in laps.seconds]), said(laps.ratios(base)), f"{laps.first_setup:.1f} s"]
        for name, laps in found.items()
    ]
    notes = [
        f"Four rooms of {SIDE} x {SIDE} cells, random actions, automatic reset, {envs} environments on one core in one "
        f"program (minigrid: one environment in Python), {steps} steps a repeat (minigrid {slow:,}). {repeats} "
        "interleaved repeats, median (smallest to largest).",
        "They do not do the same: GridLevels moves in four directions and shows the whole grid in one-hot planes or "
        "the number of the state; xminigrid and minigrid turn an agent and show the 7 x 7 cells before it. GridLevels "
        "draws one of 1,024 levels made beforehand at a reset, xminigrid makes a new one.",
    ]
    columns = ("", "steps a second", "time, times GridLevels' with planes", "set-up")
    return Result("grid-levels", "Gridworld steps", columns, rows, notes, ("xminigrid", "minigrid", "gymnasium"))


if __name__ == "__main__":
    command(__doc__, measure)
