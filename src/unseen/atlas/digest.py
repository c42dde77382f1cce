"""Digests: what is new or trending for each subscriber, composed once a day and sent exactly once.

One process at a time sends (a lock that the system takes back from a killed one). A mail is handed over up to the line
that ends it; then `sending` is committed to the table `deliveries`; then that line goes out, and after the server's
answer `sent` is committed. Before `sending` the server has no whole mail and drops it, so that the next run sends it.
From `sending` on nobody sends it again. What remains are a server that vanishes without an answer to the last line,
and a process that dies in the microseconds between the commit and the next instruction: to keep them few the commit of
`sending` does not wait for the disk, so that a power cut may undo it. Such a mail is counted as unsure and not sent
again, and what it told is told again in the subscriber's next one.
"""

from __future__ import annotations

import dataclasses
import datetime
import email
import email.message
import email.policy
import email.utils
import json
import os
import re
import select
import smtplib
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from email import quoprimime
from html import escape
from pathlib import Path
from typing import Any

from unseen.atlas import search, shown
from unseen.atlas.follow import POLICY as _POLICY
from unseen.atlas.follow import Wish, check_header, unsubscribe_token
from unseen.atlas.store import Store
from unseen.atlas.tokens import Tokens
from unseen.lab.errors import UserError
from unseen.lab.store import home

MOST_PAPERS = 10  # of one digest
MOST_TRIES = 5  # of one mail, over several runs
SEARCH_DEPTH = 50
NEW_FOR = 30  # days for which a paper or a verdict is news to those who have not had it
WEEK = 7  # days between two digests of those who want one a week
_ATTEMPTS = 3  # connections in one run
_PAUSE = 1.0  # seconds before the second one; doubles


