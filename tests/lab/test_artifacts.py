"""Artifacts are computed once, shared, and never half-read."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import artifact
from unseen.lab import artifacts as module

calls = []


def squares(count: int, start: int = 0) -> dict:
    calls.append(count)
    return {"x": jnp.arange(start, start + count) ** 2, "deep/name": np.ones(2)}


def broken() -> dict:
    raise ZeroDivisionError("no")


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("UNSEEN_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_loaded", {})
    calls.clear()
    return tmp_path


def test_it_is_computed_once_and_read_back_by_another_process(fresh, monkeypatch):
    first = artifact(squares, {"count": 4})
    assert first["x"].tolist() == [0, 1, 4, 9] and first["deep/name"].shape == (2,)
    artifact(squares, {"count": 4})
    monkeypatch.setattr(module, "_loaded", {})  # as in a new process
    again = artifact(squares, {"count": 4})
    assert calls == [4] and np.array_equal(again["x"], first["x"])


def test_other_settings_are_another_artifact():
    artifact(squares, {"count": 4})
    assert artifact(squares, {"count": 4, "start": 2})["x"].tolist() == [4, 9, 16, 25]
    assert calls == [4, 4]


def test_a_change_of_code_is_another_artifact(monkeypatch):
    artifact(squares, {"count": 4})
    monkeypatch.setattr(module, "source_version", lambda path: "another")
    artifact(squares, {"count": 4})
    assert calls == [4, 4]


@pytest.mark.parametrize("harm", ["truncated", "bit-flipped", "foreign"])
def test_a_damaged_file_is_named_and_computed_again(fresh, monkeypatch, harm):
    artifact(squares, {"count": 4})
    (file,) = (fresh / "artifacts").glob("squares-*.arrays")
    data = bytearray(file.read_bytes())
    data = {"truncated": data[:-9], "foreign": bytearray(b"GIF89a")}.get(harm, data)
    if harm == "bit-flipped":
        data[-30] ^= 1
    file.write_bytes(bytes(data))
    monkeypatch.setattr(module, "_loaded", {})
    with pytest.warns(UserWarning, match=r"squares-.*computing it again"):
        assert artifact(squares, {"count": 4})["x"].tolist() == [0, 1, 4, 9]
    assert calls == [4, 4]


def test_it_may_be_asked_for_while_jax_traces():
    @jax.jit
    def f(x):
        return x + jnp.asarray(artifact(squares, {"count": 3})["x"])

    assert f(1.0).tolist() == [1, 2, 5]
    assert jax.vmap(lambda x: x * artifact(squares, {"count": 3})["x"].sum())(jnp.ones(2)).tolist() == [5, 5]


def test_what_is_shared_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        artifact(squares, {"count": 3})["x"][0] = 7


def test_an_error_reaches_the_caller_and_leaves_nothing(fresh):
    with pytest.raises(ZeroDivisionError, match="no"):
        artifact(broken)
    assert not list((fresh / "artifacts").glob("*.arrays"))


def test_any_fsspec_store_keeps_it(monkeypatch):
    artifact(squares, {"count": 5}, store="memory://shelf")
    monkeypatch.setattr(module, "_loaded", {})
    artifact(squares, {"count": 5}, store="memory://shelf")
    assert calls == [5]


SLOW = """
import time
def slow(log: str) -> dict:
    with open(log, "a") as file:
        file.write("computed\\n")
    time.sleep(1.0)
    return {"x": [1.0]}
"""


def test_two_processes_that_want_the_same_one_at_once_compute_it_once(fresh):
    (fresh / "slow_module.py").write_text(SLOW)
    log = fresh / "log"
    code = f"import slow_module; from unseen.lab import artifact; artifact(slow_module.slow, dict(log={str(log)!r}))"
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=fresh) for _ in range(3)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0, 0]
    assert Path(log).read_text() == "computed\n"
