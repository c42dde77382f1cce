"""Bringing papers in: each once, matched to the catalogue, in transactions that a killed import leaves whole."""

from __future__ import annotations

import dataclasses
import difflib
import time
from collections.abc import Callable, Iterator
from typing import Any

from unseen.atlas import catalogue, index, text
from unseen.atlas.sources import Record, Refused, Source
from unseen.atlas.store import Run, Store

BATCH = 50  # records in one transaction
_SIMILAR = 0.93  # of two titles of one paper


@dataclasses.dataclass
class Counts:
    """What an import did.

    Attributes:
        read: records of the source.
        new, updated, same: what became of them in the database.
        matched: those that are papers of the catalogue.
        refused: what was no paper, with the reason.
        fresh: keys of new papers that the catalogue does not have.
    """

    read: int = 0
    new: int = 0
    updated: int = 0
    same: int = 0
    matched: int = 0
    refused: list[Refused] = dataclasses.field(default_factory=list)
    fresh: list[str] = dataclasses.field(default_factory=list)

    def line(self) -> str:
        """The line that an import ends with."""
        return (
            f"{self.read} read, {self.new} new, {self.updated} updated, {self.matched} matched, "
            f"{len(self.refused)} refused"
        )

    def to_json(self) -> dict[str, Any]:
        """As `unseen import --json` prints it."""
        counted = {name: getattr(self, name) for name in ("read", "new", "updated", "same", "matched")}
        return {**counted, "refused": [dataclasses.asdict(r) for r in self.refused], "fresh": self.fresh}


def bring_in(store: Store, source: Source, tell: Callable[[Counts], None] | None = None) -> Counts:
    """Import a source, going on where an earlier import of it was stopped.

    Papers and the position in the source are written in one transaction: killed at any moment, the same call goes on
    without losing or doubling one.
    """
    index.sync(store)
    rows = store.read("SELECT position FROM progress WHERE source = ?", source.name) if source.is_resumable else []
    position = str(rows[0]["position"]) if rows else ""
    counts = Counts()
    known = Catalogue()
    for end, batch in _batches(source.read(position)):
        with store.write() as run:
            for found in batch:
                counts.read += 1
                _bring_one(run, store, found, known, source, counts)
            if end and source.is_resumable:
                run(
                    "INSERT INTO progress(source, position, at) VALUES (?, ?, ?) "
                    "ON CONFLICT (source) DO UPDATE SET position = excluded.position, at = excluded.at",
                    *(source.name, end, time.time()),
                )
        if tell:
            tell(counts)
    if source.is_resumable:
        with store.write() as run:
            run("DELETE FROM progress WHERE source = ?", source.name)
    return counts


def _batches(found: Iterator[tuple[str, Record | Refused]]) -> Iterator[tuple[str, list[Record | Refused]]]:
    batch: list[Record | Refused] = []
    end = ""
    try:
        for position, record in found:
            batch.append(record)
            end = position or end
            if len(batch) >= BATCH:
                yield end, batch
                batch = []
    except BaseException:
        if batch:  # what was read before the source failed is kept
            yield end, batch
        raise
    if batch:
        yield end, batch


def _bring_one(
    run: Run, store: Store, found: Record | Refused, known: Catalogue, source: Source, counts: Counts
) -> None:
    if isinstance(found, Refused):
        counts.refused.append(found)
        return
    title = text.clean(found.title, text.LONGEST_TITLE)
    spelled = text.title_key(title)
    if len(spelled) < 3:
        counts.refused.append(Refused(f"record {counts.read}", f"its title says nothing ({title[:40]!r})"))
        return
    entry = known.match(title, found.arxiv)
    old = _same_paper(run, spelled, found.arxiv)
    document = index.Document(
        key=str(old["key"]) if old else f"i-{text.digest(found.arxiv or spelled)[:12]}",
        origin="imported",
        title=title,
        authors=text.clean(found.authors, 2_000) or _old(old, "authors"),
        year=found.year if 1800 <= found.year <= 2200 else int(old["year"]) if old else 0,
        arxiv=text.clean(found.arxiv, 40) or _old(old, "arxiv"),
        url=_link(found.url) or _old(old, "url"),
        family=entry.family if entry else "",
        kind=entry.kind if entry else "",
        world=entry.world if entry else "",
        axis=entry.axis if entry else "",
        body=_fuller(text.clean(found.abstract), _old(old, "body")),
        paper=entry.key if entry else "",
        source=_old(old, "source") or text.clean(source.name, 200),
    )
    outcome = index.put(run, store, document)
    counts.new += outcome == "new"
    counts.updated += outcome == "updated"
    counts.same += outcome == "same"
    counts.matched += entry is not None
    if outcome == "new" and entry is None:
        counts.fresh.append(document.key)


def _same_paper(run: Run, spelled: str, arxiv: str) -> dict[str, Any] | None:
    if arxiv:
        rows = run("SELECT * FROM documents WHERE origin = 'imported' AND arxiv = ?", arxiv)
        if rows:
            return rows[0]
    rows = run("SELECT * FROM documents WHERE origin = 'imported' AND title_key = ? ORDER BY id", spelled)
    return next((row for row in rows if not (arxiv and row["arxiv"])), None)


def _old(old: dict[str, Any] | None, name: str) -> str:
    return str(old[name]) if old else ""


def _fuller(new: str, old: str) -> str:
    """The new abstract, unless it is the old one cut short."""
    return old if not new or (len(new) < len(old) and old.startswith(new[:200])) else new


def _link(url: str) -> str:
    """An address that a page may link to: http or https, nothing else."""
    url = text.clean(url, 500)
    return url if url.startswith(("https://", "http://")) and " " not in url else ""


class Catalogue:
    """The catalogue by title and arXiv number, to find which entry a paper is."""

    def __init__(self) -> None:
        entries = catalogue.papers().values()
        self._by_title = {text.title_key(entry.title): entry for entry in entries}
        self._by_arxiv = {entry.arxiv: entry for entry in entries if entry.arxiv}

    def match(self, title: str, arxiv: str = "") -> catalogue.Paper | None:
        """The entry that is this paper: by arXiv number, or by a title that may be cut short or differ a little."""
        if arxiv in self._by_arxiv:
            return self._by_arxiv[arxiv]
        spelled = text.title_key(title)
        if spelled in self._by_title:
            return self._by_title[spelled]
        if len(spelled) < 20:
            return None
        if len(spelled) >= 40:
            begun = [entry for known, entry in self._by_title.items() if known.startswith(spelled)]
            if len(begun) == 1:
                return begun[0]
        for known, entry in self._by_title.items():
            is_near = min(len(known), len(spelled)) > 0.85 * max(len(known), len(spelled))
            matcher = difflib.SequenceMatcher(None, known, spelled, autojunk=False)
            if is_near and matcher.quick_ratio() >= _SIMILAR and matcher.ratio() >= _SIMILAR:
                return entry
        return None
