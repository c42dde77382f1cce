"""Recorded results: what the registered run of a study found, kept with the package.

`unseen run KEY --record` writes `results/<family>/<key>.json` (verdicts, settings, versions, timings; no
arrays) and a small `<key>.png` of the figure. Reading them needs no jax.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unseen.atlas.catalogue import paper, study_version
from unseen.lab.claims import Verdict
from unseen.lab.errors import UserError
from unseen.lab.study import Study
from unseen.lab.version import file_digest, source_digests

if TYPE_CHECKING:
    from unseen.lab.run import Run

PACKAGE = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
_KEPT = ("settings", "seconds", "timings", "counts", "commit", "versions", "machine")
_FIGURE_WIDTH = 1000  # pixels


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A recorded result.

    Attributes:
        key: the paper's key.
        version: the version of the study that made it.
        date: the day on which it was recorded.
        verdicts: one for each registered claim.
        settings: the study's settings, conditions as lists.
        seconds: wall time of the computation.
        record: all that the file says.
        figure: path of the picture.
    """

    key: str
    version: str
    date: str
    verdicts: tuple[Verdict, ...]
    settings: Mapping[str, Any]
    seconds: float
    record: Mapping[str, Any]
    figure: Path

    @property
    def stale(self) -> str:
        """Why it no longer speaks for the study as it is; empty if it does."""
        entry = paper(self.key)
        if not entry.is_implemented:
            return "the study is gone"
        # Parsing all that a study imports takes a moment; unchanged files need none.
        sources: Mapping[str, str] = self.record.get("sources", {})
        same = sources and all(file_digest(PACKAGE / name) == digest for name, digest in sources.items())
        if not same and self.version != study_version(self.key):
            return "the study has changed"
        if {v.claim: v.rule for v in self.verdicts} != {claim.id: claim.rule for claim in entry.claims}:
            return "the registered claims have changed"
        return ""

    @property
    def counts(self) -> dict[str, int]:
        """Number of claims by verdict, in the order supported, refuted, inconclusive; without zeros."""
        found = Counter(v.verdict for v in self.verdicts)
        return {name: found[name] for name in ("supported", "refuted", "inconclusive") if found[name]}


def recorded(key: str) -> Recorded | None:
    """The recorded result of a paper, None if there is none.

    Raises:
        UserError: if the catalogue has no such key, or the file is damaged; it names file and line.
    """
    file = _file(key)
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: this is no JSON ({error.msg}).") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}, line 1: this is no JSON ({error.reason}).") from None
    says = {claim.id: claim.says for claim in paper(key).claims}
    try:
        return Recorded(
            key=str(record["key"]),
            version=str(record["version"]),
            date=str(record["date"]),
            verdicts=tuple(Verdict.from_json(v, says.get(v["claim"], "")) for v in record["verdicts"]),
            settings=dict(record["settings"]),
            seconds=float(record["seconds"]),
            record=record,
            figure=file.with_suffix(".png"),
        )
    except KeyError as error:
        raise UserError(f"{file}, line 1: the recorded result has no {error.args[0]!r}.") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{file}, line 1: this is no recorded result ({error}).") from None


def refuse(study: Study, scale: str) -> None:
    """Raise unless a run at these settings may be recorded.

    Raises:
        UserError: if the study is not of the catalogue, the scale is not laptop, or a setting is changed.
    """
    if not type(study).__module__.startswith("unseen.studies."):
        raise UserError(f"--record takes a study of the catalogue, got {type(study).__name__} from another file.")
    if scale != "laptop":
        raise UserError(f"--record takes the laptop scale, at which the claims are registered, got {scale}.")
    registered = type(study)().settings()
    for name, value in study.settings().items():
        if value != registered[name]:
            was = registered[name]
            raise UserError(f"--record takes the registered settings; {name} is {value!r}, not {was!r}.")


def record(run: Run) -> Path:
    """Write a run as the recorded result of its paper and return the file's path.

    Raises:
        UserError: unless it ran at laptop scale with the registered settings and seeds and judged all claims,
            or if the file cannot be written.
    """
    refuse(run.study, run.scale)
    entry = paper(run.study.key)
    missing = {claim.id for claim in entry.claims} - {v.claim for v in run.verdicts}
    if missing:
        raise UserError(f"--record takes a verdict on every claim; {entry.key} does not judge {min(missing)!r}.")
    if run.record["version"] != study_version(entry.key):
        raise UserError(f"--record takes a run of the study as it is; {entry.key} has changed since this one.")
    found = {
        "key": entry.key,
        "title": entry.title,
        "version": run.record["version"],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "verdicts": [v.to_json() for v in run.verdicts],
        **{name: run.record.get(name) for name in _KEPT},
        "sources": source_digests(entry.study_file),
    }
    file = _file(entry.key)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file.with_suffix(".png"), _small(_read_figure(run.directory)))
        _write(file, (json.dumps(found, indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(f"Cannot write {file}: {error.strerror or error}.") from error
    return file


def _file(key: str) -> Path:
    entry = paper(key)
    return RESULTS / entry.family / f"{entry.key}.json"


def _read_figure(directory: str) -> bytes:
    from unseen.lab.store import Store

    return Store(directory).read("figure.png")


def _small(png: bytes) -> bytes:
    """The picture at a width for a catalogue page, with a palette: tens of kilobytes."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.width > _FIGURE_WIDTH:
        image = image.resize(
            (_FIGURE_WIDTH, round(image.height * _FIGURE_WIDTH / image.width)), Image.Resampling.LANCZOS
        )
    buffer = io.BytesIO()
    # Maximum coverage keeps every colour near itself; a median cut gives up a thin line's for shades of wide areas.
    image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _write(file: Path, data: bytes) -> None:
    """Whole or not at all."""
    beside = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
