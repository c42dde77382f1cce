"""Search: words and meaning together, over the catalogue and what was imported.

Two scores are made and added. One is BM25 over titles, questions, summaries, claims and components (SQLite's FTS5), the
root of its share of the best one's: a paper with half of the words is more than half as good. One is the cosine of
sentence embeddings, with a weight (Bruch et al., 2023: a convex combination of scores finds better than a fusion of
ranks). A word that nothing contains is replaced by the nearest that something does.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from unseen.atlas import catalogue, text
from unseen.atlas.store import MARK, UNMARK, Sqlite, Store
from unseen.lab.errors import UserError
from unseen.worlds import sentence_embedding as embedding

Mode = Literal["hybrid", "words", "meaning"]
FILTERS = ("family", "kind", "world", "axis", "verdict", "year", "origin")
VERDICTS = ("supported", "refuted", "inconclusive", "none")
MOST_RESULTS = 100  # on one page
DEPTH = 200  # of each ranking
WORDS_POWER, MEANING_WEIGHT = 0.5, 1.25  # chosen on the tuning questions of benchmarks.retrieval
LEAST_COSINE = 0.15  # below it a text is about something else
LEAST_SHARE = 0.4  # of the best cosine: what is much farther than the nearest is not found by meaning
RELATED = 0.35  # from that cosine on an imported paper is shown beside one of the catalogue
MOST_POSTINGS = 25_000  # words beyond that many documents are left out where rarer ones are there
COARSE_FROM = 20_000  # documents from which vectors are first compared by their signs
COARSE_DEPTH = 2_000
MOST_COMPLETIONS = 12
_SNIPPET_WORDS = 42
WITHOUT_MEANING = (
    f"Searched by words only: {embedding.EXTRA} adds search by meaning, which finds papers that say it otherwise."
)

Marked = list[tuple[str, bool]]


@dataclasses.dataclass(frozen=True)
class Hit:
    """A found paper.

    Attributes:
        key: of the catalogue, or the id of an imported paper.
        score: of the fusion; only its order means something.
        title, snippet: pieces of text; those with True matched.
        fields: what the database holds: authors, year, family, kind, world, axis, origin, arxiv, added.
        verdicts: number of recorded claims by verdict.
    """

    key: str
    score: float
    title: Marked
    snippet: Marked
    fields: Mapping[str, Any]
    verdicts: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """As the command line and the pages print it."""
        return {
            "key": self.key,
            "title": plain(self.title),
            "score": round(self.score, 6),
            **self.fields,
            "verdicts": dict(self.verdicts),
            "snippet": plain(self.snippet),
            "marks": {"title": _spans(self.title), "snippet": _spans(self.snippet)},
        }


@dataclasses.dataclass(frozen=True)
class Results:
    """What a search found.

    Attributes:
        query: as it was understood: cleaned, cut to 1,000 characters.
        corrected: mistyped words and what was looked for instead.
        hits: best first, one page of them.
        total: how many there are in all, at most some hundreds.
        mode: "words" if the embeddings' weights are not installed.
    """

    query: str
    corrected: Mapping[str, str]
    hits: list[Hit]
    total: int
    mode: str

    def to_json(self) -> dict[str, Any]:
        """As the pages print it."""
        return {
            "query": self.query,
            "corrected": dict(self.corrected),
            "mode": self.mode,
            "total": self.total,
            "results": [hit.to_json() for hit in self.hits],
        }


def plain(marked: Marked) -> str:
    """The text of marked pieces."""
    return "".join(piece for piece, _ in marked)


def _spans(marked: Marked) -> list[tuple[int, int]]:
    found, at = [], 0
    for piece, matched in marked:
        if matched:
            found.append((at, at + len(piece)))
        at += len(piece)
    return found


# Filters ---------------------------------------------------------------------------------------------------


def checked_filters(given: Mapping[str, str]) -> dict[str, str]:
    """Filters that say something, cleaned.

    Raises:
        UserError: naming the filter, what it got and what it takes.
    """
    found = {}
    allowed = {
        "family": tuple(catalogue.families()),
        "kind": tuple(sorted({entry.kind for entry in catalogue.papers().values()})),
        "world": tuple(sorted({entry.world for entry in catalogue.papers().values()})),
        "verdict": VERDICTS,
        "origin": ("catalogue", "imported"),
    }
    for name, value in given.items():
        if name not in FILTERS:
            raise UserError(f"A search has no filter {name!r}; it has {', '.join(FILTERS)}.")
        value = text.clean(value, 200)
        if not value:
            continue
        if name in allowed and value not in allowed[name]:
            raise UserError(f"{name} takes one of {', '.join(allowed[name])}, got {value[:60]!r}.")
        if name == "year":
            _years(value)
        found[name] = value
    return found


def _years(value: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{4})?\s*(-)?\s*(\d{4})?", value, re.ASCII)
    if not found or not (found[1] or found[3]):
        raise UserError(f"year takes a year or a range (2021, 2020-2023, 2022-, -2019), got {value[:60]!r}.")
    first = int(found[1] or 0)
    last = int(found[3] or (9999 if found[2] else first))
    return first, last


def _conditions(filters: Mapping[str, str]) -> tuple[str, list[Any]]:
    parts: list[str] = []
    values: list[Any] = []
    for name, value in filters.items():
        if name == "year":
            parts.append("d.year BETWEEN ? AND ?")
            values += _years(value)
        elif name == "axis":
            for word in text.words(value):
                parts.append("lower(d.axis) LIKE ? ESCAPE '!'")
                values.append("%" + re.sub(r"([%_!])", r"!\1", word) + "%")
        elif name == "verdict":
            there = "EXISTS (SELECT 1 FROM verdicts v WHERE v.paper IN (d.key, d.paper)"
            parts.append(f"NOT {there})" if value == "none" else f"{there} AND v.verdict = ?)")
            values += [] if value == "none" else [value]
        else:
            parts.append(f"d.{name} = ?")
            values.append(value)
    return " AND ".join(parts), values


# Searching -------------------------------------------------------------------------------------------------


def search(
    store: Store,
    query: str,
    filters: Mapping[str, str] | None = None,
    *,
    limit: int = 20,
    offset: int = 0,
    mode: Mode = "hybrid",
    typing: bool = False,
) -> Results:
    """Papers for a query, best first.

    Args:
        store: the database.
        query: any text; what is no word is ignored, words beyond the 32nd too.
        filters: of family, kind, world, axis, verdict, year, origin; see `checked_filters`.
        limit, offset: which of the results.
        mode: both rankings, or one of them.
        typing: the last word may be the beginning of one.

    Raises:
        UserError: on a filter with a value that it does not take.
    """
    query = text.clean(query, text.LONGEST_QUERY)
    where, values = _conditions(checked_filters(filters or {}))
    wanted = text.terms(query)
    if not wanted:
        return _everything(store, query, where, values, limit, offset)
    begun = _completions(store, wanted[-1]) if typing else []
    corrected = _corrections(store, wanted[:-1] if begun else wanted, typing)
    found = dict.fromkeys([*(corrected.get(word, word) for word in wanted), *begun])
    looked = [(word, typing and word == wanted[-1]) for word in found]
    lexical: list[tuple[int, float]] = []
    if mode != "meaning":
        kept, narrow = _affordable(store, looked)
        lexical = store.dialect.lexical(store.read, kept, where, values, DEPTH, narrow)
    near: list[tuple[int, float]] = []
    model = embedding.embedder() if mode != "words" else None
    if model is not None:
        said = " ".join([query, *corrected.values()])  # a rare word may be right after all
        near = nearest(store, _query_vector(said), DEPTH, where, values)
    scores = _joined(lexical, near)
    used: Mode = mode if model is not None else "words"
    return _page(store, query, corrected, scores, looked, limit, offset, used)


def _everything(store: Store, query: str, where: str, values: Sequence[Any], limit: int, offset: int) -> Results:
    """Without a word to look for: all that the filters leave, newest first."""
    condition = f"WHERE {where}" if where else ""
    order = "ORDER BY d.year DESC, d.added DESC, d.id LIMIT ?"
    rows = store.read(f"SELECT d.id FROM documents d {condition} {order}", *values, 5 * DEPTH)
    scores = {int(row["id"]): 1.0 / rank for rank, row in enumerate(rows, 1)}
    return _page(store, query, {}, scores, [], limit, offset, "words")


def _page(
    store: Store,
    query: str,
    corrected: Mapping[str, str],
    scores: Mapping[int, float],
    looked: Sequence[tuple[str, bool]],
    limit: int,
    offset: int,
    mode: str,
) -> Results:
    ranked = sorted(scores, key=lambda document: (-scores[document], document))
    keys = _result_keys(store, ranked)
    first: dict[str, int] = {}
    for document in ranked:
        if document in keys:
            first.setdefault(keys[document], document)
    limit, offset = max(0, min(limit, MOST_RESULTS)), max(0, offset)
    chosen = dict(list(first.items())[offset : offset + limit])
    return Results(
        query, corrected, _hits(store, {k: (d, scores[d]) for k, d in chosen.items()}, looked), len(first), mode
    )


def _result_keys(store: Store, documents: Sequence[int]) -> dict[int, str]:
    """The key to show for each document: an imported paper that is in the catalogue is shown as the entry there."""
    found: dict[int, str] = {}
    for start in range(0, len(documents), 500):
        some = documents[start : start + 500]
        holes = ", ".join("?" * len(some))
        rows = store.read(f"SELECT id, key, paper FROM documents WHERE id IN ({holes})", *some)
        found |= {int(row["id"]): row["paper"] or row["key"] for row in rows}
    return found


_SHOWN = ("authors", "year", "family", "kind", "world", "axis", "origin", "arxiv", "added")


def _hits(store: Store, chosen: Mapping[str, tuple[int, float]], looked: Sequence[tuple[str, bool]]) -> list[Hit]:
    if not chosen:
        return []
    holes = ", ".join("?" * len(chosen))
    rows = {row["key"]: row for row in store.read(f"SELECT * FROM documents WHERE key IN ({holes})", *chosen)}
    tally = verdict_counts(store, list(chosen))
    documents = [int(row["id"]) for row in rows.values()]
    marked = store.dialect.marked(store.read, looked, documents)
    hits = []
    for key, (_, score) in chosen.items():
        row = rows.get(key)
        if row is None:
            continue
        title, question, body = marked.get(int(row["id"])) or (row["title"], row["question"], row["body"])
        fields = {name: row[name] for name in _SHOWN}
        hits.append(Hit(key, score, _pieces(title), _snippet(f"{question} {body}"), fields, tally.get(key, {})))
    return hits


def verdict_counts(store: Store, keys: Sequence[str]) -> dict[str, dict[str, int]]:
    """Number of recorded claims of papers, by verdict."""
    found: dict[str, dict[str, int]] = {}
    for start in range(0, len(keys), 500):
        some = keys[start : start + 500]
        holes = ", ".join("?" * len(some))
        sql = f"SELECT paper, verdict, count(*) AS n FROM verdicts WHERE paper IN ({holes}) GROUP BY paper, verdict"
        for row in store.read(sql, *some):
            found.setdefault(row["paper"], {})[row["verdict"]] = int(row["n"])
    return {key: {v: counts[v] for v in VERDICTS if v in counts} for key, counts in found.items()}


def _pieces(marked: str) -> Marked:
    found: Marked = []
    for i, part in enumerate(marked.split(MARK)):
        matched, closed, rest = part.partition(UNMARK)
        if i == 0 or not closed:
            found.append((part.replace(UNMARK, ""), False))
        else:
            found += [(matched, True), (rest, False)]
    return [(piece, matched) for piece, matched in found if piece]


def _snippet(marked: str) -> Marked:
    """The stretch of words with the most marks, from the beginning of a sentence if there is one near."""
    split = marked.split()
    if len(split) <= _SNIPPET_WORDS:
        return _pieces(" ".join(split))
    sums = list(itertools.accumulate((word.count(MARK) for word in split), initial=0))
    starts = range(len(split) - _SNIPPET_WORDS + 1)
    best = max(starts, key=lambda i: (sums[i + _SNIPPET_WORDS] - sums[i], -i))
    for back in range(min(best, 8)):
        if split[best - back - 1].rstrip(UNMARK).endswith((".", "?", "!")):
            best -= back
            break
    piece = " ".join(split[best : best + _SNIPPET_WORDS])
    return _pieces(("… " if best else "") + piece + (" …" if best + _SNIPPET_WORDS < len(split) else ""))


# Words -----------------------------------------------------------------------------------------------------


def _corrections(store: Store, wanted: Sequence[str], typing: bool) -> dict[str, str]:
    """For each mistyped word the nearest one that some document contains, if one is near.

    Mistyped is what no document contains and what is no word of the embedding model's vocabulary.
    """
    found = {}
    model = embedding.embedder()
    for i, word in enumerate(wanted):
        prefix = typing and i == len(wanted) - 1
        if len(word) < 4 or len(word) > 30 or not word.isalpha():
            continue
        if model is not None and model.is_word(word):
            continue
        if store.dialect.count(store.read, word, prefix, 1):
            continue
        close = _closest(store, word)
        if close:
            found[word] = close
    return found


def _completions(store: Store, begun: str) -> list[str]:
    """Known words that begin so, the shortest first: the index knows stems only, and a stem may be shorter."""
    rows = store.read(
        "SELECT word FROM words WHERE word >= ? AND word < ? ORDER BY length(word), word LIMIT ?",
        *(begun, begun + "\U0010ffff", MOST_COMPLETIONS),
    )
    return [row["word"] for row in rows]


def _closest(store: Store, word: str) -> str | None:
    most = 1 if len(word) <= 7 else 2
    parts = text.trigrams(word)
    holes = ", ".join("?" * len(parts))
    rows = store.read(
        f"SELECT word, count(*) AS n FROM trigrams WHERE trigram IN ({holes}) GROUP BY word ORDER BY n DESC LIMIT 60",
        *parts,
    )
    near = [
        (text.edits(word, row["word"], most), -row["n"], row["word"])
        for row in rows
        if row["word"][0] in word[:2] and row["word"] not in text.STOP_WORDS  # slips spare the beginning
    ]
    return min((entry for entry in near if entry[0] <= most), default=(0, 0, None))[-1]


def _affordable(store: Store, looked: Sequence[tuple[str, bool]]) -> tuple[list[tuple[str, bool]], bool]:
    """In a very large database, the rarer words: those in most documents say little and cost most.

    Where all are in most, all of them, and True: only documents with every one are compared then.
    """
    if not isinstance(store.dialect, Sqlite) or vectors_of(store).size < MOST_POSTINGS:
        return list(looked), False
    most = MOST_POSTINGS + 1
    counted = sorted((store.dialect.count(store.read, word, False, most), i) for i, (word, _) in enumerate(looked))
    if counted[0][0] > MOST_POSTINGS:
        return list(looked), True
    kept, budget = [], MOST_POSTINGS
    for count, i in counted:
        if count > budget:
            break
        kept.append(i)
        budget -= count
    return [looked[i] for i in sorted(kept)], False


# Meaning ---------------------------------------------------------------------------------------------------


class Vectors:
    """The embeddings of a database in memory, kept up to date.

    From some ten thousand documents on a query is first compared with the signs of all vectors (one bit a number,
    Hamming distance), and exactly with the nearest two thousand only.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamp: str | None = None
        self.ids = np.zeros(0, np.int64)
        self._matrix = np.zeros((0, embedding.WIDTH), np.float32)
        self._signs = np.zeros((embedding.WIDTH // 64, 0), np.uint64)

    @property
    def size(self) -> int:
        """Number of documents."""
        return len(self.ids)

    def refresh(self, store: Store) -> Vectors:
        """Read what another process or thread has written since."""
        stamp = store.fact("vectors") or ""
        if stamp == self._stamp:
            return self
        with self._lock:
            if stamp == self._stamp:
                return self
            rows = store.read("SELECT document, vector FROM vectors ORDER BY document")
            ids = np.fromiter((row["document"] for row in rows), np.int64, len(rows))
            matrix = np.frombuffer(b"".join(row["vector"] for row in rows), "<f2").reshape(len(rows), embedding.WIDTH)
            is_large = len(rows) >= COARSE_FROM
            self._signs = signs(matrix) if is_large else np.zeros((embedding.WIDTH // 64, 0), np.uint64)
            self.ids, self._matrix = ids, matrix if is_large else matrix.astype(np.float32)
            self._stamp = stamp
        return self

    def nearest(self, vector: np.ndarray, limit: int, among: np.ndarray | None = None) -> list[tuple[int, float]]:
        """Documents with their cosines, best first; `among` limits them to some ids."""
        ids, matrix, packed_signs = self.ids, self._matrix, self._signs
        if not len(ids):
            return []
        chosen = np.arange(len(ids)) if among is None else np.flatnonzero(np.isin(ids, among))
        if len(chosen) >= COARSE_FROM and packed_signs.shape[1] == len(ids):
            candidates = packed_signs if among is None else packed_signs[:, chosen]
            distance = _hamming(candidates, signs(vector[None])[:, 0])
            chosen = chosen[np.argpartition(distance, COARSE_DEPTH)[:COARSE_DEPTH]]
        some = matrix if len(chosen) == len(ids) else matrix[chosen]
        cosines = some.astype(np.float32, copy=False) @ vector
        best = np.argsort(-cosines, kind="stable")[:limit]
        return [(int(ids[chosen[i]]), float(cosines[i])) for i in best]


def _hamming(packed: np.ndarray, one: np.ndarray, block: int = 16_384) -> np.ndarray:
    """Number of signs that differ from those of one vector, `[n]`; in blocks that stay in a processor's cache."""
    found = np.zeros(packed.shape[1], np.uint16)
    for start in range(0, len(found), block):
        some = slice(start, start + block)
        for row, bits in zip(packed, one, strict=True):
            found[some] += np.bitwise_count(row[some] ^ bits)
    return found


def signs(vectors: np.ndarray) -> np.ndarray:
    """One bit a number: whether it is positive; `[6, n]` uint64."""
    return np.ascontiguousarray(np.packbits(vectors > 0, axis=1).view(np.uint64).T)


_OPEN: dict[str, Vectors] = {}
_OPEN_LOCK = threading.Lock()


def vectors_of(store: Store) -> Vectors:
    """The embeddings of a database, read once a process."""
    with _OPEN_LOCK:
        found = _OPEN.setdefault(store.url, Vectors())
    return found.refresh(store) if isinstance(store.dialect, Sqlite) else found


def nearest(
    store: Store, vector: np.ndarray, limit: int, where: str = "", values: Sequence[Any] = ()
) -> list[tuple[int, float]]:
    """Documents by the cosine of their embeddings with a unit vector, best first."""
    found = store.dialect.nearest(store.read, vector, where, values, limit)
    if found is not None:
        return found
    among = None
    if where:
        rows = store.read(f"SELECT d.id FROM documents d WHERE {where}", *values)
        among = np.fromiter((row["id"] for row in rows), np.int64, len(rows))
    return vectors_of(store).nearest(vector, limit, among)


def prepare(query: str) -> None:
    """Compute the embedding of a query, so that a search for it that follows finds it there."""
    query = text.clean(query, text.LONGEST_QUERY)
    if text.terms(query) and embedding.embedder() is not None:
        _query_vector(query)


@functools.lru_cache(maxsize=512)
def _query_vector_bytes(said: str) -> bytes:
    model = embedding.embedder()
    assert model is not None
    return model.encode([said])[0].tobytes()


def _query_vector(said: str) -> np.ndarray:
    return np.frombuffer(_query_vector_bytes(said), np.float32)


def _joined(lexical: Sequence[tuple[int, float]], near: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Scores of what was found by words, and of what was found by meaning alone if it is near enough."""
    cosines = dict(near)
    least = max(LEAST_COSINE, LEAST_SHARE * near[0][1]) if near else 0.0
    farthest = min(cosines.values(), default=0.0)  # what is not among the nearest is no nearer than the last of them
    highest = max((score for _, score in lexical), default=0.0)
    found = {document: MEANING_WEIGHT * cosine for document, cosine in near if cosine >= least}
    for document, score in lexical:
        found[document] = (score / max(highest, 1e-9)) ** WORDS_POWER + MEANING_WEIGHT * cosines.get(document, farthest)
    return found


# Around a paper --------------------------------------------------------------------------------------------


def vector_of(store: Store, key: str) -> np.ndarray | None:
    """The embedding of a paper, None if there is none yet."""
    rows = store.read("SELECT v.vector FROM vectors v JOIN documents d ON d.id = v.document WHERE d.key = ?", key)
    return unpack(rows[0]["vector"]) if rows else None


def unpack(kept: Any) -> np.ndarray:
    """A vector as the database keeps it: half precision, or pgvector's text."""
    if isinstance(kept, bytes | memoryview):
        return np.frombuffer(kept, "<f2").astype(np.float32)
    return np.array([float(x) for x in str(kept).strip("[]").split(",")], np.float32)


def similar(store: Store, key: str, limit: int = 6, origin: str = "catalogue") -> list[tuple[str, float]]:
    """Papers whose embeddings are nearest to a paper's, with the cosines; itself and its own imports left out."""
    vector = vector_of(store, key)
    if vector is None:
        return []
    where = "d.origin = ? AND d.key <> ?" + (" AND d.paper = ''" if origin == "imported" else "")
    found = nearest(store, vector, limit, where, [origin, key])
    keys = _result_keys(store, [document for document, _ in found])
    return [(keys[document], cosine) for document, cosine in found if document in keys and keys[document] != key]


def nearest_claims(store: Store, key: str, limit: int = 5) -> list[tuple[str, str, float]]:
    """Registered claims whose sentences are nearest to a paper: (paper, claim, cosine)."""
    vector = vector_of(store, key)
    rows = store.read("SELECT paper, claim, vector FROM claim_vectors") if vector is not None else []
    if vector is None or not rows:
        return []
    cosines = np.stack([unpack(row["vector"]) for row in rows]) @ vector
    best = np.argsort(-cosines, kind="stable")[:limit]
    return [(rows[i]["paper"], rows[i]["claim"], float(cosines[i])) for i in best]
