"""What the pages show, as plain data: the same for HTML and JSON."""

from __future__ import annotations

import functools
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unseen.atlas import catalogue, recorded, search, text
from unseen.atlas.store import Store
from unseen.atlas.worlds import public_name, public_names, worlds
from unseen.lab.claims import ClaimText, Verdict
from unseen.lab.errors import UserError

SHEETS = Path(__file__).with_name("sheets")
VOTE_HALF_LIFE = 3 * 86_400.0  # seconds
VERDICT_HALF_LIFE = 14 * 86_400.0
VERDICT_WEIGHT = 0.5
# CPython 3.11's parser fails now and then when two threads are in it; what is read from sources is read by one.
_PARSING = threading.Lock()
_MISSES = 0.05  # share of 95% intervals that do not hold their value


def trending(store: Store, now: float | None = None) -> dict[str, float]:
    """Papers by how much happened to them lately, highest first.

    The score is the sum over votes of 2^(-age / 3 days), and half the sum over verdicts of 2^(-age / 14 days).
    """
    now = time.time() if now is None else now
    scores: Counter[str] = Counter()
    for sql, half, weight in (
        ("SELECT paper, at FROM votes WHERE at > ?", VOTE_HALF_LIFE, 1.0),
        ("SELECT paper, since AS at FROM verdicts WHERE since > ?", VERDICT_HALF_LIFE, VERDICT_WEIGHT),
    ):
        for row in store.read(sql, now - 20 * half):
            scores[row["paper"]] += weight * 2.0 ** (-max(0.0, now - row["at"]) / half)
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def cards(store: Store, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Papers as they stand in lists."""
    if not keys:
        return []
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(keys), 500):
        some = keys[start : start + 500]
        holes = ", ".join("?" * len(some))
        names = "key, title, authors, year, family, kind, world, axis, origin, question, added"
        for row in store.read(f"SELECT {names} FROM documents WHERE key IN ({holes})", *some):
            found[row["key"]] = row
    counts = search.verdict_counts(store, list(keys))
    shown = []
    for key in keys:
        if key in found:
            implemented = found[key]["origin"] == "catalogue" and catalogue.implemented(key)
            card = {**found[key], "verdicts": counts.get(key, {}), "implemented": implemented}
            card["figure"] = f"/papers/{key}/figure.png" if has_figure(key) else ""
            shown.append(card)
    return shown


def has_figure(key: str) -> bool:
    """Whether the catalogue has a recorded picture of a paper."""
    return figure_file(key) is not None


def figure_file(key: str) -> Path | None:
    """The recorded picture of a paper of the catalogue, None if there is none."""
    entry = catalogue.papers().get(key)
    file = recorded.RESULTS / entry.family / f"{entry.key}.png" if entry else None
    return file if file is not None and file.is_file() else None


# Pages -----------------------------------------------------------------------------------------------------


def home(store: Store) -> dict[str, Any]:
    """The front page."""
    hot = list(trending(store))[:6]
    rows = store.read("SELECT paper, max(date) AS date FROM verdicts GROUP BY paper ORDER BY 2 DESC, 1 LIMIT 6")
    new = store.read("SELECT key FROM documents WHERE origin = 'imported' AND paper = '' ORDER BY id DESC LIMIT 6")
    return {
        "counts": counts(store),
        "trending": cards(store, hot),
        "recorded": cards(store, [row["paper"] for row in rows]),
        "imported": cards(store, [row["key"] for row in new]),
        "families": families(store),
    }


def counts(store: Store) -> dict[str, int]:
    """How much there is."""
    entries = catalogue.papers().values()
    tally = {row["verdict"]: row["n"] for row in store.read("SELECT verdict, count(*) AS n FROM verdicts GROUP BY 1")}
    imported = store.read("SELECT count(*) AS n FROM documents WHERE origin = 'imported' AND paper = ''")
    return {
        "papers": len(entries),
        "claims": sum(len(entry.claims) for entry in entries),
        "implemented": sum(entry.is_implemented for entry in entries),
        "imported": imported[0]["n"],
        **{verdict: tally.get(verdict, 0) for verdict in ("supported", "refuted", "inconclusive")},
    }


def families(store: Store) -> list[dict[str, Any]]:
    """The ten families, each with its introduction and what came out."""
    entries = catalogue.papers().values()
    tally = search.verdict_counts(store, [entry.key for entry in entries])
    shown = []
    for name, intro in catalogue.families().items():
        own = [entry for entry in entries if entry.family == name]
        verdicts: Counter[str] = Counter()
        for entry in own:
            verdicts.update(tally.get(entry.key, {}))
        shown.append({"name": name, "intro": intro, "papers": len(own), "verdicts": dict(verdicts)})
    return shown


def family(store: Store, name: str) -> dict[str, Any] | None:
    """One family with its papers, None if there is none of that name."""
    found = next((f for f in families(store) if f["name"] == name), None)
    if found is None:
        return None
    keys = [key for key, entry in catalogue.papers().items() if entry.family == name]
    return {"family": found, "papers": cards(store, keys)}


def world_packages(store: Store) -> list[dict[str, Any]]:
    """The packages of worlds, each with its worlds and the number of papers that it hosts."""
    hosted = Counter(entry.world for entry in catalogue.papers().values())
    with _PARSING:
        built = _worlds()
    shown = [
        {"name": name, "papers": hosted[name], "worlds": [w for w in built if _package_of(w) == name]}
        for name in sorted({*hosted, *map(_package_of, built)})
    ]
    return sorted(shown, key=lambda package: -package["papers"])


@functools.lru_cache(maxsize=1)
def _worlds() -> list[dict[str, Any]]:
    return worlds()


def _package_of(world: Mapping[str, Any]) -> str:
    return str(world["module"]).split(".")[2]


def world(store: Store, name: str) -> dict[str, Any] | None:
    """One package of worlds: axes, papers, pictures; None if there is none of that name."""
    found = next((w for w in world_packages(store) if w["name"] == name), None)
    if found is None:
        return None
    papers = cards(store, [key for key, entry in catalogue.papers().items() if entry.world == name])
    sheets = sorted(file.stem for file in (SHEETS / name).glob("*.png"))
    return {"world": found, "papers": papers, "pictures": sheets, "sheet": [card for card in papers if card["figure"]]}


def sheet_file(package: str, name: str) -> Path | None:
    """The contact sheet of a world, None if there is none (`unseen worlds --pictures` draws them)."""
    known = {file.stem: file for file in SHEETS.glob(f"{package}/*.png")} if package.isidentifier() else {}
    return known.get(name)


def verdicts(store: Store) -> dict[str, Any]:
    """All recorded verdicts, and how many false ones to expect among them.

    Each verdict rests on a 95% interval: if the truth lies just on a rule's threshold, an interval lies wholly on one
    given side of it in 2.5% of all cases. So at most that share of the decided claims is expected to be decided
    wrongly by chance alone.
    """
    entries = catalogue.papers()
    rows = store.read("SELECT paper, claim, verdict, effect, low, high, n, date FROM verdicts")
    order = {key: i for i, key in enumerate(entries)}
    says = {(entry.key, claim.id): claim.says for entry in entries.values() for claim in entry.claims}
    shown = [
        {**row, "says": says.get((row["paper"], row["claim"]), ""), "title": entries[row["paper"]].title}
        for row in sorted(rows, key=lambda row: (order.get(row["paper"], 0), row["claim"]))
        if row["paper"] in entries
    ]
    tally = Counter(row["verdict"] for row in shown)
    decided = tally["supported"] + tally["refuted"]
    return {
        "claims": shown,
        "tally": {name: tally[name] for name in ("supported", "refuted", "inconclusive")},
        "decided": decided,
        "expected_false": {
            "supported": round(_MISSES / 2 * tally["supported"], 2),
            "refuted": round(_MISSES / 2 * tally["refuted"], 2),
            "intervals_that_miss": round(_MISSES * len(shown), 2),
        },
    }


def paper(store: Store, key: str) -> dict[str, Any] | None:
    """All that is known of one paper, None if there is none of that key."""
    rows = store.read("SELECT * FROM documents WHERE key = ?", key)
    if not rows:
        return None
    row = rows[0]
    votes = store.read("SELECT count(*) AS n FROM votes WHERE paper = ?", key)[0]["n"]
    near = [(k, cosine) for k, cosine in search.similar(store, key)]
    shown: dict[str, Any] = {
        "key": key,
        **{name: row[name] for name in ("origin", "title", "authors", "year", "arxiv", "url", "added")},
        "votes": votes,
        "similar": [
            {**card, "cosine": round(cosine, 3)}
            for card, (_, cosine) in zip(cards(store, [k for k, _ in near]), near, strict=False)
        ],
        "related_imports": cards(
            store, [k for k, cosine in search.similar(store, key, 4, "imported") if cosine >= search.RELATED]
        ),
    }
    if row["origin"] == "catalogue":
        return shown | _entry(store, catalogue.paper(key))
    claims = [
        {"paper": k, "claim": c, "cosine": round(cosine, 3), "says": _says(k, c)}
        for k, c, cosine in search.nearest_claims(store, key)
    ]
    hosts = Counter(catalogue.paper(card["key"]).world for card in shown["similar"])
    adds = [name for card in shown["similar"][:3] for name in catalogue.paper(card["key"]).components[:2]]
    return shown | {
        "abstract": row["body"],
        "source": row["source"],
        "same_as": row["paper"],
        "nearest_claims": claims,
        "worlds_that_could_host": [name for name, _ in hosts.most_common(2)],
        "methods_that_could_test": adds,
    }


def _says(key: str, claim: str) -> str:
    return next((c.says for c in catalogue.paper(key).claims if c.id == claim), "")


def _entry(store: Store, entry: catalogue.Paper) -> dict[str, Any]:
    result = recorded.recorded(entry.key)
    judged = {v.claim: v for v in result.verdicts} if result else {}
    abstract = store.read("SELECT body FROM documents WHERE paper = ? ORDER BY length(body) DESC LIMIT 1", entry.key)
    return {
        **{name: getattr(entry, name) for name in ("family", "kind", "world", "axis", "question", "summary", "real")},
        "amended": entry.amended,
        "implemented": entry.is_implemented,
        "command": f"unseen run {entry.key}" if entry.is_implemented else "",
        "components": [_component(name) for name in entry.components],
        "claims": [_claim(claim, judged.get(claim.id)) for claim in entry.claims],
        "recorded": {
            "date": result.date,
            "version": result.version,
            "seconds": result.seconds,
            "stale": _stale(result),
        }
        if result
        else None,
        "figure": f"/papers/{entry.key}/figure.png" if has_figure(entry.key) else "",
        "abstract": abstract[0]["body"] if abstract else "",
    }


def _stale(result: recorded.Recorded) -> str:
    """Why a result no longer speaks for its study, as of when this process first asked."""
    with _PARSING:
        found = _STALE.get((result.key, result.version))
        if found is None:
            found = _STALE[result.key, result.version] = result.stale
        return found


_STALE: dict[tuple[str, str], str] = {}


def _component(said: str) -> dict[str, str]:
    with _PARSING:
        found = public_name(said)
    if found is None:
        return {"says": said, "import": "", "summary": "", "reference": ""}
    return {
        "says": said,
        "import": found.statement,
        "summary": found.summary,
        "reference": f"/reference/{found.path}",
    }


def reference(store: Store, path: str) -> dict[str, Any] | None:
    """Something that the package exports, by its whole name, and the papers that brought it; None if there is none."""
    with _PARSING:
        found = public_names().get(path)
        if found is None:
            return None
        entries = catalogue.papers().values()
        bringing = [e.key for e in entries if any(public_name(said) == found for said in e.components)]
    return {
        "name": found.path,
        "import": found.statement,
        "signature": found.signature,
        "documentation": found.documentation,
        "papers": cards(store, bringing),
    }


def _claim(claim: ClaimText, verdict: Verdict | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": claim.id,
        "says": claim.says,
        "statistic": claim.statistic,
        "supported_if": claim.supported_if,
        "refuted_if": claim.refuted_if,
        "amended": claim.amended,
        "verdict": None,
    }
    if verdict is not None:
        numbers = {name: _number(getattr(verdict, name)) for name in ("effect", "low", "high")}
        shown["verdict"] = {"verdict": verdict.verdict, **numbers, "n": verdict.n, "note": verdict.note}
    return shown


def _number(x: float) -> float | str | None:
    """JSON has no infinity."""
    return None if math.isnan(x) else x if math.isfinite(x) else ("inf" if x > 0 else "-inf")


# The map ---------------------------------------------------------------------------------------------------


def field_map(store: Store) -> dict[str, Any]:
    """The catalogue's papers as points of a plane in the unit square: what is near in meaning is near on it."""
    have = store.read(
        "SELECT d.id, d.key, v.digest FROM documents d JOIN vectors v ON v.document = d.id "
        "WHERE d.origin = 'catalogue' ORDER BY d.id"
    )
    stamp = text.digest(*(f"{row['key']} {row['digest']}" for row in have))
    kept = json.loads(store.fact("map") or "{}")
    if kept.get("stamp") != stamp:
        rows = store.read(
            "SELECT v.vector FROM documents d JOIN vectors v ON v.document = d.id "
            "WHERE d.origin = 'catalogue' ORDER BY d.id"
        )
        points = layout(np.stack([search.unpack(row["vector"]) for row in rows])) if len(rows) > 3 else []
        places = {row["key"]: [round(float(c), 4) for c in p] for row, p in zip(have, points, strict=False)}
        kept = {"stamp": stamp, "places": places}
        store.set_fact("map", json.dumps(kept))
    places = kept["places"]
    shown = [{**card, "x": places[card["key"]][0], "y": places[card["key"]][1]} for card in cards(store, list(places))]
    for card in shown:
        tally = card["verdicts"]
        card["verdict"] = max(tally, key=lambda name: tally[name]) if tally else "none"
    return {"points": shown}


def layout(vectors: np.ndarray, steps: int = 400, perplexity: float = 12.0) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton, 2008) of unit vectors from their principal plane, in the unit square."""
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    places = centred @ axes[:2].T
    places = 1e-2 * places / places.std(0)
    near = _neighbourhoods(2 - 2 * vectors @ vectors.T, math.log(perplexity))
    velocity = np.zeros_like(places)
    for step in range(steps):
        weights = 1 / (1 + _distances(places))
        np.fill_diagonal(weights, 0)
        shares = weights / weights.sum()
        pull = ((4 if step < 80 else 1) * near - shares) * weights
        gradient = 4 * (pull.sum(1)[:, None] * places - pull @ places)
        velocity = (0.5 if step < 80 else 0.8) * velocity - 40 * gradient
        places = places + velocity
    low, high = places.min(0), places.max(0)
    return (places - low) / np.maximum(high - low, 1e-9)


def _distances(x: np.ndarray) -> np.ndarray:
    norms = (x * x).sum(1)
    return np.maximum(norms[:, None] + norms[None] - 2 * x @ x.T, 0)


def _neighbourhoods(distances: np.ndarray, entropy: float) -> np.ndarray:
    """Symmetric neighbour probabilities, each point's with the entropy asked for, by bisection on its scale."""
    n = len(distances)
    low, high = np.zeros(n), np.full(n, 1e4)
    for _ in range(60):
        scale = (low + high) / 2
        logits = -distances * scale[:, None]
        np.fill_diagonal(logits, -np.inf)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        found = -(shares * np.log(np.maximum(shares, 1e-12))).sum(1)
        low, high = np.where(found > entropy, scale, low), np.where(found > entropy, high, scale)
    return np.maximum((shares + shares.T) / (2 * n), 1e-12)


# Votes -----------------------------------------------------------------------------------------------------


def vote(store: Store, key: str, voter: str) -> int:
    """Count a reader's vote for a paper once; returns the number of votes.

    Raises:
        UserError: if there is no such paper.
    """
    with store.write() as run:
        if not run("SELECT 1 AS there FROM documents WHERE key = ?", key):
            raise UserError("There is no paper of that key.")
        run("INSERT INTO votes(paper, voter, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", key, voter, time.time())
        return int(run("SELECT count(*) AS n FROM votes WHERE paper = ?", key)[0]["n"])
