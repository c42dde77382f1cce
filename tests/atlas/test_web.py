"""The pages: what they show, in both forms, and what they withstand."""

import ast
import contextlib
import importlib
import inspect
import json
import re
import socket
import threading
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="needs the extra atlas")
pytest.importorskip("httpx2", reason="needs the extra test")

from starlette.testclient import TestClient

from unseen.atlas import catalogue, follow, importing, shown, sources, web, worlds
from unseen.atlas.sources import Record
from unseen.atlas.store import StoreError


@pytest.fixture
def site(store):
    return web.Site(store, "https://atlas.example")


@pytest.fixture
def client(site):
    return TestClient(web.application(site), raise_server_exceptions=False, client=("198.51.100.7", 1234))


def token(client, path="/papers/grokking"):
    return re.search(r'name="token" value="([^"]+)"', client.get(path).text).group(1)


PATHS = ("/", "/search?q=grokking", "/papers/grokking", "/families", "/families/minds", "/worlds", "/worlds/control",
         "/reference/unseen.measures.value_iteration", "/verdicts", "/map", "/api")  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_every_page_is_there_in_both_forms(client, path):
    page = client.get(path, headers={"accept": "text/html,*/*;q=0.8"})
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "set-cookie" not in page.headers
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    # What the policy forbids must not be there: styles and scripts inside the page, or from elsewhere.
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=\"/static/)", page.text)
    asked = client.get(path, headers={"accept": "application/json"})
    address, _, query = path.partition("?")
    ending = client.get(("/index" if address == "/" else address) + ".json" + (f"?{query}" if query else ""))
    assert asked.headers["content-type"] == "application/json" and asked.json() == ending.json()


def test_a_paper_shows_claims_with_forest_plot_command_and_figure(client):
    page = client.get("/papers/grokking").text
    entry = catalogue.paper("grokking")
    assert all(claim.says in page.replace("&#39;", "'") for claim in entry.claims)
    assert page.count('<svg class="forest"') == len(entry.claims)
    assert "unseen run grokking" in page and 'data-copy="command"' in page
    assert client.get("/papers/grokking/figure.png").content.startswith(b"\x89PNG")
    data = client.get("/papers/grokking.json").json()
    assert {c["id"] for c in data["claims"]} == {c.id for c in entry.claims}
    assert len(data["similar"]) == 6 and "grokking" not in {p["key"] for p in data["similar"]}


def test_a_world_shows_its_contact_sheets_and_no_other_files(client):
    assert '<img src="/worlds/control/Maze.png"' in client.get("/worlds/control").text
    assert client.get("/worlds/control/Maze.png").content.startswith(b"\x89PNG")
    for path in ("/worlds/control/Nothing.png", "/worlds/%2e%2e/Maze.png", "/worlds/control/..%2f..%2fresults%2fx.png"):
        assert client.get(path).status_code == 404


def test_what_a_paper_adds_leads_to_its_reference(client):
    added = client.get("/papers/grokfast.json").json()["components"]
    links = [component["reference"] for component in added if component["reference"]]
    assert links and all(f'href="{link}"' in client.get("/papers/grokfast").text for link in links)
    found = client.get(links[0] + ".json").json()
    assert "grokfast" in [paper["key"] for paper in found["papers"]]
    assert found["import"].startswith("from unseen.") and found["documentation"]
    assert client.get("/reference/os.system").status_code == 404


def test_references_come_from_the_source_as_python_sees_it():
    names = worlds.public_names()
    for path in ("unseen.measures.value_iteration", "unseen.methods.amplify_fast", "unseen.models.Transformer"):
        package, _, name = path.rpartition(".")
        real = getattr(importlib.import_module(package), name)
        assert inspect.cleandoc(real.__doc__) == names[path].documentation
        expected = [p for p in inspect.signature(real).parameters if p != "self"]
        said = ast.parse(f"def {names[path].signature.replace(chr(10), ' ')}: ...").body[0].args
        assert [a.arg for a in (*said.args, *said.kwonlyargs)] == expected


def test_every_paper_has_its_page(client):
    for key in list(catalogue.papers())[::8]:
        assert client.get(f"/papers/{key}").status_code == 200, key


