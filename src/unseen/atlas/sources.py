"""Where papers come from: a saved listing page, BibTeX, the arXiv API, Hugging Face's daily papers.

Each source is read record by record and says where it stands, so that an import that was stopped goes on from there.
What cannot be read as a paper is refused by name, and the rest is read on.
"""

from __future__ import annotations

import dataclasses
import datetime
import html.parser
import random
import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from unseen.atlas import text
from unseen.lab.errors import UserError

LARGEST_FILE = 64 * 2**20  # bytes
EXTRA = "pip install 'unseen[atlas]'"
TRIES = 5  # of one request
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Record:
    """A paper as a source states it; cleaned by the importer."""

    title: str
    abstract: str = ""
    authors: str = ""
    year: int = 0
    arxiv: str = ""
    url: str = ""


@dataclasses.dataclass(frozen=True)
class Refused:
    """Something in a source that is no paper."""

    where: str
    why: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A source: its name, how to read it from a position on, and whether positions last between runs.

    `read(position)` gives (position after it, record) pairs; the first position is the empty text.
    """

    name: str
    read: Callable[[str], Iterator[tuple[str, Record | Refused]]]
    is_resumable: bool = False


def source(name: str) -> Source:
    """The source of a name: a file, `arxiv:QUERY`, `hf`, `hf:DAY` or `hf:DAY..DAY`.

    Raises:
        UserError: if there is none of that name, or what it needs is not installed.
    """
    kind, colon, rest = name.partition(":")
    if kind == "arxiv" and colon:
        query = text.clean(rest, 500)
        if not query:
            raise UserError("arxiv: takes a query or ids with commas between them, as in arxiv:grokking, got none.")
        return Source(f"arxiv:{query}", lambda position: _arxiv(query, position), is_resumable=True)
    if kind == "hf" and (colon or not Path(name).exists()):
        days = _days(rest)
        return Source(f"hf:{days[0]}..{days[-1]}", lambda position: _daily(days, position), is_resumable=True)
    file = Path(name).expanduser()
    if not file.is_file():
        raise UserError(f"import takes a file, arxiv:QUERY or hf[:DAY[..DAY]], got {name!r}, which is none of them.")
    if file.stat().st_size > LARGEST_FILE:
        raise UserError(f"{file} is larger than {LARGEST_FILE // 2**20} MiB; import takes listings and BibTeX.")
    try:
        said = file.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from None
    is_bibtex = file.suffix.lower() in (".bib", ".bibtex") or re.match(r"\s*@\w+\s*[{(]", said) is not None
    read = bibtex if is_bibtex else listing
    return Source(str(file), lambda position: ((str(i), found) for i, found in enumerate(read(said), 1)))


# A saved listing page --------------------------------------------------------------------------------------

_BOILERPLATE = re.compile(
    r"get trending papers in your email inbox.*|subscribe|new|trending|daily papers", re.IGNORECASE
)
_LONGEST_TITLE = 280  # of a line that may be a title


def listing(said: str) -> Iterator[Record | Refused]:
    """Titles each with its abstract on the next line, as text or as HTML; the last one may be cut short."""
    if re.search(r"<(!doctype|html|body|article|h[1-4])\b", said[:20_000], re.IGNORECASE):
        said = _lines_of_html(said)
    title, abstract = "", ""
    for number, raw in enumerate(said.splitlines(), 1):
        line = text.clean(raw)
        if not line or _BOILERPLATE.fullmatch(line):
            continue
        line = re.sub(r"^Subscribe(?=[A-Z0-9\"“'(\[])", "", line)  # the button's label runs into the first title
        if _is_title(line, bool(title), bool(abstract)):
            if title:
                yield Record(title, abstract)
            title, abstract = line, ""
        elif title:
            abstract = f"{abstract} {line}".strip()
        else:
            yield Refused(f"line {number}", f"an abstract without a title ({line[:40]}...)")
    if title:
        yield Record(title, abstract)


def _is_title(line: str, has_title: bool, has_abstract: bool) -> bool:
    """A short line where a title may stand: at the start, after an abstract, or after a title without one."""
    if len(line) > _LONGEST_TITLE:
        return False
    is_sentence = line.endswith(".") and len(line.split()) > 12
    return not is_sentence and (not has_title or has_abstract or len(line) < 200)


_BLOCKS = frozenset(
    (
        "address",
        "article",
        "br",
        "div",
        "footer",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "li",
        "main",
        "nav",
        "p",
        "section",
        "td",
        "tr",
        "ul",
    )
)
_HIDDEN = frozenset(
    (
        "script",
        "style",
        "template",
        "noscript",
        "head",
        "svg",
    )
)


class _Lines(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(" ".join(data.split("\n")))


def _lines_of_html(said: str) -> str:
    parser = _Lines()
    parser.feed(said)
    parser.close()
    return "".join(parser.parts)


# BibTeX ----------------------------------------------------------------------------------------------------

_ENTRY = re.compile(r"@\s*(\w+)\s*[{(]")
_FIELD = re.compile(r"[\s,]*([A-Za-z][\w:-]*)\s*=\s*")
_ACCENTS = {"`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", "=": "\u0304", "u": "\u0306", ".": "\u0307",
            '"': "\u0308", "r": "\u030a", "H": "\u030b", "v": "\u030c", "c": "\u0327", "k": "\u0328"}  # fmt: skip
_LETTERS = {"ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "o": "ø", "O": "Ø", "aa": "å", "AA": "Å",
            "l": "ł", "L": "Ł", "i": "i", "j": "j"}  # fmt: skip


def bibtex(said: str) -> Iterator[Record | Refused]:
    """Entries of a BibTeX file; comments, strings and preambles are read over."""
    macros: dict[str, str] = {}
    line, counted = 1, 0
    for found in _ENTRY.finditer(said):
        kind = found.group(1).lower()
        line, counted = line + said.count("\n", counted, found.start()), found.start()
        if kind in ("comment", "preamble"):
            continue
        body = said[found.end() : found.end() + 200_000]
        if kind == "string":
            macros |= _fields(body, macros)
            continue
        key, _, rest = body.partition(",")
        fields = _fields(rest, macros)
        title = latex(fields.get("title", ""))
        if not title:
            yield Refused(f"line {line}", f"the entry {key.strip()[:40]!r} has no title")
            continue
        year = re.search(r"\b(1[89]|2[01])\d\d\b", fields.get("year", "") or fields.get("date", ""))
        names = [latex(name) for name in re.split(r"\s+and\s+", fields.get("author", "")) if name.strip()]
        yield Record(
            title=title,
            abstract=latex(fields.get("abstract", "")),
            authors=", ".join(" ".join(reversed(name.split(", ", 1))) for name in names),
            year=int(year.group()) if year else 0,
            arxiv=_arxiv_id(f"{fields.get('eprint', '')} {fields.get('url', '')} {fields.get('journal', '')}"),
            url=fields.get("url", ""),
        )


def _fields(body: str, macros: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while (field := _FIELD.match(body, at)) is not None:
        parts = []
        at = field.end()
        while True:
            value, at = _value(body, at, macros)
            parts.append(value)
            joined = re.compile(r"\s*#\s*").match(body, at)
            if joined is None:
                break
            at = joined.end()
        found[field.group(1).lower()] = "".join(parts)
        if re.compile(r"\s*,").match(body, at) is None:
            break
    return found


def _value(body: str, at: int, macros: dict[str, str]) -> tuple[str, int]:
    opened = body[at : at + 1]
    if opened not in ("{", '"'):
        word = re.compile(r"[\w:.+-]*").match(body, at)
        assert word is not None
        return macros.get(word.group().lower(), word.group()), word.end()
    depth, i = 0, at
    while i < len(body):
        c = body[i]
        if c == "\\":
            i += 1
        elif c == "{":
            depth += 1
        elif c == "}":
            depth -= 1
        if (opened == "{" and depth == 0) or (opened == '"' and depth == 0 and c == '"' and i > at):
            return body[at + 1 : i], i + 1
        i += 1
    return body[at + 1 :], len(body)


def latex(said: str) -> str:
    """Plain text of LaTeX: accents put on their letters, braces and commands taken off."""

    def accent(found: re.Match[str]) -> str:
        letter = found.group(2) or found.group(3)
        return unicodedata.normalize("NFC", letter + _ACCENTS[found.group(1)])

    said = re.sub(r"\\([`'^~=.\"])\s*(?:\{\\?(\w)\}|\\?(\w))", accent, said)
    said = re.sub(r"\\([uvHckr])(?:\s*\{(\w)\}|\s+(\w))", accent, said)
    said = re.sub(r"\\(ss|ae|AE|oe|OE|aa|AA|[oOlLij])(?![a-zA-Z])\s?", lambda m: _LETTERS[m.group(1)], said)
    said = re.sub(r"\\([&%$#_{}])", r"\1", said)
    said = re.sub(r"\\[a-zA-Z]+\*?\s*", "", said)
    said = said.replace("---", "—").replace("--", "–").replace("~", " ").replace("\\\\", " ")
    return text.clean(re.sub(r"[{}]", "", said))


def _arxiv_id(said: str) -> str:
    found = re.search(r"(?<!\d)(\d{4}\.\d{4,5})(?!\d)|\b([a-z-]+(?:\.[A-Z]{2})?/\d{7})\b", said)
    return (found.group(1) or found.group(2)) if found else ""


# Over the network ------------------------------------------------------------------------------------------


def patiently(what: str, call: Callable[[], T], wait: float = 1.0, tries: int = TRIES) -> T:
    """Call, and again after a failure that may pass: after 1, 2, 4 ... seconds, or as long as the server asks.

    Raises:
        UserError: after the last try, or at once if the server says that the request is wrong.
    """
    for attempt in range(1, tries + 1):
        try:
            return call()
        except UserError:
            raise
        except Exception as error:
            response = getattr(error, "response", None)
            status = getattr(response, "status_code", None) or getattr(error, "status", None)
            said = " ".join(str(error).split())[:200]
            if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
                raise UserError(f"{what} refused the request ({status}): {said}") from error
            if not _may_pass(error, status):
                raise
            if attempt == tries:
                raise UserError(
                    f"{what} did not answer after {tries} tries ({said}); the same command goes on from here."
                ) from error
            asked = getattr(response, "headers", {}).get("Retry-After", "")
            pause = float(asked) if str(asked).isdigit() else wait * 2 ** (attempt - 1)
            time.sleep(min(pause, 120) * random.uniform(1.0, 1.2))
    raise AssertionError


def _may_pass(error: Exception, status: Any) -> bool:
    of_network = ("requests", "httpx", "urllib3", "huggingface_hub", "arxiv")
    return isinstance(status, int) or isinstance(error, OSError) or type(error).__module__.split(".")[0] in of_network


ARXIV_PAGE = 100
ARXIV_PAUSE = 3.0  # seconds between requests, as arXiv asks
MOST_ARXIV = 2_000  # of one query


def _arxiv(query: str, position: str) -> Iterator[tuple[str, Record | Refused]]:
    try:
        import arxiv
    except ModuleNotFoundError:
        raise UserError(f"Importing from arXiv needs the package arxiv: {EXTRA}") from None
    ids = [part.strip() for part in query.split(",")]
    is_ids = all(_arxiv_id(part) for part in ids)
    wanted = arxiv.Search(id_list=ids) if is_ids else arxiv.Search(query, max_results=MOST_ARXIV)
    client = arxiv.Client(page_size=ARXIV_PAGE, delay_seconds=ARXIV_PAUSE, num_retries=0)
    reader = _ArxivReader(client, wanted, int(position or 0))
    while (found := patiently("arXiv", reader.following, wait=ARXIV_PAUSE)) is not None:
        yield (
            str(reader.offset),
            Record(
                title=found.title,
                abstract=found.summary,
                authors=", ".join(author.name for author in found.authors),
                year=found.published.year,
                arxiv=_arxiv_id(found.get_short_id()),
                url=found.entry_id,
            ),
        )


class _ArxivReader:
    """Results one by one; a failed request can be made again, from where it stood."""

    def __init__(self, client: Any, wanted: Any, offset: int):
        self.offset = offset
        self._client, self._wanted = client, wanted
        self._results: Iterator[Any] | None = None

    def following(self) -> Any:
        """The next result, None at the end."""
        results = self._results
        if results is None:
            results = self._results = iter(self._client.results(self._wanted, offset=self.offset))
        try:
            found = next(results, None)
        except Exception:
            self._results = None  # a generator that failed is spent
            raise
        self.offset += found is not None
        return found


DAILY_PAUSE = 0.5  # seconds between requests


def _days(said: str) -> list[str]:
    first, dots, last = said.partition("..")
    today = datetime.datetime.now(datetime.UTC).date()
    try:
        start = datetime.date.fromisoformat(first) if first else today
        end = (datetime.date.fromisoformat(last) if last else today) if dots else start
    except ValueError:
        raise UserError(f"hf takes a day or two as in hf:2026-11-01..2026-11-20, got {said!r}.") from None
    if not 0 <= (end - start).days < 370:
        raise UserError(f"hf takes at most a year of days, the earlier one first, got {said!r}.")
    return [(start + datetime.timedelta(days=i)).isoformat() for i in range((end - start).days + 1)]


def _daily(days: list[str], position: str) -> Iterator[tuple[str, Record | Refused]]:
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError:
        raise UserError(f"Importing daily papers needs the package huggingface_hub: {EXTRA}") from None
    api = HfApi()
    for day in days:
        if day <= position:
            continue
        asked: Callable[[], list[Any]] = lambda day=day: list(  # noqa: E731
            api.list_daily_papers(date=day, limit=100, token=False)
        )
        papers = patiently("Hugging Face", asked)
        for i, paper in enumerate(papers):
            done = day if i == len(papers) - 1 else ""  # a day counts when all its papers are in
            if not paper.title:
                yield done, Refused(f"{day}, {paper.id}", "it has no title")
                continue
            yield (
                done,
                Record(
                    title=paper.title,
                    abstract=paper.summary or "",
                    authors=", ".join(author.name for author in paper.authors or () if author.name),
                    year=paper.published_at.year if paper.published_at else int(day[:4]),
                    arxiv=_arxiv_id(paper.id or ""),
                    url=f"https://huggingface.co/papers/{paper.id}",
                ),
            )
        time.sleep(DAILY_PAUSE)