@dataclasses.dataclass(frozen=True)
class Smtp:
    """Where mail is handed in: from the environment (`UNSEEN_SMTP_HOST` ...), or `UNSEEN_HOME/smtp.json`.

    Attributes:
        host, port: of the server.
        sender: the From address.
        user, password: if the server wants them.
        starttls: encrypt, and refuse to go on if the server cannot.
        timeout: seconds to wait for each answer.
        ca: a file of certificates to trust, by default those of the system.
    """

    host: str
    port: int = 587
    sender: str = "atlas@localhost"
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    starttls: bool = True
    timeout: float = 30.0
    ca: str = ""

    @classmethod
    def read(cls) -> Smtp:
        """The settings.

        Raises:
            UserError: if there are none, or one is not what it must be.
        """
        found: dict[str, Any] = {}
        file = home() / "smtp.json"
        if file.is_file():
            try:
                found = dict(json.loads(file.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(f"{file} is no JSON object ({error}).") from None
        names = {field.name: field for field in dataclasses.fields(cls)}
        if set(found) - set(names):
            raise UserError(f"{file} has no setting {min(set(found) - set(names))!r}; it has {', '.join(names)}.")
        found |= {n: os.environ[f"UNSEEN_SMTP_{n.upper()}"] for n in names if f"UNSEEN_SMTP_{n.upper()}" in os.environ}
        if not found.get("host"):
            raise UserError(f"digest --send needs a mail server: set UNSEEN_SMTP_HOST, or host in {file}.")
        try:
            found["port"] = int(found.get("port", 587))
            found["timeout"] = float(found.get("timeout", 30.0))
        except ValueError:
            raise UserError("The mail server's port and timeout must be numbers.") from None
        found["starttls"] = str(found.get("starttls", "true")).lower() in ("1", "true", "yes")
        return cls(**found)


@dataclasses.dataclass(frozen=True)
class Digest:
    """One subscriber's mail of one day, as it goes to the server."""

    subscriber: int
    email: str
    day: str
    papers: tuple[str, ...]
    mail: bytes


@dataclasses.dataclass
class Sent:
    """What sending did."""

    sent: int = 0
    nothing_new: int = 0
    already: int = 0
    unsure: int = 0
    failed: list[str] = dataclasses.field(default_factory=list)

    def line(self) -> str:
        """As the command ends."""
        parts = [f"{self.sent} sent", f"{self.nothing_new} with nothing new", f"{self.already} had theirs"]
        if self.unsure:
            parts.append(f"{self.unsure} unsure (interrupted while the server decided; not sent again)")
        if self.failed:
            parts.append(f"{len(self.failed)} failed and kept for another run")
        return ", ".join(parts)


# Composing -------------------------------------------------------------------------------------------------


Parts = list[tuple[str, list[dict[str, Any]]]]  # what is followed, with its news


class Composer:
    """Writes digests of one day; what several subscribers share is looked up and written once.

    Two subscribers with the same news get mails that differ in address, message id and the link to unsubscribe only. So
    a mail is kept in pieces around that link, ready in quoted-printable; a soft line break (RFC 2045, 6.7) on each side
    of it lets any link be put in.
    """

    def __init__(self, store: Store, base: str, sender: str, day: str):
        self._store, self._base, self._day = store, base, day
        self._tokens = Tokens(store)
        self._found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._trending = shown.trending(store)
        self._news = self._news_since(datetime.date.fromisoformat(day) - datetime.timedelta(days=NEW_FOR))
        self._written: dict[Any, list[bytes]] = {}
        self._head = _header({"From": sender, "Date": email.utils.format_datetime(datetime.datetime.now(datetime.UTC))})

    def _news_since(self, since: datetime.date) -> set[str]:
        """Keys of papers that came, or got a verdict, since a day; those with a vote are trending."""
        rows = self._store.read(
            "SELECT key FROM documents WHERE added >= ? AND paper = '' "
            "UNION SELECT paper FROM verdicts WHERE date >= ?",
            *(since.isoformat(), since.isoformat()),
        )
        return {row["key"] for row in rows} | set(self._trending)

    def _matching(self, query: str, filters: str) -> list[dict[str, Any]]:
        """News for one followed search, in its order; trending ones first where the search says nothing."""
        asked = (query, filters)
        if asked not in self._found:
            try:
                found = search.search(self._store, query, json.loads(filters), limit=100)
            except UserError:  # a family that the catalogue no longer has
                found = None
            hits = [hit.to_json() for hit in found.hits if hit.key in self._news] if found else []
            if not query:
                hits.sort(key=lambda hit: -self._trending.get(hit["key"], 0.0))
            self._found[asked] = hits[:SEARCH_DEPTH]
        return self._found[asked]

    def compose(
        self, subscriber: Mapping[str, Any], follows: Iterable[Mapping[str, Any]], old: set[str]
    ) -> Digest | None:
        """A subscriber's digest, None if there is nothing that they have not had."""
        parts: Parts = []
        used = set(old)
        for wanted in follows:
            hits = [h for h in self._matching(wanted["query"], wanted["filters"]) if h["key"] not in used]
            hits = hits[: MOST_PAPERS - len(used - old)]
            used |= {hit["key"] for hit in hits}
            if hits:
                parts.append((Wish("", wanted["query"], json.loads(wanted["filters"])).name, hits))
        if not parts:
            return None
        address = subscriber["email"]
        leave = f"{self._base}/unsubscribe/{unsubscribe_token(self._tokens, address)}"
        own = _header(
            {
                "To": address,
                "Message-ID": f"<{self._tokens.blind('mail', address, self._day)}@unseen.atlas>",
                "List-Unsubscribe": f"<{leave}>",
            }
        )
        mail = own + self._head + _quoted(leave).join(self._pieces(parts))
        return Digest(subscriber["id"], address, self._day, tuple(sorted(used - old)), mail)

    def _pieces(self, parts: Parts) -> list[bytes]:
        """What these parts say, from the subject on, cut where the link to unsubscribe goes."""
        key = tuple((name, *(hit["key"] for hit in hits)) for name, hits in parts)
        if key not in self._written:
            if len(self._written) >= _MOST_WRITTEN:
                self._written.clear()
            self._written[key] = self._write(parts)
        return self._written[key]

    def _write(self, parts: Parts) -> list[bytes]:
        total = sum(len(hits) for _, hits in parts)
        head = _header(
            {
                "Subject": f"{total} {'paper' if total == 1 else 'papers'} on generalization for you",
                "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
                "Auto-Submitted": "auto-generated",
                "MIME-Version": "1.0",
                "Content-Type": f'multipart/alternative; boundary="{_BOUNDARY}"',
            }
        )
        (text_start, text_end), (rich_start, rich_end) = (
            [_quoted(piece) for piece in pieces] for pieces in (self._plain(parts), self._rich(parts))
        )

        def opening(kind: str) -> bytes:
            own = _header({"Content-Type": f'{kind}; charset="utf-8"', "Content-Transfer-Encoding": "quoted-printable"})
            return b"--" + _BOUNDARY.encode() + b"\r\n" + own + b"\r\n"

        soft = b"=\r\n"
        return [
            head + b"\r\n" + opening("text/plain") + text_start + soft,
            soft + text_end + b"\r\n" + opening("text/html") + rich_start + soft,
            soft + rich_end + b"\r\n--" + _BOUNDARY.encode() + b"--\r\n",
        ]

    def _plain(self, parts: Parts) -> tuple[str, str]:
        """The text before and after the link."""
        lines = []
        for name, hits in parts:
            lines += [f"New for {name}", ""]
            for hit in hits:
                lines += [
                    hit["title"],
                    f"  {hit['snippet']}",
                    *self._verdicts(hit, "  "),
                    f"  {self._base}/papers/{hit['key']}",
                    "",
                ]
        return "\n".join([*lines, "Unsubscribe: "]), "\n"

    @staticmethod
    def _verdicts(hit: Mapping[str, Any], indent: str = "") -> list[str]:
        counted = ", ".join(f"{n} {name}" for name, n in hit["verdicts"].items())
        return [f"{indent}Claims: {counted}"] if counted else []

    def _rich(self, parts: Parts) -> tuple[str, str]:
        """The page before and after the link."""
        body = []
        for name, hits in parts:
            body.append(f'<h2 style="font-size:16px;color:#566069;margin:24px 0 8px">New for {escape(name)}</h2>')
            for hit in hits:
                link = escape(f"{self._base}/papers/{hit['key']}", quote=True)
                state = "".join(f'<p style="margin:4px 0;color:#14774f">{escape(s)}</p>' for s in self._verdicts(hit))
                body.append(
                    f'<div style="padding:10px 0;border-top:1px solid #dfe3e6"><a href="{link}" style="color:#0b5cad;'
                    f'font-weight:600;text-decoration:none">{escape(hit["title"])}</a>'
                    f'<p style="margin:4px 0">{escape(hit["snippet"])}</p>{state}</div>'
                )
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
            '</head><body style="font:15px/1.5 system-ui,sans-serif;max-width:40em;margin:0 auto;padding:16px">'
            f'{"".join(body)}<p style="margin-top:24px;color:#566069;font-size:13px"><a href="',
            '" style="color:#566069">Unsubscribe</a></p></body></html>\n',
        )


_BOUNDARY = "=_unseen_atlas"  # quoted-printable never has "=_" in it
_QUOTED_LINE = 75  # characters, so that the sign of a soft line break still fits
_MOST_WRITTEN = 2_000  # texts that are kept for further subscribers


def _quoted(said: str) -> bytes:
    """A text in quoted-printable, UTF-8, with the line ends of mail."""
    octets = said.encode("utf-8").decode("latin-1")  # a character each, as the encoder wants them
    return quoprimime.body_encode(octets, _QUOTED_LINE, "\r\n").encode("ascii")


def _header(fields: Mapping[str, str]) -> bytes:
    """Header lines in the order given, folded and encoded by the standard library if they are not plain and short.

    Raises:
        UserError: if a value would break into two lines.
    """
    lines = []
    for name, value in fields.items():
        check_header(name, value)
        is_plain = value.isascii() and len(value) < 900
        lines.append(f"{name}: {value}\r\n" if is_plain else _POLICY.fold(name, _POLICY.header_factory(name, value)))
    return "".join(lines).encode("ascii")


def due(store: Store, day: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Subscribers whose digest is due on a day, with what they follow; weekly ones a week after the last one."""
    last, week_ago = 0, (datetime.date.fromisoformat(day) - datetime.timedelta(days=WEEK)).isoformat()
    while True:
        rows = store.read(
            "SELECT id, email, every FROM subscribers s WHERE confirmed = 1 AND id > ? "
            "AND (every = 'day' OR NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.subscriber = s.id "
            "AND d.day > ? AND d.day < ? AND d.state IN ('sent', 'sending'))) ORDER BY id LIMIT 500",
            *(last, week_ago, day),
        )
        if not rows:
            return
        ids = [row["id"] for row in rows]
        holes = ", ".join("?" * len(ids))
        wanted: dict[int, list[dict[str, Any]]] = {}
        for row in store.read(f"SELECT * FROM follows WHERE subscriber IN ({holes}) ORDER BY id", *ids):
            wanted.setdefault(row["subscriber"], []).append(row)
        for row in rows:
            if wanted.get(row["id"]):
                yield row, wanted[row["id"]]
        last = ids[-1]


def compose_all(store: Store, base: str, sender: str, day: str) -> Iterator[Digest]:
    """The digests of a day; nothing is written."""
    composer = Composer(store, base, sender, day)
    for subscriber, follows in due(store, day):
        made = composer.compose(subscriber, follows, _had(store, subscriber["id"]))
        if made is not None:
            yield made


def _had(store: Store, subscriber: int) -> set[str]:
    return {row["paper"] for row in store.read("SELECT paper FROM sent WHERE subscriber = ?", subscriber)}


def dry_run(store: Store, base: str, sender: str, day: str, out: Path) -> int:
    """Write the digests of a day into a folder, one `.eml` each; returns how many."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        count = 0
        for made in compose_all(store, base, sender, day):
            (out / f"{made.day}-{made.subscriber}.eml").write_bytes(made.mail)
            count += 1
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}).") from None
    return count


