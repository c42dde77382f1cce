"""The atlas's speed: a search at 207, 10,000 and 1,000,000 documents, reads a second, digests a second.

Documents beyond the catalogue are synthetic: words drawn by their frequency in the catalogue, and as embedding a
real one with noise. Everything is on this machine, through the same functions that the pages call.

python -m benchmarks.atlas search|serve|digest [--write] [--tiny]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from benchmarks.report import PAGE, Result, markdown, show, write
from benchmarks.retrieval import questions
from unseen.atlas import catalogue, digest, embedding, follow, index, search, text, web
from unseen.atlas.store import Store
from unseen.atlas.tokens import Tokens

CHUNK = 5_000  # documents in one transaction
VOCABULARY = 60_000  # words; those beyond the catalogue's are made up


def percentiles(seconds: list[float]) -> list[str]:
    """p50 and p99 in milliseconds."""
    return [f"{1e3 * float(np.percentile(seconds, p)):.1f} ms" for p in (50, 99)]


# Search ----------------------------------------------------------------------------------------------------


def synthetic(count: int) -> Iterator[tuple[index.Document, np.ndarray]]:
    """Documents of about 120 words with unit vectors."""
    rng = np.random.default_rng(0)
    entries = [index.entry_document(entry) for entry in catalogue.papers().values()]
    counted = Counter(word for d in entries for word in text.words(f"{d.title} {d.question} {d.body}"))
    words = np.array([*counted, *(_word(i) for i in range(VOCABULARY - len(counted)))])
    ranks = np.arange(1, len(words) + 1)
    order = np.argsort(-np.array([*counted.values(), *[0] * (len(words) - len(counted))]), kind="stable")
    shares = np.empty(len(words))
    shares[order] = 1 / ranks
    cumulated = np.cumsum(shares / shares.sum())
    model = embedding.embedder()
    assert model is not None, embedding.EXTRA
    real = model.papers([entry.embedded for entry in entries])
    for i in range(count):
        chosen = words[np.searchsorted(cumulated, rng.random(120)).clip(0, len(words) - 1)].tolist()
        vector = real[rng.integers(len(real))] + 0.05 * rng.normal(size=embedding.WIDTH).astype(np.float32)
        title = f"{' '.join(chosen[:9])} {i}"
        yield (
            index.Document(f"i-{i:012d}", "imported", title, year=2000 + i % 27, body=" ".join(chosen[9:])),
            vector / np.linalg.norm(vector),
        )


def _word(i: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(letters[(i // 26**k) % 26] for k in range(4)) + letters[i % 26]


def fill(store: Store, count: int) -> float:
    """Index documents until there are `count`; returns the seconds it took."""
    start = time.perf_counter()
    index.sync(store)
    made = synthetic(max(0, count - len(catalogue.papers())))
    while chunk := list(itertools.islice(made, CHUNK)):
        with store.write() as run:
            for document, vector in chunk:
                index.put(run, store, document)
                number = run("SELECT id FROM documents WHERE key = ?", document.key)[0]["id"]
                index.put_vector(run, store, number, index.vector_digest(*document.embedded), vector)
            index.vectors_changed(run, store)
    return time.perf_counter() - start


def measure_search(tiny: bool) -> Result:
    """Latency of the function that answers `/search`, each question new to the process."""
    rows = []
    asked = [question for question, _ in questions()][: 12 if tiny else None]
    for count in (207, 500) if tiny else (207, 10_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "atlas.db")
            built = fill(store, count)
            search.search(store, "warm up")
            seconds = []
            for question in asked:
                start = time.perf_counter()
                search.search(store, question)
                seconds.append(time.perf_counter() - start)
            size = (Path(folder) / "atlas.db").stat().st_size / 2**20
            store.close()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        rows.append([f"{count:,}", *percentiles(seconds), f"{built:.1f} s", f"{size:,.0f} MiB", f"{memory:,.0f} MiB"])
    return Result(
        "atlas-search",
        "Hybrid search",
        ("documents", "p50", "p99", "index built in", "file", "peak memory so far"),
        rows,
        (f"{len(asked)} questions of the retrieval benchmark, each asked once, embedding of the question included.",),
    )


# Reads -----------------------------------------------------------------------------------------------------


def measure_serve(tiny: bool) -> Result:
    """Mixed reads at a fixed rate against a real server on loopback."""
    rate, length = (20, 2) if tiny else (200, 60)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "atlas.db")
        index.sync(store)
        with _served(store) as base:
            seconds, failed = asyncio.run(_load(base, rate, rate * length))
    rows = [[f"{rate}/s for {length} s", str(len(seconds)), str(failed), *percentiles(seconds)]]
    note = "Half are searches, the rest papers, the front page, verdicts and feeds; server and client share the cores."
    return Result("atlas-serve", "Mixed reads", ("rate", "requests", "errors", "p50", "p99"), rows, (note,))


class _served:
    def __init__(self, store: Store):
        import uvicorn

        config = uvicorn.Config(web.application(web.Site(store)), "127.0.0.1", 0, log_level="error", access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.02)
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


async def _load(base: str, rate: int, total: int) -> tuple[list[float], int]:
    import httpx2 as httpx

    keys = list(catalogue.papers())
    asked = [question for question, _ in questions()]
    paths: list[Callable[[int], str]] = [
        lambda i: web.url("/search", q=f"{asked[i % len(asked)]} {i}"),
        lambda i: f"/papers/{keys[i % len(keys)]}",
        lambda i: web.url("/search.json", q=asked[i % len(asked)]),
        lambda i: ("/", "/verdicts", "/families", web.url("/search.atom", q=asked[i % len(asked)]))[i // 4 % 4],
    ]
    seconds: list[float] = []
    failed = 0
    async with httpx.AsyncClient(base_url=base, timeout=30, limits=httpx.Limits(max_connections=100)) as client:

        async def one(i: int) -> None:
            nonlocal failed
            start = time.perf_counter()
            try:
                answer = await client.get(paths[i % 4](i))
                failed += answer.status_code != 200
            except httpx.HTTPError:
                failed += 1
            seconds.append(time.perf_counter() - start)

        started = time.perf_counter()
        tasks = []
        for i in range(total):
            await asyncio.sleep(max(0.0, started + i / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(one(i)))
        await asyncio.gather(*tasks)
    return seconds, failed


# Digests ---------------------------------------------------------------------------------------------------


def measure_digest(tiny: bool) -> Result:
    """Composing digests, text and HTML, for subscribers who follow one of the benchmark's questions each."""
    count = 200 if tiny else 100_000
    asked = [question for question, _ in questions()]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "atlas.db")
        index.sync(store)
        with store.write() as run:
            for i in range(count):
                run(
                    "INSERT INTO subscribers(email, confirmed, every, created) VALUES (?, 1, 'day', 0)",
                    f"reader{i}@example.org",
                )
                run(
                    "INSERT INTO follows(subscriber, query, filters, confirmed, created) VALUES (?, ?, '{}', 1, 0)",
                    *(i + 1, asked[i % len(asked)]),
                )
        start = time.perf_counter()
        made = sum(len(one.mail) > 0 for one in digest.compose_all(store, "https://x", "a@b.org", web.today()))
        taken = time.perf_counter() - start
        assert follow.unsubscribe_token(Tokens(store), "reader0@example.org")
    rows = [[f"{count:,}", f"{made:,}", f"{taken:.1f} s", f"{made / taken:,.0f}/s"]]
    return Result("atlas-digest", "Digests composed", ("subscribers", "digests", "time", "rate"), rows)


MEASURES = {"search": measure_search, "serve": measure_serve, "digest": measure_digest}


def main() -> int:
    """One of the measurements."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("what", choices=list(MEASURES))
    options.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options.add_argument("--tiny", action="store_true", help="sizes of a test: the numbers mean nothing")
    given = options.parse_args()
    result = MEASURES[given.what](given.tiny)
    show(result)
    if given.write:
        write(result.name, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
