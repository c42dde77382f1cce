"""Dear work that several studies share, computed once and kept under a content address."""

from __future__ import annotations

import hashlib
import inspect
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unseen.lab.store import Store, home
from unseen.lab.version import source_version

_loaded: dict[str, dict[str, np.ndarray]] = {}
_guard = threading.Lock()


def artifact(
    function: Callable[..., Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
    *,
    store: str | None = None,
) -> dict[str, np.ndarray]:
    """What `function(**settings)` returns, computed once on this machine (or this object store).

    The address is made from the function's name, the version of its source with all that it imports from
    unseen, and the settings; so a change of code or settings computes anew and an old value is never mistaken
    for a new one. Two processes that want the same artifact at once compute it once. A damaged file is
    computed again.

    Args:
        function: returns named arrays; must be deterministic. It may use JAX, also when the caller is being
            traced: it runs in a thread of its own.
        settings: its keyword arguments, as JSON knows them (numbers, strings, lists).
        store: a path or fsspec URL to keep it in, by default `UNSEEN_HOME/artifacts`.

    Returns:
        Name -> array, read-only (it is shared).

    Example:
        >>> log = artifact(collect_log, {"transitions": 100_000, "seed": 0})
    """
    settings = dict(settings or {})
    name, key = _address(function, settings)
    place = store or str(home() / "artifacts")
    with _guard:
        if (kept := _loaded.get(f"{place}/{key}")) is not None:
            return dict(kept)
    keep = Store(place)
    file = f"{name}-{key}.arrays"
    arrays = keep.arrays_if_kept(file, "computing it again")
    if arrays is None:
        with _lock(keep, file):
            arrays = keep.arrays_if_kept(file, "computing it again")
            if arrays is None:
                arrays = _compute(function, settings)
                keep.write_arrays(file, arrays)
    for array in arrays.values():
        array.setflags(write=False)
    with _guard:
        _loaded[f"{place}/{key}"] = arrays
    return dict(arrays)


def _address(function: Callable[..., Any], settings: Mapping[str, Any]) -> tuple[str, str]:
    source = inspect.getsourcefile(function)
    name = f"{function.__module__}.{function.__qualname__}"
    version = source_version(Path(source)) if source and Path(source).exists() else "interactive"
    text = json.dumps([name, version, settings], sort_keys=True)
    return function.__name__.strip("_").replace("<lambda>", "lambda"), hashlib.sha256(text.encode()).hexdigest()[:16]


def _lock(keep: Store, file: str) -> Any:
    # A lock file beside a local artifact; for a remote store, processes of this machine wait for each other.
    from filelock import FileLock

    folder = Path(keep.root) if keep.is_local else home() / "locks"
    Store(str(folder)).make()
    mangled = hashlib.sha256(keep.path(file).encode()).hexdigest()[:16]
    return FileLock(folder / (f".{file}.lock" if keep.is_local else f"{mangled}.lock"))


def _compute(function: Callable[..., Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    # A fresh thread has no JAX trace in progress, so the function computes values even while the caller traces.
    box: dict[str, Any] = {}

    def work() -> None:
        try:
            box["arrays"] = {name: np.asarray(value) for name, value in function(**settings).items()}
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=work, name=f"artifact {function.__name__}")
    thread.start()
    thread.join()
    if "error" in box:
        raise box["error"]
    return box["arrays"]
