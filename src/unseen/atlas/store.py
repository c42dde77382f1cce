"""The atlas's database: one SQLite file in WAL mode below `UNSEEN_HOME`, or a PostgreSQL server with pgvector.

Which one is one setting, `UNSEEN_DATABASE`: a path or `postgresql://...`. The statements are the same for both; what
differs (types, full-text search, nearest vectors) is in two small dialects. Everything is written in transactions,
so that a process killed at any moment leaves the database as it was before or after, never between.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unseen.lab.errors import UserError
from unseen.lab.store import home

SCHEMA = 1  # the number of migrations
PATIENCE = 30.0  # seconds to wait for another process that writes
MARK, UNMARK = "\ue000", "\ue001"  # around matched words; `text.clean` lets neither into the database
WEIGHTS = (8.0, 3.0, 2.0, 1.0)  # of title, question, body and the rest in BM25

# What each column of the search table holds: title; question; summary or abstract; claims, components, authors.
COLUMNS = ("title", "question", "body", "rest")

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE documents (
            id {serial}, key TEXT NOT NULL UNIQUE, origin TEXT NOT NULL, title TEXT NOT NULL,
            title_key TEXT NOT NULL, authors TEXT NOT NULL, year INTEGER NOT NULL, arxiv TEXT NOT NULL,
            url TEXT NOT NULL, family TEXT NOT NULL, kind TEXT NOT NULL, world TEXT NOT NULL, axis TEXT NOT NULL,
            question TEXT NOT NULL, body TEXT NOT NULL, rest TEXT NOT NULL, digest TEXT NOT NULL,
            paper TEXT NOT NULL, added TEXT NOT NULL, source TEXT NOT NULL)""",
        "CREATE INDEX documents_title ON documents(title_key)",
        "CREATE INDEX documents_arxiv ON documents(arxiv)",
        "CREATE INDEX documents_paper ON documents(paper)",
        "CREATE INDEX documents_added ON documents(added)",
        "CREATE TABLE vectors (document INTEGER PRIMARY KEY, digest TEXT NOT NULL, vector {vector} NOT NULL)",
        """CREATE TABLE claim_vectors (paper TEXT NOT NULL, claim TEXT NOT NULL, digest TEXT NOT NULL,
            vector {vector} NOT NULL, PRIMARY KEY (paper, claim))""",
        """CREATE TABLE verdicts (paper TEXT NOT NULL, claim TEXT NOT NULL, verdict TEXT NOT NULL, effect {real},
            low {real}, high {real}, n INTEGER NOT NULL, date TEXT NOT NULL, since {real} NOT NULL,
            PRIMARY KEY (paper, claim))""",
        "CREATE TABLE words (word {word} PRIMARY KEY)",
        "CREATE TABLE trigrams (trigram TEXT NOT NULL, word TEXT NOT NULL, PRIMARY KEY (trigram, word))",
        """CREATE TABLE votes (paper TEXT NOT NULL, voter TEXT NOT NULL, at {real} NOT NULL,
            PRIMARY KEY (paper, voter))""",
        """CREATE TABLE subscribers (id {serial}, email TEXT NOT NULL UNIQUE, confirmed INTEGER NOT NULL,
            every TEXT NOT NULL, created {real} NOT NULL)""",
        """CREATE TABLE follows (id {serial}, subscriber INTEGER NOT NULL, query TEXT NOT NULL, filters TEXT NOT NULL,
            confirmed INTEGER NOT NULL, created {real} NOT NULL, UNIQUE (subscriber, query, filters))""",
        """CREATE TABLE deliveries (subscriber INTEGER NOT NULL, day TEXT NOT NULL, state TEXT NOT NULL,
            message TEXT NOT NULL, tries INTEGER NOT NULL, at {real} NOT NULL, note TEXT NOT NULL,
            PRIMARY KEY (subscriber, day))""",
        "CREATE TABLE sent (subscriber INTEGER NOT NULL, paper TEXT NOT NULL, PRIMARY KEY (subscriber, paper))",
        "CREATE TABLE outbox (id {serial}, recipient TEXT NOT NULL, message TEXT NOT NULL, created {real} NOT NULL)",
        "CREATE TABLE limits (scope TEXT NOT NULL, who TEXT NOT NULL, at {real} NOT NULL)",
        "CREATE INDEX limits_who ON limits(scope, who, at)",
        "CREATE TABLE progress (source TEXT PRIMARY KEY, position TEXT NOT NULL, at {real} NOT NULL)",
    ),
)


