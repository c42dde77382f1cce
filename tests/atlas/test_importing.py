"""Imports: every record arrives once, matched to the catalogue, whatever stops them; servers run on loopback."""

import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen import cli
from unseen.atlas import catalogue, importing, search, sources, text
from unseen.atlas.sources import Record, Refused, source
from unseen.lab.errors import UserError
from unseen.worlds import sentence_embedding as embedding

SEED = Path(__file__).parents[3] / "shared" / "seed.txt"


def page(count=207):
    """A listing as the user's: boilerplate, then titles each with an abstract, the last one cut short."""
    lines = ["Get trending papers in your email inbox once a day!", "Get trending papers in your email inbox!"]
    for i, entry in enumerate(list(catalogue.papers().values())[:count]):
        lines += [("Subscribe" if i == 0 else "") + entry.title, f"We study {entry.question} " + "It is so. " * 40]
    return "\n".join(lines)[:-90]


def documents(store):
    return store.read("SELECT * FROM documents WHERE origin = 'imported' ORDER BY id")


# Listings --------------------------------------------------------------------------------------------------


def test_a_listing_arrives_whole_and_matched(store, tmp_path):
    (tmp_path / "page.txt").write_text(page())
    counts = importing.bring_in(store, source(str(tmp_path / "page.txt")))
    assert counts.line() == "207 read, 207 new, 0 updated, 207 matched, 0 refused"
    assert {row["paper"] for row in documents(store)} == set(catalogue.papers())
    again = importing.bring_in(store, source(str(tmp_path / "page.txt")))
    assert (again.new, again.updated, again.same) == (0, 0, 207)


@pytest.mark.skipif(not SEED.is_file(), reason="the user's page is not in the repository")
def test_the_users_page_arrives_whole_and_matched(store):
    counts = importing.bring_in(store, source(str(SEED)))
    assert counts.line() == "207 read, 207 new, 0 updated, 207 matched, 0 refused"
    assert {row["paper"] for row in documents(store)} == set(catalogue.papers())
    bodies = [len(row["body"]) for row in documents(store)]
    assert min(bodies) > 100


def test_a_listing_in_html(store, tmp_path):
    entries = list(catalogue.papers().values())[:5]
    cards = "".join(
        f"<article><h3><a href='/p'>{e.title}</a></h3><p>{'Words of it. ' * 30}</p></article>" for e in entries
    )
    (tmp_path / "p.html").write_text(f"<!doctype html><html><head><title>x</title><script>no()</script></head>{cards}")
    counts = importing.bring_in(store, source(str(tmp_path / "p.html")))
    assert counts.line() == "5 read, 5 new, 0 updated, 5 matched, 0 refused"


def test_an_imported_paper_of_the_catalogue_is_shown_as_its_entry(store):
    entry = catalogue.paper("grokking")
    with_abstract = Record(entry.title, "Zanzibar is a word of the abstract only.")
    importing.bring_in(store, sources.Source("x", lambda p: iter([("1", with_abstract)])))
    hits = search.search(store, "zanzibar", mode="words").hits
    assert [hit.key for hit in hits] == ["grokking"]
    assert [hit.key for hit in search.search(store, entry.title, limit=100).hits].count("grokking") == 1


def test_titles_match_in_spite_of_small_differences():
    known = importing.Catalogue()
    entry = catalogue.paper("grokking")
    for spelled in (
        entry.title.upper(),
        entry.title.replace(":", " -"),
        entry.title[:60],
        entry.title.replace("Small", "Smal"),
    ):
        assert known.match(spelled) is entry, spelled
    assert known.match("Something else", entry.arxiv) is entry
    for other in (
        "Grokking",
        "Attention Is All You Need",
        "Generalization",
        entry.title + " in the Wild, Revisited and Extended",
    ):
        assert known.match(other) is None, other


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=400))
def test_any_file_is_read_or_refused(said):
    for found in (*sources.listing(said), *sources.bibtex(said), *sources.bibtex("@a{k, title={" + said)):
        assert isinstance(found, Record | Refused)
        if isinstance(found, Record):
            text.clean(found.title).encode("utf-8")


# BibTeX ----------------------------------------------------------------------------------------------------

