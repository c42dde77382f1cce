"""What the database holds of the catalogue: indexed on first use, and again when papers or results change."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from unseen.atlas import catalogue, embedding, recorded, text
from unseen.atlas.store import COLUMNS, Run, Store

PACKED = Path(__file__).with_name("embeddings.npz")
REVISION = "1"  # of what is indexed and how: another one makes every database index the catalogue again
FEW = 32  # embeddings that a search computes on the way; more wait for `unseen import` or `unseen serve`
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Document:
    """A paper as the search sees it: an entry of the catalogue, or one that was imported."""

    key: str
    origin: str  # "catalogue" or "imported"
    title: str
    authors: str = ""
    year: int = 0
    arxiv: str = ""
    url: str = ""
    family: str = ""
    kind: str = ""
    world: str = ""
    axis: str = ""
    question: str = ""
    body: str = ""  # our summary, or the abstract
    rest: str = ""  # what is searched but not shown: claims, components, authors
    paper: str = ""  # for an imported one: the entry of the catalogue that is the same paper
    source: str = ""

    @property
    def embedded(self) -> str:
        """The text whose embedding stands for it."""
        return f"{self.title}. {self.question} {self.body}".strip()

    @property
    def digest(self) -> str:
        """What changes when something in it changes."""
        return text.digest(*(str(value) for value in dataclasses.astuple(self)))


# Writing ---------------------------------------------------------------------------------------------------


def put(run: Run, store: Store, document: Document) -> str:
    """Write a document in an open transaction: "new", "updated", or "same" if it was there as it is."""
    found = run("SELECT id, digest FROM documents WHERE key = ?", document.key)
    if found and found[0]["digest"] == document.digest:
        return "same"
    names = [field.name for field in dataclasses.fields(document)]
    values = list(dataclasses.astuple(document))
    extra = {"title_key": text.title_key(document.title), "digest": document.digest}
    if found:
        sets = ", ".join(f"{name} = ?" for name in [*names, *extra])
        run(f"UPDATE documents SET {sets} WHERE id = ?", *values, *extra.values(), found[0]["id"])
        number = int(found[0]["id"])
    else:
        extra["added"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        columns = [*names, *extra]
        holes = ", ".join("?" * len(columns))
        rows = run(
            f"INSERT INTO documents({', '.join(columns)}) VALUES ({holes}) RETURNING id", *values, *extra.values()
        )
        number = int(rows[0]["id"])
    fields = (document.title, document.question, document.body, f"{document.rest} {document.authors} {document.arxiv}")
    assert len(fields) == len(COLUMNS)
    store.dialect.index(run, number, fields)
    _learn(run, store, " ".join(fields))
    return "updated" if found else "new"


def _learn(run: Run, store: Store, said: str) -> None:
    """Remember the words that a mistyped one may have meant."""
    fresh = []
    for word in set(text.words(said)):
        spelled = 4 <= len(word) <= 30 and word.isalpha()
        if spelled and run("INSERT INTO words(word) VALUES (?) ON CONFLICT DO NOTHING RETURNING word", word):
            fresh += [(part, word) for part in text.trigrams(word)]
    store.write_many("INSERT INTO trigrams(trigram, word) VALUES (?, ?)", fresh)


def entry_document(entry: catalogue.Paper) -> Document:
    """An entry of the catalogue as a document."""
    claims = " ".join(claim.says for claim in entry.claims)
    rest = [entry.key, claims, entry.axis, entry.world, entry.kind, entry.real, " ".join(entry.components)]
    return Document(
        key=entry.key,
        origin="catalogue",
        title=entry.title,
        authors=entry.authors,
        year=entry.year,
        arxiv=entry.arxiv,
        url=f"https://arxiv.org/abs/{entry.arxiv}" if entry.arxiv else "",
        family=entry.family,
        kind=entry.kind,
        world=entry.world,
        axis=entry.axis,
        question=entry.question,
        body=entry.summary,
        rest=" ".join(rest),
    )


def _state() -> str:
    """What changes when a file of the catalogue or a recorded result changes; reads no file."""
    files = [*catalogue.PAPERS.glob("*.toml"), *recorded.RESULTS.glob("*/*.json")]
    stats = ((file, file.stat()) for file in sorted(files))
    return text.digest(REVISION, *(f"{file} {stat.st_mtime_ns} {stat.st_size}" for file, stat in stats))


def sync(store: Store) -> bool:
    """Bring the catalogue into the database if it has changed; True if it had.

    Embeddings come from those packed with the project; what has changed since is left to `embed`.
    """
    state = _state()
    if store.fact("catalogue") == state:
        return False
    entries = catalogue.papers()
    with store.write() as run:
        for entry in entries.values():
            put(run, store, entry_document(entry))
        for row in run("SELECT id, key FROM documents WHERE origin = 'catalogue'"):
            if row["key"] not in entries:
                _remove(run, store, row["id"])
        _sync_verdicts(run, entries)
        _take_packed(run, store, entries)
        store.set_fact("catalogue", state, run)
    return True


def _remove(run: Run, store: Store, document: int) -> None:
    store.dialect.index(run, document, [""] * len(COLUMNS))
    run("DELETE FROM vectors WHERE document = ?", document)
    run("DELETE FROM documents WHERE id = ?", document)


def _sync_verdicts(run: Run, entries: Iterable[str]) -> None:
    before = {(row["paper"], row["claim"]): row for row in run("SELECT * FROM verdicts")}
    run("DELETE FROM verdicts")
    for key in entries:
        result = recorded.recorded(key)
        for v in result.verdicts if result else ():
            old = before.get((key, v.claim))
            is_same = (
                old is not None and result is not None and (old["date"], old["verdict"]) == (result.date, v.verdict)
            )
            since = old["since"] if is_same and old else _seconds(result.date if result else "")
            effect, low, high = (_finite(x) for x in (v.effect, v.low, v.high))
            run(
                "INSERT INTO verdicts(paper, claim, verdict, effect, low, high, n, date, since) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *(key, v.claim, v.verdict, effect, low, high, v.n, result.date if result else "", since),
            )


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _seconds(date: str) -> float:
    try:
        return time.mktime(time.strptime(date, "%Y-%m-%d"))
    except ValueError:
        return 0.0


# Embeddings ------------------------------------------------------------------------------------------------


def vector_digest(said: str) -> str:
    """The address of a text's embedding: the text and the model."""
    return text.digest(embedding.NAME, said)


