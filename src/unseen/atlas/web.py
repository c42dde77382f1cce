"""The atlas as web pages: `unseen serve`.

Every page is rendered on the server and is there as JSON, too, under the same address with `.json` or by `Accept`.
Readers get no cookies; scripts, styles and pictures come from this server alone, which a strict Content-Security-Policy
enforces; forms carry a signed, expiring token that is bound to the reader's network address.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import functools
import json
import logging
import os
import secrets
import urllib.parse
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape as escape_xml
from xml.sax.saxutils import quoteattr

import anyio.to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import unseen
from unseen.atlas import catalogue, follow, search, shown, text
from unseen.atlas.kept import Kept
from unseen.atlas.openapi import document
from unseen.atlas.store import Sqlite, Store, StoreError
from unseen.atlas.tokens import DAY, Tokens
from unseen.lab.claims import Verdict
from unseen.lab.errors import UserError
from unseen.lab.forest import forest, measured, thresholds
from unseen.lab.table import MARKS
from unseen.worlds import sentence_embedding as embedding

HERE = Path(__file__).parent
PAGE_SIZE = 20
LARGEST_FORM = 16_384  # bytes
LONGEST_KEPT = 1_000  # characters of an address whose answer is kept
FORM_FOR = 12 * 3600.0  # seconds for which a form may be sent
MOST_VOTES = 200  # a day, from one network address
FEED_SIZE = 50
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_LOG = logging.getLogger("unseen.atlas")


@dataclasses.dataclass(frozen=True)
class Page:
    """What a view gives: a template with what it shows, and the same as JSON."""

    template: str
    data: Mapping[str, Any]
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    status: int = 200


View = Callable[["Site", Request], Page]


@dataclasses.dataclass(frozen=True)
class Site:
    """One served atlas.

    Attributes:
        store: the database.
        base: its address as readers know it, for feeds and mails.
        docs: the address of the documentation, empty without one.
        trust_proxy: take a reader's network address from X-Forwarded-For.
        hosts: names under which it answers; others get a 400, so that a page elsewhere whose name is made to point here
            (DNS rebinding) reads nothing.
    """

    store: Store
    base: str = "http://127.0.0.1:8000"
    docs: str = ""
    trust_proxy: bool = False
    hosts: tuple[str, ...] = ("*",)

    @functools.cached_property
    def tokens(self) -> Tokens:
        """For forms."""
        return Tokens(self.store)

    @functools.cached_property
    def kept(self) -> Kept[Response]:
        """Answers, with `no_token` where a reader's own token comes."""
        return Kept()

    @functools.cached_property
    def no_token(self) -> str:
        """Stands for the token of a form; no text from elsewhere can hold it."""
        return secrets.token_hex(16)

    def reader(self, request: Request) -> str:
        """The reader's network address."""
        forwarded = request.headers.get("x-forwarded-for", "").split(",")[-1].strip() if self.trust_proxy else ""
        return forwarded or (request.client.host if request.client else "unknown")

    def form_token(self, request: Request) -> str:
        """What a form of this reader must carry."""
        return self.tokens.sign("form", self.tokens.blind("form", self.reader(request)), FORM_FOR)

    def may_send(self, request: Request, token: str) -> bool:
        """Whether a form comes from a page that we gave to this reader."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        return self.tokens.read("form", token) == self.tokens.blind("form", self.reader(request))


def application(site: Site) -> ASGIApp:
    """The ASGI application of an atlas."""
    routes = []
    for path, view in PAGES.items():
        routes.append(Route(path, _endpoint(site, view, "{token}" not in path), name=view.__name__))
        if path != "/" and "{" not in path:
            routes.append(Route(f"{path}.json", _endpoint(site, view)))
    routes += [
        Route("/index.json", _endpoint(site, _home)),
        Route("/search.atom", _in_thread(site, _feed)),
        Route("/openapi.json", _in_thread(site, lambda site, request: JSONResponse(document(site.base)))),
        Route("/health", _in_thread(site, _health, keeps=False)),
        Route("/papers/{key}/figure.png", _in_thread(site, _figure, keeps=False)),
        Route("/worlds/{key}/{name}.png", _in_thread(site, _sheet, keeps=False)),
        Route("/papers/{key}/vote", _form(site, _vote), methods=["POST"]),
        Route("/follow", _form(site, _follow), methods=["POST"]),
        Route("/confirm/{token}", _form(site, _confirmed), methods=["POST"]),
        Route("/unsubscribe/{token}", _form(site, _unsubscribed), methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    # Longer paths first, so that /papers/{key} does not take what follows it.
    routes.sort(key=lambda route: -len(route.path.split("/")))
    handlers: dict[Any, Any] = {
        HTTPException: functools.partial(_failed, site),
        UserError: functools.partial(_failed, site),
        Exception: functools.partial(_failed, site),
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lambda app: _reading_threads(site, app))
    return _Headers(TrustedHostMiddleware(app, list(site.hosts), www_redirect=False))


@contextlib.asynccontextmanager
async def _reading_threads(site: Site, app: Starlette) -> AsyncIterator[None]:
    """How many threads read: with SQLite one, since reads there compute and never wait, and two only take the
    interpreter from each other (at 200 reads a second half a second each instead of ten milliseconds)."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 1 if isinstance(site.store.dialect, Sqlite) else 8
    app.state.embedding = anyio.CapacityLimiter(1)
    yield