def test_infinite_and_missing_numbers_are_shown(client, store):
    rows = store.read("SELECT paper FROM verdicts WHERE high IS NULL OR effect IS NULL")
    for row in rows:
        assert client.get(f"/papers/{row['paper']}").status_code == 200
    assert "∞" in client.get("/verdicts").text


def test_the_overview_counts_false_positives(client):
    data = client.get("/verdicts.json").json()
    assert data["expected_false"]["supported"] == round(0.025 * data["tally"]["supported"], 2)
    assert sum(data["tally"].values()) == len(data["claims"])


def test_hostile_titles_are_text_on_every_page(client, store):
    evil = "<img src=x onerror=alert(1)>\"'&</title><script>alert(1)</script>"
    record = Record(evil, f"Abstract {evil}", evil, 2020, url="javascript:alert(1)")
    importing.bring_in(store, sources.Source("x", lambda p: iter([("", record)])))
    key = store.read("SELECT key FROM documents WHERE origin = 'imported'")[0]["key"]
    for path in (
        f"/papers/{key}",
        "/search?q=onerror&origin=imported",
        "/",
        "/search?q=" + "%3Cscript%3Ealert(1)%3C/script%3E",
    ):
        page = client.get(path).text
        assert "<script>alert" not in page and "<img src=x" not in page and "javascript:" not in page
    feed = client.get("/search.atom?q=onerror&origin=imported")
    titles = [e.text for e in ET.fromstring(feed.content).iter("{http://www.w3.org/2005/Atom}title")]
    assert any(t.startswith("<img src=x") for t in titles)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(q=st.text(max_size=50), page=st.text(max_size=4), year=st.text(max_size=6), axis=st.text(max_size=9))
def test_no_query_is_a_500(client, q, page, year, axis):
    for path in ("/search", "/search.json", "/search.atom"):
        query = {"q": q, "page": page, "year": year, "axis": axis, "family": "minds"}
        assert client.get(path, params=query).status_code in (200, 400)


BAD = (
    *("/papers/%00", "/papers/..%2f..%2fetc", "/papers/x.json", "/static/../web.py", "/papers/", "/families/zoo"),
    *("/papers/" + "a" * 5000, "/papers/%ff%fe", "/worlds/%F0%9F%99%82", "/confirm/x", "/unsubscribe/a.b"),
)


@pytest.mark.parametrize("path", BAD, ids=range(len(BAD)))
def test_bad_addresses_are_no_500(client, path):
    assert client.get(path).status_code in (400, 404)


def test_only_its_own_names_are_answered_on_loopback(store, monkeypatch):
    monkeypatch.setenv("UNSEEN_URL", "https://atlas.example/x")
    client = TestClient(web.application(web.Site(store, hosts=web.names("127.0.0.1"))))
    own = ("127.0.0.1:8000", "localhost", "[::1]:80", "atlas.example")
    others = ("evil.example", "127.0.0.1.evil.example", "")
    assert [client.get("/", headers={"host": name}).status_code for name in own + others] == [200] * 4 + [400] * 3
    assert web.names("0.0.0.0") == ("*",)


def test_a_broken_database_is_a_503_and_a_defect_a_500_without_details(client, site, monkeypatch):
    monkeypatch.setattr(shown, "home", lambda store: (_ for _ in ()).throw(StoreError("/secret/atlas.db is locked")))
    page = client.get("/index.json")
    assert page.status_code == 503 and "secret" not in page.text
    monkeypatch.setattr(shown, "home", lambda store: 1 / 0)
    page = client.get("/index.json")
    assert page.status_code == 500 and "division" not in page.text
    assert "content-security-policy" in page.headers


def test_feed_is_valid_and_newest_first(client):
    answer = client.get("/search.atom", params={"q": "grokking", "family": "dynamics"})
    assert answer.headers["content-type"].startswith("application/atom+xml")
    root = ET.fromstring(answer.content)
    name = "{http://www.w3.org/2005/Atom}"
    assert root.tag == name + "feed"
    for tag in ("id", "title", "updated"):
        assert root.find(name + tag) is not None
    entries = root.findall(name + "entry")
    assert entries and all(e.find(name + "id").text.startswith("https://atlas.example/papers/") for e in entries)


