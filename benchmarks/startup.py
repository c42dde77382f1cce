"""How long the commands that need no numbers take to answer.

python -m benchmarks.startup [--write]
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

from benchmarks.clock import Lap, interleave, said, timed
from benchmarks.report import Result, command

GOAL = 0.5  # seconds


def commands() -> dict[str, list[str]]:
    """What is timed: name -> argv. `unseen` is the installed script, as a user starts it."""
    script = Path(sysconfig.get_path("scripts")) / "unseen"
    unseen = [str(script)] if script.exists() else [sys.executable, "-m", "unseen"]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "unseen --help": [*unseen, "--help"],
        "unseen list": [*unseen, "list"],
        "unseen show grokking": [*unseen, "show", "grokking"],
        "python -c 'import jax'": [sys.executable, "-c", "import jax"],
    }


def answer(argv: list[str]) -> Lap:
    """One start of a fresh process, output to a pipe."""
    call = partial(subprocess.run, argv, check=True, capture_output=True, env=os.environ | {"COLUMNS": "100"})
    return Lap(timed(call))


def measure(tiny: bool = False) -> Result:
    """Each command in turn, first once to fill the file cache."""
    sides = {name: partial(answer, argv) for name, argv in commands().items()}
    if not tiny:
        interleave(sides, 1)
    found = interleave(sides, 1 if tiny else 15)
    rows = []
    for name, laps in found.items():
        verdict = ("yes" if laps.median < GOAL else "no") if name.startswith("unseen") else ""
        rows.append([f"`{name}`", said([1e3 * s for s in laps.seconds], " ms"), verdict])
    repeats = len(next(iter(found.values())).laps)
    note = f"Wall time of a fresh process, {repeats} interleaved starts: median (smallest to largest)."
    return Result("startup", "Answers without JAX", ["command", "time", f"under {GOAL} s"], rows, [note])


if __name__ == "__main__":
    command(__doc__, measure)