# Sending ---------------------------------------------------------------------------------------------------


class Unreachable(UserError):
    """The mail server cannot be reached or does not take us; nothing was lost."""


class Unsure(Exception):
    """The server vanished without an answer to the line that ends a mail: it may have taken it."""


class Post:
    """A connection to the mail server, opened when needed and again after it broke."""

    def __init__(self, settings: Smtp):
        self._settings = settings
        self._server: smtplib.SMTP | None = None

    def ready(self) -> smtplib.SMTP:
        """An open connection.

        Raises:
            Unreachable: after some tries, or at once if the server does not encrypt or rejects the password.
        """
        if self._server is not None:
            return self._server
        s = self._settings
        for attempt in range(1, _ATTEMPTS + 1):
            server = None
            try:
                server = smtplib.SMTP(s.host, s.port, timeout=s.timeout)
                if s.starttls:
                    server.starttls(context=ssl.create_default_context(cafile=s.ca or None))
                server.ehlo_or_helo_if_needed()
                if s.user:
                    server.login(s.user, s.password)
                self._server = server
                return server
            except (smtplib.SMTPNotSupportedError, smtplib.SMTPAuthenticationError, ssl.SSLError) as error:
                _hang_up(server)
                raise Unreachable(f"The mail server {s.host}:{s.port} does not take us ({error}).") from error
            except (OSError, smtplib.SMTPException) as error:
                _hang_up(server)
                if attempt == _ATTEMPTS:
                    raise Unreachable(
                        f"The mail server {s.host}:{s.port} does not answer ({error}); what is unsent is kept."
                    ) from error
                time.sleep(_PAUSE * 2 ** (attempt - 1))
        raise AssertionError

    def send(self, to: str, raw: bytes, last: Callable[[], None]) -> None:
        """Hand in one mail; `last` is called when all but the line that ends it is out. An error closes the connection.

        Raises:
            Unsure: if the server vanished after that line.
            OSError, SMTPException: if it has certainly not taken the mail.
        """
        server = self.ready()
        try:
            self._expect(server.mail(self._settings.sender), smtplib.SMTPResponseException)
            code, said = server.rcpt(to)
            if code not in (250, 251):
                raise smtplib.SMTPResponseException(code, said)
            self._expect(server.docmd("data"), smtplib.SMTPDataError, 354)
            lines = re.sub(rb"\r\n|\r|\n", b"\r\n", raw)
            server.send(re.sub(rb"(?m)^\.", b"..", lines) + (b"" if lines.endswith(b"\r\n") else b"\r\n"))
            if server.sock is not None and select.select([server.sock], [], [], 0)[0]:
                raise smtplib.SMTPServerDisconnected("the server broke off within the mail")
            last()
            try:
                server.send(b".\r\n")
                answer = server.getreply()
            except (OSError, smtplib.SMTPServerDisconnected) as error:
                raise Unsure(str(error)) from error
            self._expect(answer, smtplib.SMTPDataError)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _expect(answer: tuple[int, bytes], refused: type[smtplib.SMTPResponseException], wanted: int = 250) -> None:
        if answer[0] != wanted:
            raise refused(*answer)

    def close(self) -> None:
        """Hang up."""
        _hang_up(self._server)
        self._server = None