@functools.lru_cache(maxsize=1)
def packed() -> dict[str, np.ndarray]:
    """The embeddings that come with the project, unit vectors by the digest of their text."""
    if not PACKED.is_file():
        return {}
    with np.load(PACKED, allow_pickle=False) as archive:
        vectors = archive["vectors"].astype(np.float32) * archive["scales"][:, None]
        digests = archive["digests"].tolist()
    return dict(zip(digests, vectors, strict=True))


def write_packed() -> int:
    """Compute the embeddings of the whole catalogue and write the file that comes with the project.

    Kept are eight bits a number with a scale for each vector: a cosine changes by less than 0.002.
    """
    model = embedding.embedder()
    assert model is not None, f"The weights are missing: {embedding.EXTRA}"
    entries = catalogue.papers().values()
    said = [entry_document(entry).embedded for entry in entries]
    said += [claim.says for entry in entries for claim in entry.claims]
    said = list(dict.fromkeys(said))
    known = packed()
    fresh = [s for s in said if vector_digest(s) not in known]
    made = dict(zip(map(vector_digest, fresh), model.encode(fresh), strict=True))
    vectors = np.stack([made.get(vector_digest(s), known.get(vector_digest(s))) for s in said])
    scales = (np.abs(vectors).max(1) / 127).astype(np.float32)
    rounded = np.round(vectors / scales[:, None]).astype(np.int8)
    digests = np.array([vector_digest(s) for s in said])
    np.savez_compressed(PACKED, vectors=rounded, scales=scales, digests=digests)
    packed.cache_clear()
    return len(said)


