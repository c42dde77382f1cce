import os
import random
import signal
import subprocess
import sys
import time

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from unseen.atlas import index
from unseen.atlas.store import Store


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """A database with the catalogue, to read only; copy it to write."""
    file = tmp_path_factory.mktemp("atlas") / "atlas.db"
    store = Store(file)
    index.sync(store)
    store.close()
    return file


@pytest.fixture
def store(filled, tmp_path, monkeypatch):
    """A database of one's own with the catalogue, in a home of one's own."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "atlas.db").write_bytes(filled.read_bytes())
    monkeypatch.setenv("UNSEEN_HOME", str(home))
    monkeypatch.delenv("UNSEEN_DATABASE", raising=False)
    made = Store()
    yield made
    made.close()


FORKER = """
import os, signal, sys
from unseen.atlas import digest, importing, sources
from unseen.atlas.store import Store
from unseen.worlds import sentence_embedding as embedding
embedding.embedder()
while line := sys.stdin.readline():
    child = os.fork()
    if child == 0:
        exec(line)
        os._exit(0)
    print("begun", flush=True)
    sys.stdin.readline()
    os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def killed(store):
    """Runs code in a new process and kills it with SIGKILL at a random moment; tells whether it was still at work."""
    command = [sys.executable, "-c", FORKER]
    forker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    rng = random.Random(0)

    def run(code, wait=lambda: None, most=0.02):
        forker.stdin.write(f"{code}\n")
        forker.stdin.flush()
        assert forker.stdout.readline() == "begun\n"
        wait()
        time.sleep(rng.uniform(0, most))
        forker.stdin.write("kill\n")
        forker.stdin.flush()
        return int(forker.stdout.readline()) == -signal.SIGKILL

    yield run
    forker.stdin.close()
    forker.wait()