BIB = r"""
% a comment
@comment{nothing}
@string{icml = "Proc. of " # {ICML}}
@inproceedings{a1,
  title = {{Gro{\"o}k} {\'e}tude: {\L}ukasz \& the na{\"\i}ve \emph{case}},
  author = "Pa{\~n}o, Jos{\'e} and Ann Bee",
  year = 2021, booktitle = icml,
  url = {https://arxiv.org/abs/2101.00001v2},
  abstract = {Line one.
     Line two, 50\% more.}
}
@article{notitle, year = {2020}}
@misc(paren, title = "Quoted {"}inside{"} title", year = "in 1999")
@article{bad, title = {<script>alert(1)</script>}, url = {javascript:alert(1)}}
"""


def test_bibtex(store, tmp_path):
    (tmp_path / "x.bib").write_text(BIB)
    counts = importing.bring_in(store, source(str(tmp_path / "x.bib")))
    assert counts.line() == "4 read, 3 new, 0 updated, 0 matched, 1 refused"
    assert counts.refused == [Refused("line 13", "the entry 'notitle' has no title")]
    first, second, third = documents(store)
    assert first["title"] == "Groök étude: Łukasz & the naïve case"
    assert (first["authors"], first["year"], first["arxiv"]) == ("José Paño, Ann Bee", 2021, "2101.00001")
    assert first["body"] == "Line one. Line two, 50% more."
    assert (second["title"], second["year"]) == ('Quoted "inside" title', 1999)
    assert (third["title"], third["url"]) == ("<script>alert(1)</script>", "")


def test_fuller_abstracts_stay(store):
    def bring(*records):
        return importing.bring_in(store, sources.Source("x", lambda p: iter([("", r) for r in records])))

    bring(Record("A paper of ours", "A long abstract. " * 30))
    assert bring(Record("A paper of ours", ("A long abstract. " * 30)[:300], year=2020)).updated == 1
    (row,) = documents(store)
    assert len(row["body"]) > 400 and row["year"] == 2020
    assert bring(Record("A Paper of Ours.", "A new abstract.", arxiv="2001.00001")).updated == 1
    assert len(documents(store)) == 1


# Networks --------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    def __init__(self, answer):
        self.answer, self.asked = answer, []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        self.server.asked.append(asked)
        status, body, *headers = self.server.answer(asked, len(self.server.asked))
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


def atom(first, count, total):
    entries = "".join(
        f"<entry><id>http://arxiv.org/abs/2001.{10000 + i}v1</id><title>Paper number {i} of the feed</title>"
        f"<summary>About &lt;b&gt;{i}&lt;/b&gt;.</summary><published>2020-01-0{1 + i % 9}T00:00:00Z</published>"
        "<updated>2020-01-01T00:00:00Z</updated><author><name>Ann Bee</name></author>"
        '<arxiv:primary_category xmlns:arxiv="http://arxiv.org/schemas/atom" term="cs.LG"/></entry>'
        for i in range(first, min(first + count, total))
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><feed xmlns="http://www.w3.org/2005/Atom" '
        'xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">'
        f"<opensearch:totalResults>{total}</opensearch:totalResults><opensearch:startIndex>{first}</opensearch:startIndex>"
        f"<opensearch:itemsPerPage>{count}</opensearch:itemsPerPage>{entries}</feed>"
    )


@pytest.fixture
def arxiv_server(monkeypatch):
    arxiv = pytest.importorskip("arxiv")
    servers = []

    def serve(answer):
        server = Server(answer)
        servers.append(server)
        monkeypatch.setattr(arxiv.Client, "query_url_format", server.url + "/api/query?{}")
        return server

    monkeypatch.setattr(sources, "ARXIV_PAUSE", 0.01)
    monkeypatch.setattr(sources, "ARXIV_PAGE", 20)
    yield serve
    for server in servers:
        server.shutdown()


def test_arxiv_is_read_page_by_page_through_failures(store, arxiv_server):
    def answer(asked, count):
        if count in (1, 3):
            return 503, "busy"
        return 200, atom(int(asked["start"]), int(asked["max_results"]), 50)

    arxiv_server(answer)
    counts = importing.bring_in(store, source("arxiv:grokking"))
    assert counts.line() == "50 read, 50 new, 0 updated, 0 matched, 0 refused"
    first = documents(store)[0]
    assert (first["arxiv"], first["year"], first["body"]) == ("2001.10000", 2020, "About <b>0</b>.")


