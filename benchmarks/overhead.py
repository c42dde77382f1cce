"""What the engine costs beside a loop written by hand for the same learner.

    python -m benchmarks.overhead [--write]

Both sides train the addition part of `grokking` at laptop scale: the same members in the same blocks, on both
cores, with the same evaluations fetched to the host. The engine also checkpoints, looks for NaN, can be stopped,
and writes finished blocks to disk.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.clock import Lap, interleave, said
from benchmarks.engine_side import Arrays, own_home, population
from benchmarks.report import Result, command
from unseen.lab.engine import Block, plan
from unseen.lab.study import Study
from unseen.studies.dynamics.grokking import GrokkingStudy

GOAL = 0.05


def the_study(tiny: bool) -> Study:
    """Addition alone: one compiled program, 6 conditions x 4 seeds in a block on each of two cores, and enough
    updates for the engine to write checkpoints at its default of one in 20 seconds."""
    small = dict(modulus=5, width=8, steps=40, seeds=2) if tiny else dict(steps=3_000, seeds=4)
    return GrokkingStudy.at_scale("laptop", operation=("add",), first_seed=0, **small)


def by_hand(study: Study, chunks: Sequence[Sequence[Block]], evidence: dict[str, Arrays] | None = None) -> Lap:
    """The same in plain JAX: jit of a vmap of the learner's functions, members shared out over the devices.

    Args:
        chunks: the blocks that run at once, as many as there are devices, or one.
        evidence: takes the blocks' measures, by their names.
    """
    began = time.perf_counter()
    devices = jax.devices()[: len(chunks[0])]
    mesh = jax.make_mesh((len(devices),), ("members",), devices=devices)
    spread = NamedSharding(mesh, P("members"))
    (operation,) = study.operation
    names = GrokkingStudy.traced

    def start(seed: Any, conditions: Any) -> Any:
        learner = study.learner(operation, **dict(zip(names, conditions, strict=True)))
        state = learner.init(jax.random.key(seed))
        return state, learner.measure(state)

    def step(state: Any, conditions: Any) -> Any:
        learner = study.learner(operation, **dict(zip(names, conditions, strict=True)))
        state = learner.advance(state)
        return state, learner.measure(state)

    def compiled(function: Any, donate: tuple[int, ...] = ()) -> Any:
        over = partial(jax.shard_map, mesh=mesh, in_specs=P("members"), out_specs=P("members"), check_vma=False)
        return jax.jit(over(jax.vmap(function)), donate_argnums=donate)

    start, step = compiled(start), compiled(step, donate=(0,))
    first = 0.0
    for chunk in chunks:
        members = [member for block in chunk for member in block.members]
        seeds = jax.device_put(np.asarray([seed for seed, _ in members]), spread)
        conditions = [np.asarray([c[n] for _, c in members], np.float32) for n in names]
        conditions = jax.device_put(conditions, spread)
        state, measures = start(seeds, conditions)
        history = [jax.device_get(measures)]
        if not first:
            step = step.lower(state, conditions).compile()
            first = time.perf_counter()
        for _ in range(study.steps // study.every):
            state, measures = step(state, conditions)
            history.append(jax.device_get(measures))
        series = {name: np.stack([h[name] for h in history], axis=1) for name in history[0]}
        if evidence is not None:
            edges = np.cumsum([len(block.members) for block in chunk])[:-1]
            for name, values in series.items():
                for block, mine in zip(chunk, np.split(values, edges), strict=True):
                    evidence.setdefault(block.name, {})[f"series/{name}"] = mine
    return Lap(time.perf_counter() - first, setup=first - began)


def chunks_of(study: Study) -> list[list[Block]]:
    """The blocks that the engine runs at once; benchmarks choose sizes without padding."""
    blocks, _ = plan(study)
    abreast = min(len(jax.devices()), len(blocks))
    assert all(len(b.members) == b.size for b in blocks) and len(blocks) % abreast == 0
    return [blocks[i : i + abreast] for i in range(0, len(blocks), abreast)]


def measure(tiny: bool = False) -> Result:
    """Interleaved repeats of both sides, and once a whole `unseen.run` for what comes after the computation."""
    import unseen

    study = the_study(tiny)
    with own_home() as home:
        chunks = chunks_of(study)
        ours: dict[str, Arrays] = {}
        theirs: dict[str, Arrays] = {}
        saves: list[float] = []
        sides = {
            "engine": lambda: population(study, ours, saves),
            "by hand": lambda: by_hand(study, chunks, theirs),
        }
        found = interleave(sides, 1 if tiny else 3)
        worst = max(
            float(np.max(np.abs(ours[block][name] - values)))
            for block, series in theirs.items()
            for name, values in series.items()
        )
        began = time.perf_counter()
        run = unseen.run(study, out=home / "run", quiet=True)
        whole = time.perf_counter() - began
    engine, hand = found["engine"], found["by hand"]
    over = [100 * (ratio - 1) for ratio in engine.ratios(hand)]
    members = sum(len(block.members) for chunk in chunks for block in chunk)
    rows = [
        ["loop by hand", said(hand.seconds, " s"), f"{hand.first_setup:.1f} s", ""],
        ["engine", said(engine.seconds, " s"), f"{engine.first_setup:.1f} s", said(over, " %", 2)],
        ["`unseen.run` in all", f"{whole:.1f} s", "", ""],
    ]
    met = "met" if engine.ratios(hand) and np.median(over) <= 100 * GOAL else "missed"
    notes = [
        f"{members} members x {study.steps:,} updates of the quadratic network of `grokking`, an evaluation every "
        f"{study.every}; {len(over)} interleaved repeats, median (smallest to largest). Goal: at most {GOAL:.0%} over, "
        f"{met}. The engine wrote {len(saves)} checkpoints of blocks in these repeats, {sum(saves):.3f} s in all.",
        "Set-up is the first one, with an empty cache: building, tracing, compiling, first evaluation. The last row "
        f"is one run with compiled programs at hand, with verdicts, figure and report ({run.seconds:.1f} s of it "
        "computing).",
        f"Largest difference between the two sides' measures: {worst:.2g}.",
    ]
    return Result("overhead", "The engine against a loop by hand", ["", "training", "set-up", "over"], rows, notes)


if __name__ == "__main__":
    command(__doc__, measure)
