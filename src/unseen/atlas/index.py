"""What the database holds of the catalogue: indexed on first use, and again when papers or results change."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unseen.atlas import catalogue, recorded, text
from unseen.atlas.store import COLUMNS, Run, Store
from unseen.worlds import sentence_embedding as embedding

PACKED = Path(__file__).with_name("embeddings.npz")
REVISION = "1"  # of what is indexed and how: another one makes every database index the catalogue again
_BATCH = 500  # embeddings in one transaction


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
    def embedded(self) -> tuple[str, str, str]:
        """The texts whose embedding stands for it."""
        return (self.title, self.question, self.body)

    @property
    def digest(self) -> str:
        """What changes when something in it changes."""
        return text.digest(*(str(value) for value in self.values))

    @property
    def values(self) -> list[Any]:
        """All fields, in order."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


# Writing ---------------------------------------------------------------------------------------------------


def put(run: Run, store: Store, document: Document) -> str:
    """Write a document in an open transaction: "new", "updated", or "same" if it was there as it is."""
    found = run("SELECT id, digest FROM documents WHERE key = ?", document.key)
    if found and found[0]["digest"] == document.digest:
        return "same"
    names = [field.name for field in dataclasses.fields(document)]
    values = document.values
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
    spelled = sorted({word for word in text.words(said) if 4 <= len(word) <= 30 and word.isalpha()})
    known: set[str] = set()
    for start in range(0, len(spelled), 500):
        some = spelled[start : start + 500]
        known |= {
            row["word"] for row in run(f"SELECT word FROM words WHERE word IN ({', '.join('?' * len(some))})", *some)
        }
    fresh = []
    for word in spelled:
        if word in known:
            continue
        if run("INSERT INTO words(word) VALUES (?) ON CONFLICT DO NOTHING RETURNING word", word):
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
    model = embedding.NAME if embedding.folder() else ""
    return text.digest(REVISION, model, *(f"{file} {stat.st_mtime_ns} {stat.st_size}" for file, stat in stats))