def _take_packed(run: Run, store: Store, entries: dict[str, catalogue.Paper]) -> None:
    known = packed()
    have = {row["document"]: row["digest"] for row in run("SELECT document, digest FROM vectors")}
    for row in run("SELECT id, key FROM documents WHERE origin = 'catalogue'"):
        address = vector_digest(entry_document(entries[row["key"]]).embedded)
        if have.get(row["id"]) != address and address in known:
            put_vector(run, store, row["id"], address, known[address])
    old = {(row["paper"], row["claim"]): row["digest"] for row in run("SELECT paper, claim, digest FROM claim_vectors")}
    for entry in entries.values():
        for claim in entry.claims:
            address = vector_digest(claim.says)
            if old.get((entry.key, claim.id)) != address and address in known:
                _put_claim_vector(run, store, entry.key, claim.id, address, known[address])


def put_vector(run: Run, store: Store, document: int, address: str, vector: np.ndarray) -> None:
    """Keep the embedding of a document, in the place of an older one."""
    run(
        "INSERT INTO vectors(document, digest, vector) VALUES (?, ?, ?) ON CONFLICT (document) "
        "DO UPDATE SET digest = excluded.digest, vector = excluded.vector",
        *(document, address, store.dialect.pack(vector)),
    )
    run(
        "INSERT INTO meta(name, value) VALUES ('vectors', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        str(time.time_ns()),
    )


def _put_claim_vector(run: Run, store: Store, paper: str, claim: str, address: str, vector: np.ndarray) -> None:
    run(
        "INSERT INTO claim_vectors(paper, claim, digest, vector) VALUES (?, ?, ?, ?) ON CONFLICT (paper, claim) "
        "DO UPDATE SET digest = excluded.digest, vector = excluded.vector",
        *(paper, claim, address, store.dialect.pack(vector)),
    )


def missing(store: Store) -> list[tuple[int, str]]:
    """Documents without an embedding of their present text, with that text."""
    have = {row["document"]: row["digest"] for row in store.read("SELECT document, digest FROM vectors")}
    found = []
    for row in store.read("SELECT id, title, question, body FROM documents ORDER BY id"):
        said = f"{row['title']}. {row['question']} {row['body']}".strip()
        if have.get(row["id"]) != vector_digest(said):
            found.append((int(row["id"]), said))
    return found


def embed(store: Store, most: int | None = None, tell: Callable[[int, int], None] | None = None) -> int:
    """Compute the embeddings that are missing, a transaction every few; returns how many it did.

    Without the weights it does nothing. `tell(done, all)` hears of the progress.
    """
    if embedding.folder() is None:
        return 0
    waiting = missing(store)
    claims = _missing_claims(store)
    if not (waiting or claims) or (most is not None and len(waiting) + len(claims) > most):
        return 0
    model = embedding.embedder()
    assert model is not None
    done, total = 0, len(waiting) + len(claims)
    for chunk in _chunks(waiting):
        vectors = model.encode([said for _, said in chunk])
        with store.write() as run:
            for (document, said), vector in zip(chunk, vectors, strict=True):
                put_vector(run, store, document, vector_digest(said), vector)
        done += len(chunk)
        if tell:
            tell(done, total)
    for batch in _chunks(claims):
        vectors = model.encode([said for _, _, said in batch])
        with store.write() as run:
            for (paper, claim, said), vector in zip(batch, vectors, strict=True):
                _put_claim_vector(run, store, paper, claim, vector_digest(said), vector)
        done += len(batch)
        if tell:
            tell(done, total)
    return done


def _missing_claims(store: Store) -> list[tuple[str, str, str]]:
    rows = store.read("SELECT paper, claim, digest FROM claim_vectors")
    have = {(row["paper"], row["claim"]): row["digest"] for row in rows}
    return [
        (entry.key, claim.id, claim.says)
        for entry in catalogue.papers().values()
        for claim in entry.claims
        if have.get((entry.key, claim.id)) != vector_digest(claim.says)
    ]


def _chunks(things: Sequence) -> Iterable[Sequence]:
    return (things[i : i + _BATCH] for i in range(0, len(things), _BATCH))


if __name__ == "__main__":
    print(f"{write_packed()} embeddings in {PACKED}")
