"""Swimming bodies: steps a second of the bare dynamics, of a gait search, and of the gymnax environment.

    python -m benchmarks.embodiments [--write]

A body-step is one step of 0.1 of one body. The environment computes observations and random actions too, and resets
bodies whose episode is over.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from benchmarks.clock import Lap, interleave, said, timed
from benchmarks.report import Result, command
from unseen.worlds.control.embodiments import Embodiments, find_gaits, random_swimmers
from unseen.worlds.control.swimmer import JOINTS, random_start, step

STEPS = 120


def bare(bodies: int, links: int = 7) -> Callable[[], jax.Array]:
    """Random actions, drawn beforehand."""
    swimmers = random_swimmers(jax.random.key(0), bodies, links)
    states = jax.vmap(random_start)(jax.random.split(jax.random.key(1), bodies), swimmers)
    actions = jax.random.uniform(jax.random.key(2), (STEPS, bodies, JOINTS), minval=-1.0)

    @jax.jit
    def run(swimmers, states, actions):
        last, _ = jax.lax.scan(lambda s, a: (jax.vmap(step)(swimmers, s, a), None), states, actions)
        return last.position

    return lambda: jax.block_until_ready(run(swimmers, states, actions))


def environment(bodies: int) -> Callable[[], jax.Array]:
    """Observations, rewards and automatic resets with the bodies of a stack of 64."""
    world = Embodiments()
    params = world.params(random_swimmers(jax.random.key(0), 64, 7), max_steps=STEPS)
    _, states = jax.vmap(world.reset, (0, None))(jax.random.split(jax.random.key(1), bodies), params)

    @jax.jit
    def run(states, key):
        def one(carry, key):
            keys = jax.random.split(key, bodies)
            actions = jax.random.uniform(key, (bodies, JOINTS), minval=-1.0)
            tokens, carry, reward, *_ = jax.vmap(world.step, (0, 0, 0, None))(keys, carry, actions, params)
            return carry, reward.sum() + tokens.sum()

        return jax.lax.scan(one, states, jax.random.split(key, STEPS))[1]

    return lambda: jax.block_until_ready(run(states, jax.random.key(2)))


def search(bodies: int) -> Callable[[], jax.Array]:
    """Reference gaits: 8 populations of 48."""
    swimmers = random_swimmers(jax.random.key(0), bodies, 7)
    return lambda: jax.block_until_ready(find_gaits(jax.random.key(1), swimmers).distance)


def measure(tiny: bool = False) -> Result:
    """Each side compiled first, then in turns."""
    few, many = (4, 8) if tiny else (128, 4096)
    sides = {
        f"dynamics, {few} bodies": (bare(few), few * STEPS),
        f"dynamics, {many} bodies": (bare(many), many * STEPS),
        f"gymnax environment, {many} copies": (environment(many), many * STEPS),
        f"gait search, {few // 2} bodies": (search(few // 2), few // 2 * 8 * 48 * STEPS),
    }
    setup = {name: timed(run) for name, (run, _) in sides.items()}
    laps = interleave({name: (lambda run=run: Lap(timed(run))) for name, (run, _) in sides.items()}, 1 if tiny else 5)
    rows = []
    for name, (_, steps) in sides.items():
        rate = [steps / seconds for seconds in laps[name].seconds]
        rows.append([name, said(rate), f"{setup[name]:.1f} s"])
    return Result(
        "embodiments", "Swimmers", ["", "body-steps a second", "first call, compiling"], rows,
        [f"Bodies with 7 links, episodes of {STEPS} steps; median and extremes of 5 rounds."],
    )  # fmt: skip


if __name__ == "__main__":
    command(__doc__, measure)
