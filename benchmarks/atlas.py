"""The atlas's speed: searches at 207, 10,000 and 1,000,000 documents, mixed reads a second, digests a second.

Documents beyond the catalogue are synthetic: words drawn by their frequency in the catalogue, and as embedding that of
a real paper with noise. Everything is on this machine.

python -m benchmarks.atlas search|million|serve|digest [--write] [--tiny] [--keep FOLDER]
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from benchmarks.report import Result, markdown, parser, show, write
from benchmarks.retrieval import questions
from unseen.atlas import catalogue, digest, index, search, text, web
from unseen.atlas.store import Store
from unseen.worlds import sentence_embedding as embedding

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
    known = index.packed()
    real = np.stack([known[index.vector_digest(*entry.embedded)] for entry in entries])
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
    """Index documents until there are `count`; returns the seconds it took, or had taken if they are there."""
    taken = store.fact(f"filled {count}")
    if taken is not None:
        return float(taken)
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
    taken = time.perf_counter() - start
    store.set_fact(f"filled {count}", str(taken))
    return taken


def measure_search(sizes: Sequence[int], name: str, tiny: bool, keep: Path | None = None) -> Result:
    """Latency of the function that answers `/search`, each question new to the process.

    With `keep` the databases stay there for a next time.
    """
    rows = []
    asked = [question for question, _ in questions()][: 12 if tiny else None]
    for count in sizes:
        with contextlib.nullcontext(keep) if keep else tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{count}.db"
            store = Store(file)
            built = fill(store, count)
            search.search(store, "warm up")
            wall, work = [], []
            for question in asked:
                start, computed = time.perf_counter(), time.process_time()
                search.search(store, question)
                wall.append(time.perf_counter() - start)
                work.append(time.process_time() - computed)
            size = file.stat().st_size / 2**20
            store.close()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        sizes_of = (f"{built:.1f} s", f"{size:,.0f} MiB", f"{memory:,.0f} MiB")
        rows.append([f"{count:,}", *percentiles(wall), *percentiles(work), *sizes_of])
    goal = "a p99 under 20 ms at 207 documents, under 200 ms at a million"
    return Result(
        name,
        "Hybrid search",
        ("documents", "p50", "p99", "computing, p50", "p99", "index built in", "file", "peak memory so far"),
        rows,
        (
            f"{len(asked)} questions of the retrieval benchmark, each asked once, one after the other; wall time, and "
            f"the processor time of it. Embedding the question is included. Goal: {goal}.",
        ),
    )


# Reads -----------------------------------------------------------------------------------------------------


def measure_serve(tiny: bool) -> Result:
    """Mixed reads at a fixed rate against `unseen serve` in a process of its own."""
    rate, length = (20, 2) if tiny else (200, 60)
    with tempfile.TemporaryDirectory() as folder, _served(folder) as (port, process):
        seconds, failed = asyncio.run(_load(port, rate, rate * length))
        ticks = [int(x) for x in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]]
    busy = sum(ticks) / os.sysconf("SC_CLK_TCK") / length
    row = [f"{rate}/s for {length} s", f"{len(seconds):,}", str(failed), *percentiles(seconds), f"{busy:.2f} cores"]
    note = (
        "A quarter each: searches that nobody asked before, searches as JSON, papers, other pages and feeds. Server "
        "and client share the machine. Goal: no error."
    )
    return Result("atlas-serve", "Mixed reads", ("rate", "requests", "errors", "p50", "p99", "server"), [row], [note])


@contextlib.contextmanager
def _served(folder: str) -> Iterator[tuple[int, int]]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "unseen", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | {"UNSEEN_HOME": folder}, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, "unseen serve did not start"
                time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(20)


async def _load(port: int, rate: int, total: int) -> tuple[list[float], int]:
    """Requests at fixed moments, late or not; seconds from that moment to the last byte, and how many failed."""
    keys = list(catalogue.papers())
    asked = [question for question, _ in questions()]
    paths: list[Callable[[int], str]] = [
        lambda i: web.url("/search", q=f"{asked[i % len(asked)]} {i}"),
        lambda i: f"/papers/{keys[i % len(keys)]}",
        lambda i: web.url("/search.json", q=asked[i % len(asked)]),
        lambda i: ("/", "/verdicts", "/families", web.url("/search.atom", q=asked[i % len(asked)]))[i // 4 % 4],
    ]
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    seconds: list[float] = []
    failed = 0

    async def one(i: int, due: float) -> None:
        nonlocal failed
        try:
            reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {paths[i % 4](i)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            body = await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
            failed += not (head.startswith("http/1.1 200") and body)
            idle.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            failed += 1
        seconds.append(time.perf_counter() - due)

    for i in range(8):
        await one(i, time.perf_counter())
    seconds.clear()
    started = time.perf_counter()
    tasks = []
    for i in range(total):
        due = started + i / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(i, due)))
    await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
    return seconds, failed


# Digests ---------------------------------------------------------------------------------------------------


def measure_digest(tiny: bool) -> Result:
    """Composing digests, text and HTML, for subscribers who follow one of the benchmark's questions each."""
    count = 200 if tiny else 100_000
    asked = [question for question, _ in questions()]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "atlas.db")
        index.sync(store)
        with store.write():
            store.write_many(
                "INSERT INTO subscribers(id, email, confirmed, every, created) VALUES (?, ?, 1, 'day', 0)",
                [(i + 1, f"reader{i}@example.org") for i in range(count)],
            )
            store.write_many(
                "INSERT INTO follows(subscriber, query, filters, confirmed, created) VALUES (?, ?, '{}', 1, 0)",
                [(i + 1, asked[i % len(asked)]) for i in range(count)],
            )
        start = time.perf_counter()
        sizes = [len(one.mail) for one in digest.compose_all(store, "https://atlas.example", "a@b.org", web.today())]
        taken = time.perf_counter() - start
        store.close()
    rate = f"{len(sizes) / taken:,.0f}/s"
    row = [f"{count:,}", f"{len(sizes):,}", f"{taken:.1f} s", rate, f"{np.mean(sizes) / 2**10:.0f} KiB"]
    note = "Whole mails as bytes, one process. Goal: 1,000 a second."
    return Result("atlas-digest", "Digests", ("subscribers", "digests", "time", "rate", "mean size"), [row], [note])


MEASURES: dict[str, Callable[[bool, Path | None], Result]] = {
    "search": lambda tiny, keep: measure_search((207, 500) if tiny else (207, 10_000), "atlas-search", tiny, keep),
    "million": lambda tiny, keep: measure_search((1_000,) if tiny else (1_000_000,), "atlas-million", tiny, keep),
    "serve": lambda tiny, keep: measure_serve(tiny),
    "digest": lambda tiny, keep: measure_digest(tiny),
}


def main() -> int:
    """One of the measurements."""
    options = parser(__doc__)
    options.add_argument("what", choices=list(MEASURES))
    options.add_argument("--keep", type=Path, help="folder for the databases of searches, used again if they are there")
    given = options.parse_args()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    result = MEASURES[given.what](given.tiny, given.keep)
    show(result)
    if given.write:
        write(result.name, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