async def _embedded(request: Request) -> None:
    """Have the embedding of a question computed beside the thread that reads: it leaves the interpreter free."""
    asked = request.query_params.get("q", "")
    if asked and request.url.path.startswith("/search"):
        limiter = getattr(request.app.state, "embedding", None)
        await anyio.to_thread.run_sync(search.prepare, asked, limiter=limiter)


def serve(site: Site, host: str, port: int) -> None:
    """Serve until stopped.

    Raises:
        UserError: if the port is taken or the host is none of this machine's.
    """
    import socket

    import uvicorn

    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port} cannot be listened on ({error}).") from None
    config = uvicorn.Config(
        application(site), host, port, log_level="warning", proxy_headers=False, server_header=False, access_log=False,
        timeout_keep_alive=75,  # seconds; after uvicorn's 5 a reader's next request often meets a closed connection
    )  # fmt: skip
    uvicorn.Server(config).run()


# How an answer is made -------------------------------------------------------------------------------------


def _endpoint(site: Site, view: View, keeps: bool = True) -> Callable[[Request], Any]:
    def make(site: Site, request: Request) -> Response:
        return _answer(site, request, view(site, request), lambda: site.no_token)

    return _in_thread(site, make, keeps)


def _in_thread(site: Site, make: Callable[[Site, Request], Response], keeps: bool = True) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        asked = (request.url.path, request.url.query, wants_json(request))
        is_kept = keeps and len(asked[0]) + len(asked[1]) <= LONGEST_KEPT
        if not is_kept or asked not in site.kept:
            await _embedded(request)
        made = await run_in_threadpool(_kept_or_made, site, request, make, asked if is_kept else None)
        return _with_token(site, request, made)

    return answer


def _kept_or_made(
    site: Site, request: Request, make: Callable[[Site, Request], Response], asked: Hashable | None
) -> Response:
    """The answer of an earlier time if the database is what it was then."""
    if asked is None:
        return make(site, request)
    state = site.store.state()
    found = site.kept.get(asked, state)
    if found is None:
        found = make(site, request)
        site.kept.put(asked, state, found, len(found.body))
    return found


def _with_token(site: Site, request: Request, made: Response) -> Response:
    """The answer with this reader's token in its forms."""
    empty = site.no_token.encode()
    if isinstance(made, FileResponse) or empty not in made.body:
        return made
    body = bytes(made.body).replace(empty, site.form_token(request).encode())
    return HTMLResponse(body, made.status_code)


def _form(site: Site, view: Callable[[Site, Request, Mapping[str, str]], Page]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_FORM:
                raise HTTPException(413, "The form is too large.")
        fields = dict(
            urllib.parse.parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=50)
        )
        # Among other threads than those that read: what writes may wait for another process that does.
        return await asyncio.to_thread(
            lambda: _answer(site, request, view(site, request, fields), lambda: site.form_token(request))
        )

    return answer


def _answer(site: Site, request: Request, page: Page, token: Callable[[], str]) -> Response:
    if wants_json(request):
        return Response(_json(page.data), page.status, media_type="application/json")
    return HTMLResponse(_render(site, request, page, token), page.status)


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")


def wants_json(request: Request) -> bool:
    """By the end of the address, or because JSON is asked for and HTML is not."""
    accept = request.headers.get("accept", "")
    return request.url.path.endswith(".json") or ("application/json" in accept and "text/html" not in accept)