# Forms -----------------------------------------------------------------------------------------------------


def test_a_vote_counts_once_and_makes_a_paper_trend(client, store):
    for _ in range(3):
        answer = client.post("/papers/grm/vote", data={"token": token(client)})
        assert answer.status_code == 200
    assert store.read("SELECT count(*) AS n FROM votes")[0]["n"] == 1
    assert shown.trending(store)["grm"] == pytest.approx(1, abs=0.01)
    later = shown.trending(store, now=time.time() + shown.VOTE_HALF_LIFE)
    assert later["grm"] == pytest.approx(0.5, abs=0.01)
    assert "198.51.100.7" not in json.dumps(store.read("SELECT * FROM votes") + store.read("SELECT * FROM limits"))


def test_forms_from_elsewhere_are_refused(client, site):
    good = token(client)
    other = TestClient(web.application(site), client=("203.0.113.9", 1))
    for who, data, headers in (
        (client, {}, {}),
        (client, {"token": good[:-3] + "abc"}, {}),
        (client, {"token": site.tokens.sign("form", site.tokens.blind("form", "198.51.100.7"), -1.0)}, {}),
        (client, {"token": good}, {"sec-fetch-site": "cross-site"}),
        (other, {"token": good}, {}),
    ):
        assert who.post("/papers/grm/vote", data=data, headers=headers).status_code == 403
        assert who.post("/follow", data={**data, "email": "a@b.org"}, headers=headers).status_code == 403
    assert client.get("/papers/grm/vote").status_code == 405
    assert client.post("/follow", content=b"x" * 100_000).status_code == 413


def test_following_takes_two_steps_and_tells_nobody_who_follows(client, store):
    def ask(address, q="grokking"):
        return client.post("/follow", data={"token": token(client), "email": address, "q": q, "every": "day"})

    first = ask("ann@example.org")
    assert store.read("SELECT count(*) AS n FROM subscribers")[0]["n"] == 0
    (mail,) = store.read("SELECT * FROM outbox")
    link = re.search(
        r"https://atlas\.example(/confirm/\S+)", mail["message"].replace("=\r\n", "").replace("=\n", "")
    ).group(1)
    assert client.get(link).status_code == 200  # a mail scanner that follows links confirms nothing
    assert store.read("SELECT count(*) AS n FROM subscribers")[0]["n"] == 0
    assert client.post(link).status_code == 200 and client.post(link).status_code == 200
    (row,) = store.read("SELECT s.email, f.query FROM subscribers s JOIN follows f ON f.subscriber = s.id")
    assert (row["email"], row["query"]) == ("ann@example.org", "grokking")
    again, unknown = ask("ann@example.org"), ask("bob@example.org")
    strip = lambda page: re.sub(r'value="[^"]*"', "", page.text)  # noqa: E731
    assert strip(first) == strip(again) == strip(unknown)
    goodbye = "/unsubscribe/" + follow.unsubscribe_token(web.Site(store).tokens, "ann@example.org")
    assert client.get(goodbye).status_code == 200
    assert client.post(goodbye, data={"List-Unsubscribe": "One-Click"}).status_code == 200
    assert not store.read("SELECT 1 AS x FROM subscribers") and not store.read("SELECT 1 AS x FROM follows")
    assert client.post(goodbye).status_code == 200


def test_requests_are_limited_by_reader_and_by_address(client, store):
    for i in range(follow.MOST_ASKED_BY_READER):
        assert (
            client.post("/follow", data={"token": token(client), "email": "a@example.org", "q": f"q{i}"}).status_code
            == 200
        )
    assert client.post("/follow", data={"token": token(client), "email": "b@example.org"}).status_code == 429
    assert store.read("SELECT count(*) AS n FROM outbox")[0]["n"] == follow.MOST_MAILS_TO


NO_ADDRESSES = (
    "a",
    "a@b",
    "a@b.org\nBcc: c@d.org",
    "a b@c.org",
    "a@b.org,c@d.org",
    "<a@b.org>",
    "a@-b.org",
    "é@b.org",
    "",
)


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_bad_addresses_are_refused(client, store, address):
    answer = client.post("/follow", data={"token": token(client), "email": address})
    assert answer.status_code == 400
    assert not store.read("SELECT 1 AS x FROM outbox")


