"""Rendered frames a second of PixelControl, and of dm-control where that package and a way to render are there.

    python -m benchmarks.pixels [--write]

A frame is a step of the task with random actions, its picture and its reward. dm-control steps and renders
cartpole-balance and reacher-easy at the same number of pixels, one environment in one process, as its users do.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from benchmarks.clock import Lap, interleave, said, timed
from benchmarks.report import Result, command
from unseen.worlds.control.pixels import PixelControl, Visuals, visuals

STEPS = 50


def frames(task: str, look: Visuals, size: int, copies: int) -> Callable[[], jax.Array]:
    """Step and render `copies` environments; every pixel is read."""
    world = PixelControl(task, size)  # type: ignore[arg-type]
    params = world.params(look, max_steps=STEPS)
    _, states = jax.vmap(world.reset_env, (0, None))(jax.random.split(jax.random.key(0), copies), params)

    @jax.jit
    def run(states, key):
        def one(states, key):
            actions = jax.random.uniform(key, (copies, 2), minval=-1.0)
            keys = jax.random.split(key, copies)
            images, states, reward, *_ = jax.vmap(world.step_env, (0, 0, 0, None))(keys, states, actions, params)
            return states, images.sum((1, 2, 3)) + reward

        return jax.lax.scan(one, states, jax.random.split(key, STEPS))[1]

    return lambda: jax.block_until_ready(run(states, jax.random.key(1)))


def dm_control(domain: str, task: str, size: int, count: int) -> Callable[[], object]:
    """dm-control's own step and render.

    Raises:
        ImportError, RuntimeError, ...: where the package or a renderer is missing.
    """
    from dm_control import suite  # pyright: ignore[reportMissingImports]

    environment = suite.load(domain, task)
    action = environment.action_spec()
    rng = np.random.default_rng(0)
    environment.reset()
    environment.physics.render(size, size, camera_id=0)

    def run() -> None:
        for _ in range(count):
            if environment.step(rng.uniform(action.minimum, action.maximum)).last():
                environment.reset()
            environment.physics.render(size, size, camera_id=0)

    return run


def measure(tiny: bool = False) -> Result:
    """Each side compiled first, then in turns."""
    copies, count = (4, 4) if tiny else (1024, 200)
    busy = visuals(background="digits", drift=1.0, distractors=4)
    sides: dict[str, tuple[Callable[[], object], int]] = {}
    for task, name, look, size in (
        ("reach", "plain", visuals(), 20),
        ("reach", "digits and distractors, moving", busy, 20),
        ("pole", "plain", visuals(), 20),
        ("reach", "plain", visuals(), 28),
    ):
        sides[f"{task}, {name}, {size}x{size}"] = frames(task, look, size, copies), copies * STEPS
    notes = []
    for domain, task in (("cartpole", "balance"), ("reacher", "easy")):
        try:
            sides[f"dm-control {domain}-{task}, 20x20"] = dm_control(domain, task, 20, count), count
        except Exception as error:  # no package, or no display driver: said below the table, not hidden
            notes.append(f"dm-control {domain}-{task} could not be measured here: {type(error).__name__}: {error}.")
    setup = {name: timed(run) for name, (run, _) in sides.items()}
    laps = interleave({name: (lambda run=run: Lap(timed(run))) for name, (run, _) in sides.items()}, 1 if tiny else 5)
    rows = [
        [name, said([n / seconds for seconds in laps[name].seconds]), f"{setup[name]:.1f} s"]
        for name, (_, n) in sides.items()
    ]
    return Result(
        "pixels", "Rendered frames", ["", "frames a second", "first call, compiling"], rows,
        [f"{copies} copies side by side, on all cores; median and extremes of 5 rounds.", *notes], ["dm_control"],
    )  # fmt: skip


if __name__ == "__main__":
    command(__doc__, measure)