def _render(site: Site, request: Request, page: Page, token: Callable[[], str]) -> str:
    filters = {name: request.query_params.get(name, "") for name in search.FILTERS}
    return (
        _templates()
        .get_template(page.template)
        .render(
            **{**page.data, **page.extra},
            site=site,
            path=request.url.path,
            asked=text.clean(request.query_params.get("q", ""), text.LONGEST_QUERY),
            asked_filters={name: text.clean(value, 200) for name, value in filters.items()},
            form_token=token,
            version=unseen.__version__,
        )
    )


@functools.lru_cache(maxsize=1)
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.globals.update(MARKS={name: mark for name, (mark, _) in MARKS.items()}, forest_of=forest_of, url=url)
    made.globals.update(known_families=list(catalogue.families()), marked=_marked)
    made.globals.update(kinds=sorted({entry.kind for entry in catalogue.papers().values()}))
    made.globals.update(known_worlds=sorted({entry.world for entry in catalogue.papers().values()}))
    made.globals.update(has_meaning=embedding.folder() is not None, WITHOUT_MEANING=search.WITHOUT_MEANING)
    made.filters.update(measured=measured_text, code=_code)
    return made


def url(path: str, **query: Any) -> str:
    """An address with what is to be asked of it; what is empty is left out."""
    said = urllib.parse.urlencode({name: value for name, value in query.items() if value not in ("", None)})
    return f"{path}?{said}" if said else path


def _marked(pieces: search.Marked) -> Markup:
    return Markup("".join(f"<mark>{escape(p)}</mark>" if matched else escape(p) for p, matched in pieces))


def _code(said: str) -> Markup:
    """Text of a docstring: what stands between backticks becomes code."""
    pieces = said.split("`")
    if len(pieces) % 2 == 0:  # a backtick without its partner
        return escape(said)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(pieces))


def _verdict(claim: Mapping[str, Any]) -> Verdict:
    v = claim["verdict"]
    numbers = {name: float("nan") if v[name] is None else float(v[name]) for name in ("effect", "low", "high")}
    return Verdict.from_json({**v, **numbers, "claim": claim["id"], "rule": ""}, claim["says"])


def forest_of(claim: Mapping[str, Any]) -> Markup:
    """The effect of a judged claim with its interval and the rule's thresholds, as a small picture."""
    bounds = thresholds(claim["supported_if"])
    return forest(_verdict(claim), bounds, thresholds(claim["refuted_if"]) if bounds else (), beside=(0.0,))


def measured_text(claim: Mapping[str, Any]) -> str:
    """The effect of a judged claim with its interval."""
    return measured(_verdict(claim))


def _failed(site: Site, request: Request, error: Exception) -> Response:
    status, said = 500, "Something went wrong here; the server's log says what."
    headers: Mapping[str, str] = {}
    if isinstance(error, HTTPException):
        status, said = error.status_code, str(error.detail)
        headers = error.headers or {}
        if status == 404:
            said = "There is no such page."
    elif isinstance(error, StoreError):
        status, said = 503, "The database is busy or cannot be reached; try again in a moment."
        _LOG.error("%s", error)
    elif isinstance(error, follow.TooOften):
        status, said = 429, str(error)
    elif isinstance(error, UserError):
        status, said = 400, str(error)
    else:
        _LOG.error("%s %s", request.method, request.url.path, exc_info=error)
    if wants_json(request):
        return JSONResponse({"error": said}, status, headers)
    page = Page("message.html.jinja", {"title": str(status), "said": said}, status=status)
    return HTMLResponse(_render(site, request, page, lambda: site.form_token(request)), status, headers)


