"""A study driven by the engine, with the clock where a loop by hand has it too."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from benchmarks.clock import Lap, timed
from unseen.lab.engine import Progress, plan, set_up
from unseen.lab.executors import checkpointed, execute
from unseen.lab.store import Store
from unseen.lab.study import Study

CHECKPOINT_SECONDS = 20.0  # what `unseen.run` takes by default
Arrays = dict[str, np.ndarray]


@contextmanager
def own_home() -> Iterator[Path]:
    """An empty home for artifacts and compiled programs: the first compilation is a real one."""
    from jax.experimental.compilation_cache import compilation_cache

    old, cache = os.environ.get("UNSEEN_HOME"), jax.config.jax_compilation_cache_dir
    with tempfile.TemporaryDirectory() as folder:
        os.environ["UNSEEN_HOME"] = folder
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
        try:
            set_up()  # the cache of compiled programs goes into the new home
            yield Path(folder)
        finally:
            jax.config.update("jax_compilation_cache_dir", cache)
            compilation_cache.reset_cache()
            if old is None:
                del os.environ["UNSEEN_HOME"]
            else:
                os.environ["UNSEEN_HOME"] = old


def population(study: Study, evidence: dict[str, Arrays] | None = None, saves: list[float] | None = None) -> Lap:
    """All of the study's blocks as `unseen.run` computes them: plan, programs, checkpoints at their default, and
    finished blocks written to a directory. What follows (verdicts, figure, report) is not in it.

    Args:
        evidence: takes the blocks' arrays, by their names.
        saves: takes the seconds that writing each checkpoint took.
    """
    first: list[float] = []

    def hear(event: Progress) -> None:
        if event.phase == "running" and not first:  # told when the first measurement is in hand
            first.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        set_up()
        blocks, _ = plan(study)
        store = Store(folder)
        control = checkpointed(store, CHECKPOINT_SECONDS)
        control.report = hear
        save = control.save
        if saves is not None:
            control.save = lambda name, arrays: saves.append(timed(lambda: save(name, arrays)))
        for block, arrays in execute(study, blocks, control, checkpoints=store):
            store.write_arrays(f"{block.name}.block", arrays)
            store.remove(f"{block.name}.checkpoint")
            if evidence is not None:
                evidence[block.name] = arrays
        ended = time.perf_counter()
    return Lap(ended - first[0], setup=first[0] - began)