def _hang_up(server: smtplib.SMTP | None) -> None:
    if server is not None:
        server.close()


def send_all(store: Store, settings: Smtp, base: str, day: str, tell: Callable[[Sent], None] | None = None) -> Sent:
    """Send confirmations that wait, then the digests of a day: to each subscriber exactly one, over any number of runs.

    Raises:
        Unreachable: if the server does not answer; everything unsent is kept for the next run.
        UserError: if another process is sending.
    """
    done = Sent()
    post = Post(settings)
    with store.alone("digest"):
        try:
            _send_outbox(store, settings, post, done)
            composer = Composer(store, base, settings.sender, day)
            for subscriber, follows in due(store, day):
                _send_one(store, composer, post, subscriber, follows, day, done)
                if tell:
                    tell(done)
        finally:
            post.close()
    return done


def send_waiting(store: Store, settings: Smtp) -> Sent:
    """Send the confirmations that wait."""
    done = Sent()
    post = Post(settings)
    with store.alone("digest"):
        try:
            _send_outbox(store, settings, post, done)
        finally:
            post.close()
    return done


def _send_outbox(store: Store, settings: Smtp, post: Post, done: Sent) -> None:
    for row in store.read("SELECT id, recipient, message FROM outbox ORDER BY id LIMIT 10000"):
        mail = email.message_from_string(row["message"], policy=_POLICY)
        mail["From"] = settings.sender

        def last(row: dict[str, Any] = row) -> None:
            with store.write() as run:
                run("DELETE FROM outbox WHERE id = ?", row["id"])

        try:
            post.send(row["recipient"], mail.as_bytes(), last)
            done.sent += 1
        except Unsure:
            done.unsure += 1
        except Unreachable:
            raise
        except (OSError, smtplib.SMTPException) as error:
            done.failed.append(f"{row['recipient']}: {_said(error)}")
            with store.write() as run:
                run("DELETE FROM outbox WHERE id = ?", row["id"])
                if _is_passing(error):  # behind those that wait
                    run(
                        "INSERT INTO outbox(recipient, message, created) VALUES (?, ?, ?)",
                        *(row["recipient"], row["message"], time.time()),
                    )


