"""A run must not lose or lie: tested by killing, damaging, filling and sharing real directories."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import unseen
from unseen.lab.errors import RunInterrupted, UserError
from unseen.lab.run import FILES, run
from unseen.lab.store import Store

# Other processes, which compile as users do, must come to the same numbers.
pytestmark = pytest.mark.optimized

ALL = {*FILES, "run.json"}
CODE = """
import sys, unseen
from unseen.lab.errors import RunInterrupted
try:
    run = unseen.run({file!r}, out={out!r}, quiet=True, **{settings!r})
except RunInterrupted as stop:
    print("interrupted", stop); sys.exit(130)
except unseen.UserError as error:
    print("refused", error); sys.exit(2)
print("done")
"""


def start(file, out, checkpoint="0.05", **settings):
    code = CODE.format(file=str(file), out=str(out), settings=settings)
    environment = {**os.environ, "UNSEEN_CHECKPOINT_SECONDS": checkpoint}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def interrupt_when(ready):
    """Ctrl-C for this process as soon as `ready()`."""

    def watch():
        while not ready():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


@pytest.fixture(scope="module")
def small(toy):
    return toy.at_scale("smoke")


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """A finished run to compare with, and to copy before damaging it."""
    return run(small, out=tmp_path_factory.mktemp("whole") / "run", quiet=True)


@pytest.fixture
def copy(whole, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(whole.directory, place)
    return place


def test_out_leaves_exactly_six_files(whole):
    assert {p.name for p in Path(whole.directory).iterdir()} == ALL


def test_verdicts_json_is_a_list_of_the_eight_fields(whole):
    (verdict,) = json.loads((Path(whole.directory) / "verdicts.json").read_text())
    assert list(verdict) == ["claim", "verdict", "effect", "low", "high", "n", "rule", "note"]
    assert verdict["claim"] == "falls" and verdict["n"] == 2
    assert verdict["rule"] == "supported if CI upper bound < 0.9; refuted if CI lower bound > 0.9"


def test_the_same_command_returns_at_once(whole, small):
    before = {p: p.stat().st_mtime_ns for p in Path(whole.directory).iterdir()}
    again = run(small, out=whole.directory, quiet=True)
    assert again.evidence.identical(whole.evidence)
    assert again.verdicts == whole.verdicts
    assert before == {p: p.stat().st_mtime_ns for p in Path(whole.directory).iterdir()}


def test_evidence_says_what_it_is(whole):
    e = whole.evidence
    assert e.loss.dims == ("rate", "kind", "seed", "step") and e.norms.dims[-1] == "unit"
    assert e.end.dims == ("rate", "kind", "seed") and e.answer.dims == ("amount", "seed")
    assert e.total.dims == ("word", "seed", "outside_step")
    assert e.sizes["seed"] == 2 and list(e.seed) == [100, 101] and list(e.step) == [0, 10, 20]
    assert e.attrs["study"] == "toy" and json.loads(e.attrs["settings"])["width"] == 16
    assert np.isnan(e.loss.sel(kind="stopped", step=20)).all()  # that condition ends at step 10
    assert not e.diverged.any()


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_with_the_same_evidence(toy, toy_file, tmp_path):
    settings = dict(steps=4000, seeds=2, pause=0.15)
    truth = run(toy.at_scale(**settings), out=tmp_path / "truth", quiet=True)
    out, clock = tmp_path / "killed", random.Random(0)

    def kept():
        found = set()
        for p in out.glob("unfinished/*.*"):
            with contextlib.suppress(FileNotFoundError):  # files that are being written or done with go away
                found.add((p.name, p.stat().st_mtime_ns))
        return found

    resumed = 0
    for kill in range(20):
        before = kept()
        resumed += bool(before)
        process = start(toy_file, out, **settings)
        # One in four dies anywhere, while it starts included; the others when they have kept something of their own,
        # however slow the machine is.
        while kill % 4 and process.poll() is None and not kept() - before:
            time.sleep(0.01)
        time.sleep(clock.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if out.exists() and {p.name for p in out.iterdir()} >= ALL:
            shutil.rmtree(out)  # it was faster than the killer: begin again
    assert resumed >= 10
    process = start(toy_file, out, **settings)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    found = run(toy.at_scale(**settings), out=out, quiet=True)
    assert found.evidence.identical(truth.evidence)
    assert {p.name for p in out.iterdir()} == ALL


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(toy, toy_file, tmp_path):
    settings = dict(steps=60, seeds=2, pause=0.3)
    process = start(toy_file, tmp_path / "run", **settings)
    while not list(tmp_path.glob("run/unfinished/*.block")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "The same command goes on from here" in said
    kept = list(tmp_path.glob("run/unfinished/*"))
    assert kept
    again = run(toy.at_scale(**{**settings}), out=tmp_path / "run", quiet=True)
    truth = run(toy.at_scale(**{**settings, "pause": 0.0}), out=tmp_path / "truth", quiet=True)
    assert _same(again.evidence, truth.evidence)


def test_two_processes_on_one_directory_cannot_both_write(toy, toy_file, tmp_path):
    settings = dict(steps=60, seeds=2, pause=0.3)
    first = start(toy_file, tmp_path / "run", **settings)
    while not (tmp_path / "run" / "run.json").exists() and first.poll() is None:
        time.sleep(0.02)
    with pytest.raises(UserError, match="Another process is running in"):
        run(toy.at_scale(**settings), out=tmp_path / "run", quiet=True)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 0, said
    assert {p.name for p in (tmp_path / "run").iterdir()} == ALL


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("harm", ["truncated", "bit-flipped", "foreign", "missing"])
def test_a_damaged_file_is_named_and_made_again(whole, small, copy, name, harm):
    file = copy / name
    data = bytearray(file.read_bytes())
    if harm == "truncated":
        data = data[: len(data) // 2]
    elif harm == "bit-flipped":
        data[len(data) // 2] ^= 4
    elif harm == "foreign":
        data = bytearray(b'{"what": "not ours"}')
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(bytes(data))
    said = []
    if name == "run.json" and harm == "missing":  # without it nobody can tell whose files these are
        with pytest.raises(UserError, match=r"no run of unseen wrote.*choose another --out"):
            run(small, out=copy, quiet=True)
        return
    again = run(small, out=copy, quiet=True, say=said.append)
    assert any(name in sentence for sentence in said), said
    assert again.evidence.identical(whole.evidence)
    assert [v.to_json() for v in again.verdicts] == json.loads((copy / "verdicts.json").read_text())
    assert {p.name for p in copy.iterdir()} == ALL
    assert run(small, out=copy, quiet=True, say=lambda text: pytest.fail(text)).evidence.identical(whole.evidence)


@pytest.mark.parametrize("harm", ["truncated", "bit-flipped", "foreign"])
def test_a_damaged_block_or_checkpoint_is_named_and_computed_again(toy, whole, tmp_path, harm):
    study = toy.at_scale("smoke", pause=0.3)
    interrupt_when(lambda: list(tmp_path.glob("x/unfinished/outside*")))
    with pytest.raises(RunInterrupted):
        run(study, out=tmp_path / "x", quiet=True, checkpoint_every=0.0)
    files = list((tmp_path / "x" / "unfinished").iterdir())
    assert files
    for file in files:
        data = bytearray(file.read_bytes())
        if harm == "truncated":
            data = data[:-5]
        elif harm == "bit-flipped":
            data[len(data) // 2] ^= 1
        else:
            data = bytearray(b"PK\x03\x04 something else")
        file.write_bytes(bytes(data))
    said = []
    with pytest.warns(UserWarning, match="damaged") if any(f.suffix == ".checkpoint" for f in files) else _nothing():
        again = run(study, out=tmp_path / "x", quiet=True, say=said.append)
    assert sum("damaged" in s for s in said) == sum(f.suffix == ".block" for f in files)
    for name in whole.evidence.data_vars:
        assert again.evidence[name].equals(whole.evidence[name])


def _same(a, b):
    return all(a[name].equals(b[name]) for name in b.data_vars)


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *args):
        return False


def test_files_that_are_not_ours_stay(small, tmp_path):
    place = tmp_path / "mine"
    place.mkdir()
    (place / "notes.txt").write_text("keep me")
    run(small, out=place, quiet=True)
    run(small, out=place, quiet=True, fresh=True)
    assert (place / "notes.txt").read_text() == "keep me"
    assert {p.name for p in place.iterdir()} == {*ALL, "notes.txt"}


def test_somebody_elses_evidence_is_refused_and_kept(small, tmp_path):
    (tmp_path / "evidence.nc").write_text("somebody's")
    for fresh in (False, True):
        with pytest.raises(UserError, match=r"evidence\.nc that no run of unseen wrote"):
            run(small, out=tmp_path, quiet=True, fresh=fresh)
    assert (tmp_path / "evidence.nc").read_text() == "somebody's"


def test_another_runs_directory_is_refused_with_what_differs(toy, copy):
    with pytest.raises(UserError, match=r"other settings \(steps 20, now 30\); choose another --out"):
        run(toy.at_scale("smoke", steps=40 - 10), out=copy, quiet=True)
    run(toy.at_scale("smoke", steps=40), out=copy, quiet=True, fresh=True)


def _mounted(place, *options):
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    if subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(place)], capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a small disk")


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(toy, whole, tmp_path):
    disk = tmp_path / "disk"
    _mounted(disk, "-o", "size=128k")
    try:
        (disk / "ballast").write_bytes(b"x" * 110_000)
        with pytest.raises(
            UserError,
            match=r"Cannot write .*No space left on device.*Free some space and run the same command",
        ):
            run(toy.at_scale("smoke"), out=disk / "run", quiet=True, checkpoint_every=0.0)
        assert not list((disk / "run").glob("**/*.part"))
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        again = run(toy.at_scale("smoke"), out=disk / "run", quiet=True)
        assert again.evidence.identical(whole.evidence)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_directory_is_said_and_a_finished_run_in_it_is_read(small, whole, tmp_path):
    disk = tmp_path / "disk"
    _mounted(disk, "-o", "size=8m")
    try:
        shutil.copytree(whole.directory, disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert run(small, out=disk / "run", quiet=True).evidence.identical(whole.evidence)
        with pytest.raises(UserError, match=r"Cannot create .*Read-only file system"):
            run(small, out=disk / "other", quiet=True)
        with pytest.raises(UserError, match=r"Read-only file system"):
            run(small, out=disk / "run", quiet=True, fresh=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_diverged_member_is_counted_shown_and_not_judged_away(toy, tmp_path):
    result = run(toy.at_scale("smoke", poison=101), out=tmp_path / "run", quiet=True)
    assert result.evidence.diverged.sel(seed=101, kind="plain").all()
    assert not result.evidence.diverged.sel(seed=100).any()
    assert np.isnan(result.evidence.loss.sel(seed=101, kind="plain", step=20)).all()
    assert result.record["counts"]["diverged"] == 6
    (verdict,) = result.verdicts
    assert verdict.verdict == "inconclusive" and "1 of 2 seeds have no value" in verdict.note
    assert "diverged" in (tmp_path / "run" / "report.html").read_text()


def test_worker_processes_give_the_same_evidence(small, whole, tmp_path):
    found = run(small, out=tmp_path / "run", quiet=True, workers=2)
    assert found.evidence.identical(whole.evidence)


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_evidence(small, whole, tmp_path):
    pytest.importorskip("ray")
    found = run(small, out=tmp_path / "run", quiet=True, on="ray")
    assert found.evidence.identical(whole.evidence)


def test_one_device_gives_the_same_evidence(toy, toy_file, whole, tmp_path):
    code = CODE.format(file=str(toy_file), out=str(tmp_path / "run"), settings=dict(scale="smoke"))
    environment = {**os.environ, "UNSEEN_DEVICES": "1", "UNSEEN_CACHE_PROGRAMS": "0"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert run(toy.at_scale("smoke"), out=tmp_path / "run", quiet=True).evidence.identical(whole.evidence)


@pytest.mark.slow
def test_a_run_directory_may_be_an_object_store(toy, small, whole, monkeypatch):
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    try:
        Store("s3://lab").fs.mkdir("lab")
        seen = []
        url = "s3://lab/runs/toy"

        def interrupt(text):
            seen.append(text)

        slow = toy.at_scale("smoke", pause=0.3)
        interrupt_when(lambda: any(n.startswith("outside") for n in Store(f"{url}/unfinished").names()))
        with pytest.raises(RunInterrupted):
            run(slow, out=url, quiet=True, checkpoint_every=0.2)
        assert Store(f"{url}/unfinished").names()
        found = run(slow, out=url, quiet=True, say=interrupt)
        for name in whole.evidence.data_vars:
            assert found.evidence[name].equals(whole.evidence[name])
        assert set(Store(url).names()) == ALL
        again = run(slow, out=url, quiet=True)
        assert again.evidence.identical(found.evidence)
        assert again.directory == url
        Store(url).write("verdicts.json", b"[]")
        run(slow, out=url, quiet=True, say=interrupt)
        assert any("verdicts.json is damaged" in s for s in seen)
    finally:
        server.stop()


def test_nothing_is_unpickled_anywhere():
    for file in Path(unseen.__file__).parent.rglob("*.py"):
        text = file.read_text()
        assert "import pickle" not in text and "allow_pickle=True" not in text and "joblib" not in text, file


def test_leaving_out_a_condition_that_a_claim_needs_is_said_not_raised(toy, tmp_path):
    result = run(toy.at_scale("smoke", rate=(0.1,)), out=tmp_path / "run", quiet=True)
    (verdict,) = result.verdicts
    assert verdict.verdict == "inconclusive" and verdict.note.startswith("not judged")
    assert {p.name for p in (tmp_path / "run").iterdir()} == ALL


def test_the_run_shows_itself(whole):
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(whole)
    text = console.export_text()
    assert "supported" in text and "The loss falls." in text and "report.html" in text
    assert "supported" in repr(whole) and "<svg" in whole._repr_html_()