# A real server ---------------------------------------------------------------------------------------------


@pytest.fixture
def served(site):
    uvicorn = pytest.importorskip("uvicorn")
    server = uvicorn.Server(uvicorn.Config(web.application(site), "127.0.0.1", 0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_what_no_client_would_send_is_answered_or_cut_off_and_the_server_goes_on(served):
    address = urllib.parse.urlsplit(served)
    for raw in (
        b"GET /search?q=" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"POST /follow HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + b"email=a" * 20_000,
        b"GET /search?q=\xff\x00\x1b HTTP/1.1\r\n\r\n",
        bytes(range(256)),
    ):
        talk = socket.create_connection((address.hostname, address.port), timeout=10)
        with talk, contextlib.suppress(ConnectionError):
            talk.sendall(raw)
            talk.shutdown(socket.SHUT_WR)
            answer = talk.recv(4096)
            assert not answer or answer.split()[1] in (b"200", b"400", b"413", b"414", b"431"), answer[:100]
    with urllib.request.urlopen(served + "/health") as answer:
        assert json.load(answer)["status"] == "ok"


def test_a_form_that_waits_for_a_writer_keeps_no_reader_waiting(served, site, monkeypatch):
    voted = threading.Event()
    monkeypatch.setattr(web, "_check_form", lambda *given: voted.set())
    asked = urllib.request.Request(served + "/papers/grm/vote", b"", method="POST")
    sender = threading.Thread(target=lambda: urllib.request.urlopen(asked).close())
    with site.store.write():
        sender.start()
        assert voted.wait(10)
        for _ in range(3):
            with urllib.request.urlopen(served + "/health", timeout=5) as answer:
                assert answer.status == 200
        assert sender.is_alive()
    sender.join(20)
    assert site.store.read("SELECT count(*) AS n FROM votes")[0]["n"] == 1


def test_the_interface_keeps_its_description(site):
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_asgi("/openapi.json", web.application(site))

    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def one(case):
            answer = case.call()
            assert answer.status_code < 500, case.as_curl_command()
            case.validate_response(answer)

        one()


CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")


@pytest.fixture(scope="module")
def browser():
    import os

    api = pytest.importorskip("playwright.sync_api")
    path = next((p for p in CHROMIUM if os.path.exists(p)), None)
    if path is None:
        pytest.skip("needs a Chromium (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_pages_in_a_browser_are_whole_and_accessible(browser, served, width, scheme):
    Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe
    context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme)
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request", lambda request: said.append(request.url) if not request.url.startswith((served, "data:")) else None
    )
    for path in PATHS:
        page.goto(served + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    assert said == [] and context.cookies() == []
    # axe itself is put into the page, which our policy forbids: it gets a context that ignores the policy.
    context.close()
    context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    for path in PATHS:
        page.goto(served + path)
        # In the dark, on a phone, contrast is what may differ.
        rules = {} if scheme == "light" else {"options": {"runOnly": {"type": "rule", "values": ["color-contrast"]}}}
        found = Axe().run(page, **rules).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
        assert not serious, (path, serious)
    context.close()


def test_searching_as_one_types_with_the_keyboard_alone(browser, served):
    page = browser.new_page()
    page.goto(served + "/verdicts")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.goto(served + "/search")
    page.keyboard.press("/")
    page.keyboard.type("grokk", delay=20)
    page.wait_for_selector("#results h2 a:has-text('Grokking')")
    page.wait_for_url("**q=grokk*")
    assert "typing" not in page.url
    assert page.locator("#results mark").count() > 0
    for _ in range(12):  # to the first result, past button and filters
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.hit') !== null"):
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/papers/**")
    page.locator("#vote button").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#vote button:disabled")
    assert "1 vote" in page.locator("#vote").inner_text()
    page.close()


def test_it_works_without_scripts(browser, served):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served)
    page.fill("input[type=search]", "grokking")
    page.press("input[type=search]", "Enter")
    page.click("text=Grokking: Generalization Beyond")
    page.click("#vote button")
    assert "1 vote" in page.inner_text("#vote")
    context.close()
