"""What a run says of the machine, the versions and the commit that made it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("unseen", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "xarray", "h5netcdf")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """The processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor, cores, memory and JAX devices."""
    import jax
    import psutil

    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
        "devices": [str(d.device_kind) for d in jax.devices()],
    }


def commit() -> str | None:
    """The git commit of the source tree that unseen runs from, with "+" if files differ from it; None for an
    installed package."""
    here = Path(__file__).resolve().parent
    try:
        ask = ["git", "-C", str(here)]
        revision = subprocess.run([*ask, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5)
        changed = subprocess.run(
            [*ask, "status", "--porcelain", "--", str(here.parent)], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if revision.returncode:
        return None
    return revision.stdout.strip() + ("+" if changed.stdout.strip() else "")
