"""The report page of a run: one HTML file that opens anywhere, without a network and without scripts."""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from unseen.lab import evidence as evidence_
from unseen.lab.claims import Verdict
from unseen.lab.errors import UserError
from unseen.lab.forest import forest, measured, thresholds
from unseen.lab.store import Damaged, Store
from unseen.lab.table import MARKS

CURVE_COLORS = ("#3b82c4", "#d9660c", "#12936b", "#b86094", "#8a6d00")  # legible on white and on black
MOST_PANELS = 24
MOST_POINTS = 160  # of a curve; more than its pixels


def render(
    record: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    evidence: xr.Dataset,
    figure_svg: str,
    paper: Mapping[str, Any] | None,
) -> str:
    """The page as HTML.

    Args:
        record: what `run.json` says.
        verdicts: one for each claim.
        evidence: dims (condition..., seed, step, ...); drawn are the curves of `record["watch"]`.
        figure_svg: the study's figure.
        paper: its entry in the catalogue, None for a study of one's own.
    """
    registered = {claim["id"]: claim for claim in (paper or {}).get("claims", ())}
    settings = dict(record.get("settings", {}))
    return _template().render(
        record=record,
        paper=paper,
        title=paper["title"] if paper else record.get("study", "study"),
        description=[" ".join(text.split()) for text in inspect.cleandoc(record.get("description", "")).split("\n\n")],
        figure=_inline(figure_svg),
        claims=[_claim(v, registered.get(v.claim)) for v in verdicts],
        tally=[(name, n) for name in MARKS if (n := sum(v.verdict == name for v in verdicts))],
        marks={name: mark for name, (mark, _) in MARKS.items()},
        settings=[(name, _said(value), name in record.get("changed", {})) for name, value in settings.items()],
        seeds=_seeds(evidence),
        curves=list(itertools.islice(curves(evidence, record.get("watch", ()), settings), MOST_PANELS)),
        legend=list(zip(_drawn(evidence, record.get("watch", ())), CURVE_COLORS, strict=False)),
        panels=sum(1 for _ in _cells(evidence, record.get("watch", ()), settings)),
        most_panels=MOST_PANELS,
        counts=_counts(record.get("counts", {})),
        size=evidence.nbytes,
    )