class StoreError(UserError):
    """The database cannot be read or written: locked, full, damaged or not reachable; nothing was half-written."""


Run = Callable[..., list[dict[str, Any]]]


class Dialect(Protocol):
    """What differs between the two databases."""

    types: Mapping[str, str]

    def connect(self) -> Any:
        """A connection for one thread."""
        ...

    def run(self, connection: Any, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        """One statement, with `?` for values."""
        ...

    def many(self, connection: Any, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for many rows of values."""
        ...

    def begin(self, connection: Any, hurried: bool) -> None:
        """Start a transaction that may write; a hurried one need not outlive a power cut."""
        ...

    def finish(self, connection: Any, commit: bool) -> None:
        """End it."""
        ...

    def state(self, connection: Any) -> Hashable:
        """Something that is another after another connection has committed."""
        ...

    def has_schema(self, connection: Any) -> bool:
        """Whether the table `meta` exists."""
        ...

    def before(self) -> Sequence[str]:
        """Statements that the first migration needs."""
        ...

    def after(self) -> Sequence[str]:
        """Statements that make the search index, after it."""
        ...

    def index(self, run: Run, document: int, fields: Sequence[str]) -> None:
        """Make one document findable by its words, in the place of what was there of it."""
        ...

    def lexical(
        self,
        run: Run,
        words: Sequence[tuple[str, bool]],
        where: str,
        values: Sequence[Any],
        limit: int,
        narrow: bool = False,
    ) -> list[tuple[int, float]]:
        """Documents with any of the words (True: also as a beginning), best first, with their positive scores.

        With `narrow` those with all of the words, or with the only one in the title.
        """
        ...

    def count(self, run: Run, word: str, prefix: bool, most: int) -> int:
        """Number of documents with the word, or with `prefix` one that begins so, counted up to `most`."""
        ...

    def marked(self, run: Run, words: Sequence[tuple[str, bool]], documents: Sequence[int]) -> dict[int, list[str]]:
        """Title, question and body of documents, with MARK and UNMARK around the matched words."""
        ...

    def pack(self, vector: np.ndarray) -> Any:
        """A unit vector as the database keeps it."""
        ...

    def nearest(
        self, run: Run, vector: np.ndarray, where: str, values: Sequence[Any], limit: int
    ) -> list[tuple[int, float]] | None:
        """Documents by cosine, if the database finds them itself."""
        ...

    def alone(self, name: str) -> contextlib.AbstractContextManager[bool]:
        """Whether this process is the only one inside; a killed one does not block the next."""
        ...

    def explain(self, error: Exception) -> str | None:
        """One sentence for an error that a person can mend, None for a defect."""
        ...


class Sqlite:
    """One file, in WAL mode: readers never wait for a writer."""

    types: Mapping[str, str] = {"serial": "INTEGER PRIMARY KEY", "vector": "BLOB", "real": "REAL", "word": "TEXT"}

    def __init__(self, file: Path):
        self.file = file

    def connect(self) -> sqlite3.Connection:
        """A connection; makes the file if there is none."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.file.parent} cannot be made ({error.strerror}); UNSEEN_HOME names it.") from None
        with contextlib.suppress(OSError):  # subscribers are nobody else's business; what SQLite puts beside it follows
            os.close(os.open(self.file, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.file, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA cache_size=-32768")  # KiB, at most: a large atlas is read from all over its file
        return connection

    def run(self, connection: Any, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        """One statement."""
        return [dict(row) for row in connection.execute(sql, values)]

    def many(self, connection: Any, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for many rows."""
        connection.executemany(sql, rows)

    def begin(self, connection: Any, hurried: bool) -> None:
        """Start a transaction that holds the write lock from the start."""
        connection.execute(f"PRAGMA synchronous={'NORMAL' if hurried else 'FULL'}")
        connection.execute("BEGIN IMMEDIATE")

    def finish(self, connection: Any, commit: bool) -> None:
        """End it."""
        if connection.in_transaction:
            connection.execute("COMMIT" if commit else "ROLLBACK")

    def state(self, connection: Any) -> Hashable:
        """The connection's own counter of what others committed."""
        return connection.execute("PRAGMA data_version").fetchone()[0]

    def has_schema(self, connection: Any) -> bool:
        """Whether `meta` exists."""
        return bool(self.run(connection, "SELECT 1 FROM sqlite_master WHERE name = 'meta'", ()))

    def before(self) -> Sequence[str]:
        """Nothing."""
        return ()

    def after(self) -> Sequence[str]:
        """The full-text table."""
        ranks = ", ".join(map(str, WEIGHTS))
        return (
            f"CREATE VIRTUAL TABLE search USING fts5({', '.join(COLUMNS)}, "
            "tokenize='porter unicode61 remove_diacritics 2', prefix='2 3')",
            f"INSERT INTO search(search, rank) VALUES ('rank', 'bm25({ranks})')",
        )

    def index(self, run: Run, document: int, fields: Sequence[str]) -> None:
        """Into the full-text table."""
        run("DELETE FROM search WHERE rowid = ?", document)
        run(f"INSERT INTO search(rowid, {', '.join(COLUMNS)}) VALUES (?, ?, ?, ?, ?)", document, *fields)

    @staticmethod
    def _expression(words: Sequence[tuple[str, bool]]) -> str:
        quoted = ['"' + word.replace('"', '""') + '"' for word, _ in words]
        begun = [f"{text}*" for text, (_, prefix) in zip(quoted, words, strict=True) if prefix]
        return " OR ".join(quoted + begun)

    def lexical(
        self,
        run: Run,
        words: Sequence[tuple[str, bool]],
        where: str,
        values: Sequence[Any],
        limit: int,
        narrow: bool = False,
    ) -> list[tuple[int, float]]:
        """By BM25."""
        if narrow:
            each = [f"({self._expression([word])})" for word in words]
            match = " AND ".join(each) if len(each) > 1 else f"{COLUMNS[0]} : {each[0]}"
        else:
            match = self._expression(words)
        if not where:
            rows = run("SELECT rowid AS id, rank FROM search WHERE search MATCH ? ORDER BY rank LIMIT ?", match, limit)
        else:
            rows = run(
                f"SELECT d.id, search.rank FROM search JOIN documents d ON d.id = search.rowid "
                f"WHERE search MATCH ? AND {where} ORDER BY search.rank LIMIT ?",
                match,
                *values,
                limit,
            )
        return [(int(row["id"]), -float(row["rank"])) for row in rows]

    def count(self, run: Run, word: str, prefix: bool, most: int) -> int:
        """By the full-text table."""
        sql = "SELECT count(*) AS n FROM (SELECT 1 FROM search WHERE search MATCH ? LIMIT ?)"
        return int(run(sql, self._expression([(word, prefix)]), most)[0]["n"])

    def marked(self, run: Run, words: Sequence[tuple[str, bool]], documents: Sequence[int]) -> dict[int, list[str]]:
        """By FTS5's own highlighter, so that what is marked is what matched."""
        if not (documents and words):
            return {}
        columns = ", ".join(f"highlight(search, {i}, '{MARK}', '{UNMARK}') AS c{i}" for i in range(3))
        holes = ", ".join("?" * len(documents))
        rows = run(
            f"SELECT rowid AS id, {columns} FROM search WHERE search MATCH ? AND rowid IN ({holes})",
            self._expression(words),
            *documents,
        )
        return {int(row["id"]): [row["c0"], row["c1"], row["c2"]] for row in rows}

    def pack(self, vector: np.ndarray) -> bytes:
        """Half precision, little endian."""
        return np.asarray(vector, "<f2").tobytes()

    def nearest(
        self, run: Run, vector: np.ndarray, where: str, values: Sequence[Any], limit: int
    ) -> list[tuple[int, float]] | None:
        """SQLite finds none itself: the vectors are searched in memory."""
        return None

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[bool]:
        """By a lock file beside the database."""
        from filelock import FileLock, Timeout

        try:
            with FileLock(f"{self.file}.{name}.lock", timeout=0):
                yield True
        except Timeout:
            yield False

    def explain(self, error: Exception) -> str | None:
        """Locked, full, read-only and damaged."""
        said = str(error)
        if not isinstance(error, sqlite3.Error):
            return None
        if "locked" in said or "busy" in said:
            return f"{self.file} is locked by another process for more than {PATIENCE:.0f} s; try again."
        if "full" in said or "disk I/O" in said:
            return f"{self.file} cannot grow: the disk is full or failing ({said}); nothing was half-written."
        if "readonly" in said or "unable to open" in said:
            return f"{self.file} cannot be written ({said}); UNSEEN_HOME says where the database lives."
        if "not a database" in said or "malformed" in said:
            return f"{self.file} is damaged or no database of the atlas ({said}); move it away to start anew."
        return None


class Postgres:
    """A server, for a group; full-text search by `tsvector`, nearest vectors by pgvector."""

    types: Mapping[str, str] = {
        "serial": "INTEGER GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        "vector": "vector",  # of any width: another model may have another
        "real": "DOUBLE PRECISION",
        "word": 'TEXT COLLATE "C"',
    }

    def __init__(self, url: str):
        self.url = url

    def connect(self) -> Any:
        """A connection."""
        try:
            import psycopg
            from psycopg.rows import dict_row
        except ModuleNotFoundError:
            raise UserError("UNSEEN_DATABASE names a PostgreSQL server: pip install 'unseen[postgres]'") from None
        rows: Any = dict_row
        return psycopg.connect(self.url, autocommit=True, row_factory=rows, connect_timeout=int(PATIENCE))

    @staticmethod
    def _holes(sql: str) -> str:
        return sql.replace("%", "%%").replace("?", "%s")

    def run(self, connection: Any, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        """One statement."""
        with connection.cursor() as cursor:
            cursor.execute(self._holes(sql), values)
            return cursor.fetchall() if cursor.description else []

    def many(self, connection: Any, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for many rows."""
        with connection.cursor() as cursor:
            cursor.executemany(self._holes(sql), rows)

    def begin(self, connection: Any, hurried: bool) -> None:
        """Start a transaction; writers of the atlas come one after the other, as in SQLite."""
        connection.execute("BEGIN")
        if hurried:
            connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute(f"SET LOCAL lock_timeout = '{int(PATIENCE)}s'")
        connection.execute("SELECT pg_advisory_xact_lock(7206207)")

    def finish(self, connection: Any, commit: bool) -> None:
        """End it."""
        if not connection.closed:
            connection.execute("COMMIT" if commit else "ROLLBACK")

    def state(self, connection: Any) -> Hashable:
        """Which transactions are visible."""
        return self.run(connection, "SELECT pg_current_snapshot()::text AS seen", ())[0]["seen"]

    def has_schema(self, connection: Any) -> bool:
        """Whether `meta` exists."""
        return bool(self.run(connection, "SELECT 1 AS there WHERE to_regclass('meta') IS NOT NULL", ()))

    def before(self) -> Sequence[str]:
        """The extension pgvector."""
        return ("CREATE EXTENSION IF NOT EXISTS vector",)

    def after(self) -> Sequence[str]:
        """The full-text column and its index."""
        return (
            "ALTER TABLE documents ADD COLUMN search tsvector",
            "CREATE INDEX documents_search ON documents USING gin(search)",
        )

    def index(self, run: Run, document: int, fields: Sequence[str]) -> None:
        """Into the full-text column, weighted A to D."""
        parts = " || ".join(f"setweight(to_tsvector('english', ?), '{weight}')" for weight in "ABCD")
        run(f"UPDATE documents SET search = {parts} WHERE id = ?", *fields, document)

    @staticmethod
    def _expression(words: Sequence[tuple[str, bool]]) -> str:
        quoted = [("'" + word.replace("\\", "\\\\").replace("'", "''") + "'", prefix) for word, prefix in words]
        return " | ".join(text + (":*" if prefix else "") for text, prefix in quoted)

    def lexical(
        self,
        run: Run,
        words: Sequence[tuple[str, bool]],
        where: str,
        values: Sequence[Any],
        limit: int,
        narrow: bool = False,
    ) -> list[tuple[int, float]]:
        """By `ts_rank`, divided by the logarithm of the length."""
        weights = np.array(WEIGHTS[::-1]) / max(WEIGHTS)
        rank = f"ts_rank('{{{', '.join(map(str, weights))}}}', d.search, q, 1)"
        rows = run(
            f"SELECT d.id, {rank} AS rank FROM documents d, to_tsquery('english', ?) q "
            f"WHERE d.search @@ q AND {where or 'true'} ORDER BY rank DESC, d.id LIMIT ?",
            self._expression(words),
            *values,
            limit,
        )
        return [(int(row["id"]), float(row["rank"])) for row in rows]

    def count(self, run: Run, word: str, prefix: bool, most: int) -> int:
        """By the full-text column."""
        one = "SELECT 1 FROM documents d, to_tsquery('english', ?) q WHERE d.search @@ q LIMIT ?"
        return int(run(f"SELECT count(*) AS n FROM ({one}) found", self._expression([(word, prefix)]), most)[0]["n"])

    def marked(self, run: Run, words: Sequence[tuple[str, bool]], documents: Sequence[int]) -> dict[int, list[str]]:
        """By `ts_headline`."""
        if not (documents and words):
            return {}
        options = f"HighlightAll=true, StartSel={MARK}, StopSel={UNMARK}"
        columns = ", ".join(f"ts_headline('english', d.{name}, q, '{options}') AS {name}" for name in COLUMNS[:3])
        holes = ", ".join("?" * len(documents))
        rows = run(
            f"SELECT d.id, {columns} FROM documents d, to_tsquery('english', ?) q "
            f"WHERE d.search @@ q AND d.id IN ({holes})",
            self._expression(words),
            *documents,
        )
        return {int(row["id"]): [row[name] for name in COLUMNS[:3]] for row in rows}

    def pack(self, vector: np.ndarray) -> str:
        """pgvector's text form."""
        return "[" + ",".join(f"{x:.6g}" for x in vector.tolist()) + "]"

    def nearest(
        self, run: Run, vector: np.ndarray, where: str, values: Sequence[Any], limit: int
    ) -> list[tuple[int, float]] | None:
        """By pgvector's cosine distance."""
        packed = self.pack(vector)
        rows = run(
            "SELECT v.document, 1 - (v.vector <=> ?::vector) AS cosine FROM vectors v "
            f"JOIN documents d ON d.id = v.document WHERE {where or 'true'} "
            "ORDER BY v.vector <=> ?::vector LIMIT ?",
            packed,
            *values,
            packed,
            limit,
        )
        return [(int(row["document"]), float(row["cosine"])) for row in rows]

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[bool]:
        """By an advisory lock of a session of its own."""
        connection = self.connect()
        try:
            yield bool(self.run(connection, "SELECT pg_try_advisory_lock(hashtext(?)) AS taken", (name,))[0]["taken"])
        finally:
            connection.close()

    def explain(self, error: Exception) -> str | None:
        """Not reachable, locked, full."""
        if not type(error).__module__.startswith("psycopg"):
            return None
        where = re.sub(r"//[^@/]*@", "//", self.url)  # never a password
        if type(error).__name__ in ("OperationalError", "LockNotAvailable", "DiskFull", "AdminShutdown"):
            return f"The database {where} does not answer ({' '.join(str(error).split())})."
        return None


class Store:
    """The database, opened and brought to the newest schema; safe to share between threads.

    Args:
        url: a path or `postgresql://...`; by default what `UNSEEN_DATABASE` says, or `UNSEEN_HOME/atlas.db`.

    Raises:
        StoreError: if it cannot be opened.
    """

    def __init__(self, url: str | os.PathLike[str] | None = None):
        named = os.fspath(url) if url is not None else os.environ.get("UNSEEN_DATABASE") or str(home() / "atlas.db")
        self.url = named
        is_server = named.startswith(("postgresql://", "postgres://"))
        self.dialect: Dialect = Postgres(named) if is_server else Sqlite(Path(named).expanduser())
        self._local = threading.local()
        self._opened: list[Any] = []
        self._lock = threading.Lock()
        self._watching: Any = None
        self._migrate()

    def _connection(self) -> Any:
        found = getattr(self._local, "connection", None)
        if found is not None and getattr(found, "closed", False):  # a server that went away and came back
            found = None
        if found is None:
            found = self._local.connection = self.dialect.connect()
            with self._lock:
                self._opened.append(found)
        return found

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            said = self.dialect.explain(error)
            if said is None:
                raise
            raise StoreError(said) from error

    def read(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of a query, with `?` for values."""
        with self._explained():
            return self.dialect.run(self._connection(), sql, values)

    def state(self) -> Hashable:
        """Something that is another after any commit, of this process or of another one; cheap to ask for."""
        with self._explained(), self._lock:
            if self._watching is None or getattr(self._watching, "closed", False):
                self._watching = self.dialect.connect()  # of its own: a connection does not notice what it commits
                self._opened.append(self._watching)
            return self.dialect.state(self._watching)

    @contextlib.contextmanager
    def write(self, hurried: bool = False) -> Iterator[Run]:
        """A transaction: all that is run inside is kept, or nothing if an error leaves it.

        What was committed survives a killed process, and a power cut, too, unless it was hurried: then leaving it takes
        microseconds, since nothing waits for the disk.
        """
        with self._explained():
            connection = self._connection()
            self.dialect.begin(connection, hurried)
            try:
                yield lambda sql, *values: self.dialect.run(connection, sql, values)
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to hear of
                    self.dialect.finish(connection, commit=False)
                raise
            try:
                self.dialect.finish(connection, commit=True)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.dialect.finish(connection, commit=False)
                raise

    def write_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for many rows, inside a transaction that this thread has open."""
        if rows:
            self.dialect.many(self._connection(), sql, rows)

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in self._opened:
                with contextlib.suppress(Exception):
                    connection.close()
            self._opened.clear()
            self._watching = None
        self._local = threading.local()

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Do something that only one process at a time may do.

        Raises:
            UserError: if another one is at it.
        """
        with self.dialect.alone(what) as is_alone:
            if not is_alone:
                raise UserError(f"Another process is at work on the {what} of this database; it ends by itself.")
            yield

    # Small facts -------------------------------------------------------------------------------------------

    def fact(self, name: str) -> str | None:
        """A small fact that is kept by name."""
        rows = self.read("SELECT value FROM meta WHERE name = ?", name)
        return str(rows[0]["value"]) if rows else None

    def set_fact(self, name: str, value: str, run: Run | None = None) -> None:
        """Keep a small fact, in the transaction `run` if one is open."""
        sql = "INSERT INTO meta(name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        if run is not None:
            run(sql, name, value)
        else:
            with self.write() as run:
                run(sql, name, value)

    def too_often(self, scope: str, who: str, most: int, seconds: float) -> bool:
        """Count one more of something by someone; True if that makes more than `most` within `seconds`."""
        now = time.time()
        with self.write() as run:
            run("DELETE FROM limits WHERE scope = ? AND at < ?", scope, now - seconds)
            rows = run("SELECT count(*) AS n FROM limits WHERE scope = ? AND who = ?", scope, who)
            if rows[0]["n"] >= most:
                return True
            run("INSERT INTO limits(scope, who, at) VALUES (?, ?, ?)", scope, who, now)
        return False

    # Schema ------------------------------------------------------------------------------------------------

    def _migrate(self) -> None:
        with self._explained():
            connection = self._connection()
            version = self._version(connection)
        if version == SCHEMA:
            return
        if version > SCHEMA:
            raise StoreError(f"{self._place()} was made by a newer unseen (schema {version}, this one knows {SCHEMA}).")
        with self.write() as run:
            run("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
            version = self._version(connection)  # another process may have been quicker
            for number in range(version, SCHEMA):
                for statement in self.dialect.before() if number == 0 else ():
                    run(statement)
                for statement in _MIGRATIONS[number]:
                    run(statement.format(**self.dialect.types))
                for statement in self.dialect.after() if number == 0 else ():
                    run(statement)
            self.set_fact("schema", str(SCHEMA), run)

    def _version(self, connection: Any) -> int:
        if not self.dialect.has_schema(connection):
            return 0
        rows = self.dialect.run(connection, "SELECT value FROM meta WHERE name = 'schema'", ())
        return int(rows[0]["value"]) if rows else 0

    def _place(self) -> str:
        return re.sub(r"//[^@/]*@", "//", self.url)