def test_arxiv_goes_on_where_it_stopped(store, arxiv_server):
    down = threading.Event()

    def answer(asked, count):
        if int(asked["start"]) >= 40 and not down.is_set():
            return 503, "down"
        return 200, atom(int(asked["start"]), int(asked["max_results"]), 60)

    server = arxiv_server(answer)
    with pytest.raises(UserError, match="the same command goes on"):
        importing.bring_in(store, source("arxiv:grokking"))
    assert len(documents(store)) == 40
    down.set()
    before = len(server.asked)
    counts = importing.bring_in(store, source("arxiv:grokking"))
    assert (counts.read, counts.new) == (20, 20)
    assert int(server.asked[before]["start"]) == 40
    assert len(documents(store)) == 60
    assert importing.bring_in(store, source("arxiv:grokking")).same == 60


def test_daily_papers(store, tmp_path):
    pytest.importorskip("huggingface_hub")

    def answer(asked, count):
        if count == 1:
            return 429, "slow down", ("Retry-After", "0")
        day = asked["date"]
        paper = {"id": f"2611.0000{day[-1]}", "title": f"Daily {day}", "summary": "S", "authors": [{"name": "Ann"}]}
        paper["publishedAt"] = f"{day}T00:00:00.000Z"
        return 200, json.dumps([{"paper": paper, "title": paper["title"], "publishedAt": paper["publishedAt"]}])

    server = Server(answer)
    code = (
        "from unseen.atlas import importing, sources; from unseen.atlas.store import Store; "
        "print(importing.bring_in(Store(), sources.source('hf:2026-11-01..2026-11-03')).line())"
    )
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    server.shutdown()
    assert done.stdout.splitlines()[-1] == "3 read, 3 new, 0 updated, 0 matched, 0 refused"
    assert [asked["date"] for asked in server.asked] == ["2026-11-01", "2026-11-01", "2026-11-02", "2026-11-03"]
    assert {row["arxiv"] for row in documents(store)} == {"2611.00001", "2611.00002", "2611.00003"}


def test_a_wrong_request_is_not_repeated(store, arxiv_server):
    server = arxiv_server(lambda asked, count: (400, "what?"))
    with pytest.raises(UserError, match=r"refused the request \(400\)"):
        importing.bring_in(store, source("arxiv:x"))
    assert len(server.asked) == 1


@pytest.mark.parametrize("name", ["/no/such/file", "arxiv:", "hf:yesterday", "hf:2026-01-02..2026-01-01", "zoo:x"])
def test_bad_sources_are_one_sentence(store, name, capsys):
    assert cli.main(["import", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# Killed ----------------------------------------------------------------------------------------------------


def test_kill_at_random_moments_loses_nothing(store, tmp_path, killed):
    """Twenty imports killed with SIGKILL; then one that ends. All papers are there, each once, and findable."""
    file = tmp_path / "page.txt"
    file.write_text(page(60) + "\n" + "\n".join(f"Own paper {i}\n{'Own words. ' * 60}" for i in range(340)))
    code = f"importing.bring_in(Store({store.url!r}), sources.source({str(file)!r}))"
    assert sum(killed(code, most=0.3) for _ in range(20)) >= 5
    assert importing.bring_in(store, source(str(file))).read == 400
    assert store.read("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    rows = documents(store)
    assert len(rows) == 400 == len({row["title_key"] for row in rows})
    assert store.read("SELECT count(*) AS n FROM search")[0]["n"] == 400 + 207


# The command -----------------------------------------------------------------------------------------------


def test_command_ends_with_the_counts(store, tmp_path, capsys):
    (tmp_path / "page.txt").write_text(page(3) + "\nA new paper on rewards\n" + "Reward models fail under shift. " * 9)
    assert cli.main(["import", str(tmp_path / "page.txt")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "4 read, 4 new, 0 updated, 3 matched, 0 refused"
    if embedding.folder():
        assert "A new paper on rewards" in said[0] and "near" in said[1]
    assert cli.main(["import", str(tmp_path / "page.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] == 4