class _Headers:
    """Sets what browsers must know on every answer."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self._set = [
            (b"content-security-policy", POLICY.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                if not any(name == b"cache-control" for name, _ in headers):
                    is_fixed = scope["path"].startswith("/static/")
                    headers.append((b"cache-control", b"max-age=3600" if is_fixed else b"no-cache"))
                headers.append((b"vary", b"Accept"))
                message = {**message, "headers": headers + self._set}
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


# Pages -----------------------------------------------------------------------------------------------------


def _home(site: Site, request: Request) -> Page:
    return Page("home.html.jinja", shown.home(site.store), {"title": "unseen: the atlas"})


def _asked(request: Request) -> tuple[str, dict[str, str], int, bool]:
    """Query, filters, page and whether it is being typed, of an address.

    Raises:
        UserError: if the page is no number from 1 to 50, or a filter takes no such value.
    """
    given = request.query_params
    filters = search.checked_filters({name: given[name] for name in search.FILTERS if name in given})
    number = given.get("page", "1") or "1"
    if not (number.isascii() and number.isdigit() and 1 <= int(number[:6]) <= 50 and len(number) <= 6):
        raise UserError("page takes a whole number from 1 to 50.")
    return given.get("q", ""), filters, int(number), given.get("typing") == "1"


def _search(site: Site, request: Request) -> Page:
    query, filters, number, typing = _asked(request)
    results = search.search(site.store, query, filters, limit=PAGE_SIZE, offset=PAGE_SIZE * (number - 1), typing=typing)
    data = {**results.to_json(), "filters": filters, "page": number, "pages": -(-results.total // PAGE_SIZE)}
    title = f"{results.query or 'All papers'} · unseen"
    return Page("search.html.jinja", data, {"title": title, "hits": results.hits})


def _key(request: Request) -> str:
    return str(request.path_params["key"]).removesuffix(".json")


def _found(data: dict[str, Any] | None) -> dict[str, Any]:
    if data is None:
        raise HTTPException(404)
    return data


def _paper(site: Site, request: Request) -> Page:
    found = _found(shown.paper(site.store, _key(request)))
    return Page("paper.html.jinja", found, {"title": f"{found['title']} · unseen", "link": found["url"]})


def _families(site: Site, request: Request) -> Page:
    return Page("families.html.jinja", {"families": shown.families(site.store)}, {"title": "Families · unseen"})


def _family(site: Site, request: Request) -> Page:
    found = _found(shown.family(site.store, _key(request)))
    return Page("family.html.jinja", found, {"title": f"{_key(request)} · unseen"})


def _worlds(site: Site, request: Request) -> Page:
    return Page("worlds.html.jinja", {"worlds": shown.world_packages(site.store)}, {"title": "Worlds · unseen"})


def _world(site: Site, request: Request) -> Page:
    found = _found(shown.world(site.store, _key(request)))
    return Page("world.html.jinja", found, {"title": f"{_key(request)} worlds · unseen"})


def _reference(site: Site, request: Request) -> Page:
    found = _found(shown.reference(site.store, _key(request)))
    return Page("reference.html.jinja", found, {"title": f"{_key(request)} · unseen"})


def _verdicts(site: Site, request: Request) -> Page:
    return Page("verdicts.html.jinja", shown.verdicts(site.store), {"title": "Verdicts · unseen"})


def _map(site: Site, request: Request) -> Page:
    return Page("map.html.jinja", shown.field_map(site.store), {"title": "Map · unseen"})


def _api(site: Site, request: Request) -> Page:
    described = document(site.base)
    return Page("api.html.jinja", described, {"title": "API · unseen", "described": described})


def _confirm(site: Site, request: Request) -> Page:
    wish = follow.wish_of(site.store, request.path_params["token"])
    if wish is None:
        raise UserError("This link has expired or is not complete: follow again to get a new one.")
    action = {"label": "Confirm", "says": f"Write to me once a {wish.every} about new papers for {wish.name}."}
    return Page("message.html.jinja", {"title": "Confirm", "said": ""}, {"action": action})


def _unsubscribe(site: Site, request: Request) -> Page:
    if site.tokens.read("unsubscribe", request.path_params["token"]) is None:
        raise UserError("This link is not complete.")
    action = {"label": "Unsubscribe", "says": "End all mails from this atlas and forget the address."}
    return Page("message.html.jinja", {"title": "Unsubscribe", "said": ""}, {"action": action})


PAGES: Mapping[str, View] = {
    "/": _home,
    "/search": _search,
    "/papers/{key}": _paper,
    "/families": _families,
    "/families/{key}": _family,
    "/worlds": _worlds,
    "/worlds/{key}": _world,
    "/reference/{key}": _reference,
    "/verdicts": _verdicts,
    "/map": _map,
    "/api": _api,
    "/confirm/{token}": _confirm,
    "/unsubscribe/{token}": _unsubscribe,
}


# Other answers ---------------------------------------------------------------------------------------------


def _health(site: Site, request: Request) -> Response:
    papers = site.store.read("SELECT count(*) AS n FROM documents")[0]["n"]
    return JSONResponse({"status": "ok", "documents": papers, "version": unseen.__version__})


def _picture(file: Path | None) -> Response:
    if file is None:
        raise HTTPException(404)
    return FileResponse(file, media_type="image/png", headers={"cache-control": "max-age=600"})


def _figure(site: Site, request: Request) -> Response:
    return _picture(shown.figure_file(_key(request)))


def _sheet(site: Site, request: Request) -> Response:
    return _picture(shown.sheet_file(_key(request), str(request.path_params["name"])))


def _feed(site: Site, request: Request) -> Response:
    """An Atom feed (RFC 4287) of a search, newest first."""
    query, filters, _, _ = _asked(request)
    results = search.search(site.store, query, filters, limit=FEED_SIZE)
    hits = sorted(results.hits, key=lambda hit: (hit.fields["added"], hit.fields["year"]), reverse=True)
    own = site.base + url("/search.atom", q=results.query, **filters)
    updated = max((hit.fields["added"] for hit in hits), default="1970-01-01T00:00:00Z")
    entries = "".join(
        f"<entry><id>{escape_xml(site.base)}/papers/{escape_xml(hit.key)}</id><title>{escape_xml(search.plain(hit.title))}</title>"
        f"<link href={quoteattr(site.base + '/papers/' + hit.key)}/><updated>{hit.fields['added']}</updated>"
        f"<author><name>{escape_xml(hit.fields['authors'] or 'unknown')}</name></author>"
        f"<summary>{escape_xml(search.plain(hit.snippet))}</summary></entry>"
        for hit in hits
    )
    body = (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        f"<title>{escape_xml('unseen: ' + (results.query or 'all papers'))}</title><id>{escape_xml(own)}</id>"
        f'<link rel="self" href={quoteattr(own)}/><updated>{updated}</updated>{entries}</feed>'
    )
    return Response(body, media_type="application/atom+xml")


def _vote(site: Site, request: Request, fields: Mapping[str, str]) -> Page:
    _check_form(site, request, fields)
    key, reader = _key(request), site.reader(request)
    if site.store.too_often("vote", site.tokens.blind("reader", reader), MOST_VOTES, DAY):
        raise follow.TooOften("Too many votes from your network address today.")
    if not site.store.read("SELECT 1 AS there FROM documents WHERE key = ?", key):
        raise HTTPException(404)
    votes = shown.vote(site.store, key, site.tokens.blind("voter", reader, key))
    return Page("vote.html.jinja", {"key": key, "votes": votes}, {"title": "Vote", "voted": True})


def _follow(site: Site, request: Request, fields: Mapping[str, str]) -> Page:
    _check_form(site, request, fields)
    filters = {name: fields[name] for name in search.FILTERS if fields.get(name)}
    wish = follow.checked_wish(fields.get("email", ""), fields.get("q", ""), filters, fields.get("every", "day"))
    follow.ask(site.store, wish, site.reader(request), site.base)
    said = "If that address can get mail, a message with a link is on its way. Open the link to begin."
    return Page("message.html.jinja", {"title": "Nearly done", "said": said})


def _check_form(site: Site, request: Request, fields: Mapping[str, str]) -> None:
    if not site.may_send(request, fields.get("token", "")):
        raise HTTPException(403, "This form has expired or comes from elsewhere: load the page again and repeat.")


def _confirmed(site: Site, request: Request, fields: Mapping[str, str]) -> Page:
    wish = follow.confirm(site.store, request.path_params["token"])
    if wish is None:
        raise UserError("This link has expired or is not complete: follow again to get a new one.")
    said = f"You follow {wish.name}; a mail comes once a {wish.every} when there is something new."
    return Page("message.html.jinja", {"title": "Confirmed", "said": said})


def _unsubscribed(site: Site, request: Request, fields: Mapping[str, str]) -> Page:
    if not follow.unsubscribe(site.store, request.path_params["token"]):
        raise UserError("This link is not complete.")
    return Page("message.html.jinja", {"title": "Unsubscribed", "said": "No further mail will come."})


def names(host: str) -> tuple[str, ...]:
    """Under which names an atlas answers that listens on a host: any, unless only this machine reaches it."""
    if host not in ("localhost", "::1") and not host.startswith("127."):
        return ("*",)
    named = urllib.parse.urlsplit(os.environ.get("UNSEEN_URL", "")).hostname
    return ("localhost", "127.0.0.1", "[::1]", host, *([named] if named else []))


def base_url(host: str, port: int) -> str:
    """The address of this atlas for links: `UNSEEN_URL`, or where it listens."""
    named = os.environ.get("UNSEEN_URL", "").rstrip("/")
    return named or f"http://{f'[{host}]' if ':' in host else host}:{port}"


def today() -> str:
    """The day in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