def sync(store: Store) -> bool:
    """Bring the catalogue into the database if it, the results or the model have changed; True if they had.

    With its embeddings, if the model is installed; those of imported papers are left to `embed`.
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
        if store.fact("model") != embedding.NAME:  # vectors of two models cannot be compared
            run("DELETE FROM vectors")
            run("DELETE FROM claim_vectors")
            store.set_fact("model", embedding.NAME, run)
        model = embedding.embedder()
        if model is not None:
            _put_vectors(run, store, model, missing(store, "catalogue"))
            _put_claim_vectors(run, store, model, _missing_claims(store))
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


def vector_digest(*said: str) -> str:
    """The address of an embedding: the texts and the model."""
    return text.digest(embedding.NAME, *said)


def put_vector(run: Run, store: Store, document: int, address: str, vector: np.ndarray) -> None:
    """Keep the embedding of a document, in the place of an older one."""
    run(
        "INSERT INTO vectors(document, digest, vector) VALUES (?, ?, ?) ON CONFLICT (document) "
        "DO UPDATE SET digest = excluded.digest, vector = excluded.vector",
        *(document, address, store.dialect.pack(vector)),
    )


def vectors_changed(run: Run, store: Store) -> None:
    """Tell processes that hold the vectors in memory to read them again; in an open transaction."""
    store.set_fact("vectors", str(time.time_ns()), run)


Texts = tuple[str, str, str]


def missing(store: Store, origin: str = "") -> list[tuple[int, Texts]]:
    """Documents (of one origin) without an embedding of their present texts, with those texts."""
    have = {row["document"]: row["digest"] for row in store.read("SELECT document, digest FROM vectors")}
    found = []
    sql = f"SELECT id, title, question, body FROM documents {'WHERE origin = ?' if origin else ''} ORDER BY id"
    for row in store.read(sql, *([origin] if origin else [])):
        said = (row["title"], row["question"], row["body"])
        if have.get(row["id"]) != vector_digest(*said):
            found.append((int(row["id"]), said))
    return found


def _missing_claims(store: Store) -> list[tuple[str, str, str]]:
    rows = store.read("SELECT paper, claim, digest FROM claim_vectors")
    have = {(row["paper"], row["claim"]): row["digest"] for row in rows}
    return [
        (entry.key, claim.id, claim.says)
        for entry in catalogue.papers().values()
        for claim in entry.claims
        if have.get((entry.key, claim.id)) != vector_digest(claim.says)
    ]


@functools.lru_cache(maxsize=1)
def packed() -> dict[str, np.ndarray]:
    """The catalogue's embeddings that come with the project, unit vectors by their addresses.

    Computing them takes a quarter of a minute, which a first search should not. Eight bits a number, with a scale for
    each vector: a cosine changes by less than 0.002.
    """
    if not PACKED.is_file():
        return {}
    with np.load(PACKED, allow_pickle=False) as archive:
        vectors = archive["vectors"].astype(np.float32) * archive["scales"][:, None]
        return dict(zip(archive["addresses"].tolist(), vectors, strict=True))


def write_packed(model: embedding.Embedder, file: Path = PACKED) -> int:
    """Compute the embeddings of the whole catalogue and write the file that comes with the project."""
    entries = catalogue.papers().values()
    papers = [entry_document(entry).embedded for entry in entries]
    claims = list(dict.fromkeys(claim.says for entry in entries for claim in entry.claims))
    vectors = np.concatenate([model.papers(papers), model.encode(claims)])
    addresses = [vector_digest(*said) for said in papers] + [vector_digest(said) for said in claims]
    scales = (np.abs(vectors).max(1) / 127).astype(np.float32)
    rounded = np.round(vectors / scales[:, None]).astype(np.int8)
    np.savez_compressed(file, vectors=rounded, scales=scales, addresses=np.array(addresses))
    packed.cache_clear()
    return len(vectors)


def _addressed(
    said: Sequence[tuple[str, ...]], compute: Callable[[list[Any]], np.ndarray]
) -> list[tuple[str, np.ndarray]]:
    """Address and embedding of each: the one that comes with the project, or else computed."""
    addresses, known = [vector_digest(*one) for one in said], packed()
    fresh = {address: one for address, one in zip(addresses, said, strict=True) if address not in known}
    made = dict(zip(fresh, compute(list(fresh.values())), strict=True))
    return [(address, made[address] if address in made else known[address]) for address in addresses]


def _put_vectors(run: Run, store: Store, model: embedding.Embedder, waiting: Sequence[tuple[int, Texts]]) -> None:
    found = _addressed([said for _, said in waiting], model.papers)
    for (document, _), (address, vector) in zip(waiting, found, strict=True):
        put_vector(run, store, document, address, vector)
    if waiting:
        vectors_changed(run, store)


def _put_claim_vectors(
    run: Run, store: Store, model: embedding.Embedder, waiting: Sequence[tuple[str, str, str]]
) -> None:
    found = _addressed([(said,) for _, _, said in waiting], lambda fresh: model.encode([said for (said,) in fresh]))
    for (paper, claim, _), (address, vector) in zip(waiting, found, strict=True):
        run(
            "INSERT INTO claim_vectors(paper, claim, digest, vector) VALUES (?, ?, ?, ?) ON CONFLICT (paper, claim) "
            "DO UPDATE SET digest = excluded.digest, vector = excluded.vector",
            *(paper, claim, address, store.dialect.pack(vector)),
        )


def embed(store: Store, tell: Callable[[int, int], None] | None = None) -> int:
    """Compute the embeddings that documents lack, a transaction for every 500; returns how many it did.

    Without the model it does nothing. `tell(done, all)` hears of the progress.
    """
    model = embedding.embedder()
    if model is None:
        return 0
    waiting = missing(store)
    for start in range(0, len(waiting), _BATCH):
        chunk = waiting[start : start + _BATCH]
        with store.write() as run:
            _put_vectors(run, store, model, chunk)
        if tell:
            tell(start + len(chunk), len(waiting))
    return len(waiting)


if __name__ == "__main__":  # after a change of the catalogue's texts or of the model
    installed = embedding.embedder()
    if installed is None:
        raise SystemExit(f"The model is missing: {embedding.EXTRA}")
    print(f"{write_packed(installed)} embeddings in {PACKED}")
