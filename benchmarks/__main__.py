"""Every benchmark, each in a process of its own: one that fails is reported and does not stop the others.

python -m benchmarks [--write] [--tiny]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import LOAD, parser

ALL = (
    ["benchmarks.startup"],
    ["benchmarks.overhead"],
    ["benchmarks.population", "mlp"],
    ["benchmarks.population", "transformer"],
    ["benchmarks.population", "ppo"],
    ["benchmarks.population", "ppo-grid"],
    ["benchmarks.grokking"],
    ["benchmarks.per_example"],
    ["benchmarks.matmul"],
    ["benchmarks.grid_levels"],
    ["benchmarks.embodiments"],
    ["benchmarks.pixels"],
    ["benchmarks.retrieval"],
    ["benchmarks.atlas", "search"],
    ["benchmarks.atlas", "serve"],
    ["benchmarks.atlas", "digest"],
)
LIMIT = 360.0  # seconds for one of them


def main() -> int:
    """Run all; the exit code is the number of those that failed."""
    options = parser(__doc__).parse_args()
    extra = [f"--{name}" for name in ("write", "tiny") if getattr(options, name)]
    failed: list[str] = []
    environment = os.environ | {"BENCHMARKS_LOAD": str(LOAD)}
    began = time.perf_counter()
    for module, *case in ALL:
        name = " ".join([module, *case])
        print(f"\n{name}", flush=True)
        start = time.perf_counter()
        try:
            command = [sys.executable, "-m", module, *case, *extra]
            root = Path(__file__).parents[1]
            done = subprocess.run(command, cwd=root, env=environment, timeout=LIMIT, check=False)
            reason = f"exit code {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            reason = f"not done after {LIMIT:.0f} s"
        if reason:
            failed.append(f"{name}: {reason}")
        print(f"{time.perf_counter() - start:.0f} s" + (f", FAILED: {reason}" if reason else ""), flush=True)
    print(f"\n{len(ALL) - len(failed)} of {len(ALL)} done in {time.perf_counter() - began:.0f} s.")
    for line in failed:
        print(f"FAILED  {line}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
