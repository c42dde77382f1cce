"""Answers are kept until the database changes, and no longer."""

import re

import pytest

pytest.importorskip("starlette", reason="needs the extra atlas")
pytest.importorskip("httpx2", reason="needs the extra test")

from starlette.testclient import TestClient

from unseen.atlas import importing, sources, web
from unseen.atlas import kept as module
from unseen.atlas.kept import Kept
from unseen.atlas.store import Store


@pytest.fixture
def site(store):
    made = web.Site(store, "https://atlas.example")
    assert made.tokens  # the secret is written when it is first used
    return made


@pytest.fixture
def made(monkeypatch):
    """The addresses whose answers were made anew."""
    found = []

    def counted(site, request, page, token, answer=web._answer):
        found.append(str(request.url.path))
        return answer(site, request, page, token)

    monkeypatch.setattr(web, "_answer", counted)
    return found


def reader(site, address="198.51.100.7"):
    return TestClient(web.application(site), client=(address, 1234))


def token_in(page):
    return re.search(r'name="token" value="([^"]+)"', page.text)[1]


def test_what_was_asked_for_last_stays():
    kept = Kept(most=10)
    for name in "abc":
        kept.put(name, 0, name.upper(), 4)
        assert kept.get("a", 0) == "A"
    assert "b" not in kept and kept.get("c", 0) == "C"
    kept.put("d", 0, "D", 11)  # more than all may take
    assert "d" not in kept and kept.get("a", 0) == "A"
    kept.put("a", 0, "again", 10)
    assert kept.get("a", 0) == "again" and "c" not in kept


def test_another_state_or_a_minute_later_it_is_gone(monkeypatch):
    kept, now = Kept(seconds=60.0), [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    kept.put("a", 1, "A", 1)
    assert kept.get("a", 2) is None and kept.get("a", 1) is None
    kept.put("a", 1, "A", 1)
    now[0] = 59.0
    assert kept.get("a", 1) == "A"
    now[0] = 61.0
    assert kept.get("a", 1) is None


def test_a_commit_of_anybody_is_another_state(store):
    first = store.state()
    assert store.state() == first
    store.set_fact("mine", "1")
    mine = store.state()
    assert mine != first
    other = Store(store.url)
    assert store.state() == mine  # opening writes nothing
    other.set_fact("theirs", "1")
    other.close()
    assert store.state() != mine


def test_a_page_is_made_once_while_nothing_changes(site, made):
    client = reader(site)
    first = client.get("/search?q=grokking")
    assert client.get("/search?q=grokking").text.count("<mark>") == first.text.count("<mark>") > 0
    assert made == ["/search"]
    client.get("/search?q=grokking", headers={"accept": "application/json"})  # the other form is another answer
    client.get("/search?q=grokking&page=2")
    assert len(made) == 3
    for _ in range(2):
        client.get(f"/search?q={'long ' * 300}")  # who asks for much does not push the others out
    assert len(made) == 5


def test_a_vote_and_what_another_process_imports_are_seen_at_once(site):
    client = reader(site)
    before = client.get("/papers/grokking.json").json()["votes"]
    assert "Zyxomma" not in client.get("/search?q=zyxomma").text
    client.post("/papers/grokking/vote", data={"token": token_in(client.get("/papers/grokking"))})
    assert client.get("/papers/grokking.json").json()["votes"] == before + 1
    other = Store(site.store.url)
    record = sources.Record("Zyxomma of the marshes", "A dragonfly named zyxomma.")
    importing.bring_in(other, sources.Source("marsh", lambda position: iter([("", record)])))
    other.close()
    assert "of the marshes" in client.get("/search?q=zyxomma").text


def test_readers_share_a_page_but_no_token(site, made):
    one, two = reader(site), reader(site, "203.0.113.9")
    mine, theirs = token_in(one.get("/papers/grokking")), token_in(two.get("/papers/grokking"))
    assert made == ["/papers/grokking"] and mine != theirs
    assert site.no_token not in two.get("/papers/grokking").text
    assert two.post("/papers/grokking/vote", data={"token": mine}).status_code == 403
    assert two.post("/papers/grokking/vote", data={"token": theirs}).status_code == 200


def test_what_failed_is_not_kept(site, made):
    client = reader(site)
    assert client.get("/papers/nothing").status_code == 404
    assert ("/papers/nothing", "", False) not in site.kept
