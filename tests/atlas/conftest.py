import os

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
    index.embed(store)
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