def rebuild(directory: str | Path, papers: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Write `report.html` of a finished run anew and return its path.

    Args:
        directory: the run's directory, a path or an fsspec URL.
        papers: the catalogue's entries by key.

    Raises:
        UserError: if there is no finished run, or one of its files is damaged.
    """
    store = Store(str(directory))
    if not store.exists("run.json"):
        raise UserError(f"{store} holds no run of unseen (there is no run.json).")
    try:
        record = store.read_json("run.json")
        if record.get("status") != "done":
            raise UserError(f"The run in {store} is not finished; the same `unseen run` command goes on with it.")
        files = {name: store.read(name) for name in ("evidence.nc", "verdicts.json", "figure.svg")}
        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != record["files"].get(name):
                raise Damaged(f"{name} is damaged (its checksum does not fit)")
    except Damaged as damage:
        raise UserError(f"{store}: {damage}; the same `unseen run` command makes it again.") from None
    paper = (papers or {}).get(record["study"])
    says = {claim["id"]: claim["says"] for claim in (paper or {}).get("claims", ())}
    verdicts = [Verdict.from_json(v, says.get(v["claim"], "")) for v in json.loads(files["verdicts.json"])]
    evidence = evidence_.from_bytes(files["evidence.nc"])
    page = render(record, verdicts, evidence, files["figure.svg"].decode(), paper).encode()
    store.write("report.html", page)
    record["files"]["report.html"] = hashlib.sha256(page).hexdigest()
    store.write_json("run.json", record)
    return store.path("report.html")


def latest(key: str, runs: str | Path = "runs") -> str:
    """The directory of the newest finished run of a study.

    Raises:
        UserError: if there is none.
    """
    store = Store(str(Path(runs) / key))
    found = []
    for name in store.names():
        try:
            record = store.read_json(f"{name}/run.json")
        except Damaged:
            continue
        if record.get("status") == "done":
            found.append((record.get("finished", ""), name))
    if not found:
        raise UserError(f"There is no finished run of {key} in {store}; make one with `unseen run {key}`.")
    return str(Path(runs) / key / max(found)[1])


# Pieces of the page ----------------------------------------------------------------------------------------


@functools.cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")


def _inline(svg: str) -> Markup:
    """A picture without its XML head, as it stands within HTML; it scales with the page."""
    start = svg.find("<svg")
    return Markup(svg[start:] if start >= 0 else "")


def _claim(v: Verdict, registered: Mapping[str, Any] | None) -> dict[str, Any]:
    halves = re.fullmatch(r"supported if (.*); refuted if (.*)", v.rule, re.DOTALL)
    supported_if, refuted_if = halves.groups() if halves else (v.rule, "")
    bounds = thresholds(supported_if)
    return {
        "id": v.claim,
        "says": v.says,
        "verdict": v.verdict,
        "measured": measured(v),
        "n": v.n,
        "note": v.note,
        "statistic": registered["statistic"] if registered else "",
        "source": registered["source"] if registered else "",
        "amended": registered.get("amended", "") if registered else "",
        "supported_if": supported_if,
        "refuted_if": refuted_if,
        # Where the first half does not say which number bounds the effect, the second one alone may mislead.
        "forest": forest(v, bounds, thresholds(refuted_if) if bounds else ()),
    }


# Curves ----------------------------------------------------------------------------------------------------


def _step_of(values: xr.DataArray) -> str | None:
    return next((str(d) for d in values.dims if d == "step" or str(d).endswith("_step")), None)


def _drawn(evidence: xr.Dataset, watch: Sequence[str]) -> list[str]:
    names = [name for name in watch if name in evidence and _step_of(evidence[name])]
    return names[: len(CURVE_COLORS)]


def _cells(
    evidence: xr.Dataset, watch: Sequence[str], settings: Mapping[str, Any]
) -> Iterator[tuple[str, list[tuple[xr.DataArray, str]]]]:
    """Every combination of conditions that was run, with its curves over (seed, step)."""
    names = _drawn(evidence, watch)
    conditions = [
        str(d) for d in evidence.dims if isinstance(settings.get(str(d)), list | tuple) and d in evidence.coords
    ]
    used = [c for c in conditions if any(c in evidence[name].dims for name in names)]
    for values in itertools.product(*(evidence[c].values.tolist() for c in used)):
        cell = dict(zip(used, values, strict=True))
        found = []
        for name, color in zip(names, CURVE_COLORS, strict=False):
            chosen = evidence[name].sel({c: v for c, v in cell.items() if c in evidence[name].dims})
            step = _step_of(chosen)
            chosen = chosen.mean([d for d in chosen.dims if d not in ("seed", step)]).transpose("seed", step)
            if bool(np.isfinite(chosen).any()):
                found.append((chosen, color))
        if found:
            varied = {c: v for c, v in cell.items() if len(settings[c]) > 1}
            yield ", ".join(f"{c.replace('_', ' ')} {_said(v)}" for c, v in varied.items()), found


def curves(evidence: xr.Dataset, watch: Sequence[str], settings: Mapping[str, Any]) -> Iterator[tuple[str, Markup]]:
    """A small picture for each combination of conditions: mean over seeds and the range of the seeds."""
    drawn = _drawn(evidence, watch)
    finite = [evidence[name].values[np.isfinite(evidence[name].values)] for name in drawn]
    whole = np.concatenate(finite) if finite else np.zeros(0)
    if not whole.size:
        return
    low, high = float(whole.min()), float(whole.max())
    if low >= 0 and 0.5 <= high <= 1:
        low, high = 0.0, 1.0  # accuracies
    for title, lines in _cells(evidence, watch, settings):
        yield title, _panel(lines, low, high, title)


def _panel(lines: Sequence[tuple[xr.DataArray, str]], low: float, high: float, title: str) -> Markup:
    left, right, top, bottom = 34, 236, 6, 96
    last = max(float(values[values.dims[1]].max()) for values, _ in lines) or 1.0
    parts = [f'<path class="axis" d="M{left} {top}V{bottom}H{right}" fill="none"/>']
    for y, text in ((bottom, low), (top + 7, high)):
        parts.append(f'<text x="{left - 4}" y="{y}" text-anchor="end">{text:.3g}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 13}" text-anchor="end">{last:g}</text>')
    for values, color in lines:
        thin = values.isel(
            {values.dims[1]: np.unique(np.linspace(0, values.sizes[values.dims[1]] - 1, MOST_POINTS).astype(int))}
        )
        array = np.where(np.isfinite(thin.values), thin.values, np.nan)
        kept = np.isfinite(array).all(0) | np.isfinite(array).any(0)
        if not kept.any():
            continue
        array, x = array[:, kept], thin[thin.dims[1]].values[kept]
        xs = left + (right - left) * x / last

        def ys(v: np.ndarray) -> np.ndarray:
            return bottom - (bottom - top) * (v - low) / ((high - low) or 1.0)

        lower, upper, mean = ys(np.nanmin(array, 0)), ys(np.nanmax(array, 0)), ys(np.nanmean(array, 0))
        band = [*zip(xs, upper, strict=True), *reversed(list(zip(xs, lower, strict=True)))]
        parts.append(f'<path d="M{_points(band)}Z" fill="{color}" opacity="0.2"/>')
        parts.append(f'<path d="M{_points(zip(xs, mean, strict=True))}" fill="none" stroke="{color}"/>')
    return Markup('<svg class="curve" viewBox="0 0 240 112" role="img" aria-label="{}">{}</svg>').format(
        title or "curves", Markup("".join(parts))
    )


def _points(pairs: Any) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in pairs)


# Words -----------------------------------------------------------------------------------------------------


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seeds(evidence: xr.Dataset) -> str:
    if "seed" not in evidence.coords:
        return ""
    seeds = evidence["seed"].values.tolist()
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"


def _counts(counts: Mapping[str, int]) -> list[str]:
    """What happened to members, in words: nothing is hidden, also not that nothing happened."""
    words = {
        "diverged": "diverged (a NaN in their state)",
        "stopped_at": "stopped early, as the study declares",
    }
    said = []
    for name, count in counts.items():
        part, _, what = name.rpartition("_") if not name.endswith("stopped_at") else (name[:-11], "", "stopped_at")
        said.append(f"{count} members {words.get(what, what)}" + (f" in {part.replace('_', ' ')}" if part else ""))
    return said
