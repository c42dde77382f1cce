"""A whole family at smoke scale: seconds a study, and what compiling costs of them.

python -m benchmarks.family [dynamics] [--write]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.clock import timed
from benchmarks.report import Result, markdown, parser, show, write
from unseen.atlas import catalogue


def run(key: str, home: Path, out: Path) -> float:
    """Wall seconds of `unseen run KEY --scale smoke` in a process of its own, with the caches under `home`.

    Raises:
        SystemExit: with the study's last words if it fails.
    """
    command = [sys.executable, "-m", "unseen", "run", key, "--scale", "smoke", "--out", str(out / key)]
    environment = os.environ | {"UNSEEN_HOME": str(home)}

    def start() -> None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{key}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")

    return timed(start)


def measure(family: str, tiny: bool = False) -> Result:
    """Each study with an empty cache, then again into another directory with the programs of the first time."""
    keys = [key for key, paper in catalogue.papers().items() if paper.family == family and paper.is_implemented]
    keys = keys[:1] if tiny else keys
    rows, total = [], [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        for key in keys:
            cold, warm = (run(key, home, Path(folder) / name) for name in ("cold", "warm"))
            total = [total[0] + cold, total[1] + warm]
            rows.append([f"`{key}`", f"{cold:.1f} s", f"{warm:.1f} s", f"{1 - warm / cold:.0%}"])
    rows.append([f"all {len(keys)}", f"{total[0]:.0f} s", f"{total[1]:.0f} s", f"{1 - total[1] / total[0]:.0%}"])
    notes = [
        "Wall time of `unseen run KEY --scale smoke` in a fresh process, with verdicts, figure and report, one run "
        "each: first with an empty `UNSEEN_HOME`, then into another directory with the programs compiled and the "
        "artifacts (datasets, pretrained models) made the first time."
    ]
    columns = ["study", "first time", "second time", "saved by the caches"]
    return Result(f"family-{family}", f"The {family} family at smoke scale", columns, rows, notes)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("family", nargs="?", default="dynamics", help="a family of the catalogue")
    chosen = options.parse_args()
    result = measure(chosen.family, chosen.tiny)
    show(result)
    if chosen.write:
        write(result.name, markdown(result))