def _send_one(
    store: Store,
    composer: Composer,
    post: Post,
    subscriber: Mapping[str, Any],
    follows: list[dict[str, Any]],
    day: str,
    done: Sent,
) -> None:
    rows = store.read("SELECT state, tries FROM deliveries WHERE subscriber = ? AND day = ?", subscriber["id"], day)
    state, tries = (rows[0]["state"], rows[0]["tries"]) if rows else ("", 0)
    if state not in ("", "waiting") or tries >= MOST_TRIES:
        done.already += state in ("sent", "nothing")
        done.unsure += state == "sending"
        return
    made = composer.compose(subscriber, follows, _had(store, subscriber["id"]))
    if made is None:
        _mark(store, subscriber["id"], day, "nothing", tries)
        done.nothing_new += 1
        return

    def last() -> None:
        _mark(store, subscriber["id"], day, "sending", tries + 1, hurried=True)

    try:
        post.send(made.email, made.mail, last)
    except Unsure:
        done.unsure += 1
    except Unreachable:
        raise
    except (OSError, smtplib.SMTPException) as error:
        done.failed.append(f"{made.email}: {_said(error)}")
        state = "waiting" if _is_passing(error) else "refused"
        _mark(store, made.subscriber, day, state, tries + 1, _said(error))
    else:
        _mark(store, made.subscriber, day, "sent", tries + 1, papers=made.papers)
        done.sent += 1


def _mark(
    store: Store,
    subscriber: int,
    day: str,
    state: str,
    tries: int,
    note: str = "",
    papers: Iterable[str] = (),
    hurried: bool = False,
) -> None:
    """Commit the state of a delivery, and with it which papers the subscriber has had."""
    with store.write(hurried) as run:
        run(
            "INSERT INTO deliveries(subscriber, day, state, message, tries, at, note) VALUES (?, ?, ?, '', ?, ?, ?) "
            "ON CONFLICT (subscriber, day) DO UPDATE "
            "SET state = excluded.state, tries = excluded.tries, at = excluded.at, note = excluded.note",
            *(subscriber, day, state, tries, time.time(), note[:500]),
        )
        for key in papers:
            run("INSERT INTO sent(subscriber, paper) VALUES (?, ?) ON CONFLICT DO NOTHING", subscriber, key)


def _said(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        reason = error.smtp_error
        return f"{error.smtp_code} {reason.decode('utf-8', 'replace') if isinstance(reason, bytes) else reason}"
    return str(error)


def _is_passing(error: Exception) -> bool:
    """Whether the server said "later" (4xx), or nothing."""
    return not (isinstance(error, smtplib.SMTPResponseException) and error.smtp_code >= 500)
