"""A run: a study at given settings, from blocks to evidence, verdicts, figure and report, in one directory.

The directory holds `run.json`, `evidence.nc`, `verdicts.json`, `figure.svg`, `figure.png` and `report.html`
when the run is done; before that also finished blocks and checkpoints under `unfinished/`. A run that is killed
at any moment goes on from there and ends with the same evidence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from unseen.lab import evidence as evidence_
from unseen.lab.claims import ClaimText, Verdict
from unseen.lab.engine import Block, Stopped, label_of, plan, set_up
from unseen.lab.errors import RunInterrupted, UserError
from unseen.lab.executors import checkpointed, execute
from unseen.lab.locate import source_of
from unseen.lab.machine import commit, machine, versions
from unseen.lab.progress import Display
from unseen.lab.store import Damaged, Store, home
from unseen.lab.study import Study
from unseen.lab.version import source_version

FORMAT = 1  # of the run directory; another format is not read
NUMERICS = 2  # raised when the engine may change last bits, so that blocks of before and after are never mixed
FILES = ("evidence.nc", "verdicts.json", "figure.svg", "figure.png", "report.html")
PENDING = "unfinished"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run. `evidence` is a Dataset, `verdicts` one for each claim, `directory` where the files are."""

    study: Study
    scale: str
    evidence: xr.Dataset
    verdicts: list[Verdict]
    directory: str
    record: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Wall time of the computation, over all sittings."""
        return float(self.record["seconds"])

    def figure(self) -> Any:
        """The study's figure, drawn anew from the evidence."""
        return _figure(self.study, self.evidence)

    def __rich__(self) -> Any:
        from unseen.lab.table import verdict_table

        return verdict_table(self)

    def __repr__(self) -> str:
        lines = [f"{self.study.key}, {self.scale} scale, {self.seconds:.0f} s, {self.directory}"]
        lines += [
            f"  {v.verdict:12} {v.claim}: {v.effect:.3g} [{v.low:.3g}, {v.high:.3g}], n = {v.n}" for v in self.verdicts
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), record=True, width=120)
        console.print(self)
        picture = Store(self.directory).read("figure.svg").decode()
        return (
            console.export_html(inline_styles=True, code_format="<pre>{code}</pre>") + picture[picture.find("<svg") :]
        )


def run_id(study: Study, version: str) -> str:
    """The run's name: a hash of the study, the version of its code and its settings."""
    text = json.dumps([FORMAT, NUMERICS, study.key, version, study.settings()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def version_of(study: Study | type[Study]) -> str:
    """The version of a study's code with all that it imports from unseen; "interactive" outside of a file."""
    source = source_of(study if isinstance(study, type) else type(study))
    return source_version(source) if source else "interactive"


def run(
    study: Study,
    *,
    out: str | os.PathLike[str] | None = None,
    scale: str = "laptop",
    registered: Mapping[str, ClaimText] | None = None,
    paper: Mapping[str, Any] | None = None,
    workers: int = 1,
    on: str | None = None,
    fresh: bool = False,
    quiet: bool = False,
    checkpoint_every: float | int | None = None,
    say: Callable[[str], None] | None = None,
) -> Run:
    """Run a study, or go on with it, or return it at once if it is done.

    Args:
        study: with its settings; see `Study.at_scale`.
        out: the directory, a path or an fsspec URL; by default `runs/KEY/ID`.
        scale: its name, for the record.
        registered: the claims' registered texts; a study outside of the catalogue carries its own.
        paper: the catalogue's entry, for the report.
        workers: processes to use; 1 runs in this one (with one JAX device a core).
        on: "ray" or "ray=ADDRESS".
        fresh: forget what is there and start again.
        quiet: no progress; what is damaged or goes on is still said.
        checkpoint_every: seconds between checkpoints; by default `UNSEEN_CHECKPOINT_SECONDS` or 20.
        say: takes a sentence for the user, by default prints it on stderr.

    Raises:
        UserError: if the directory holds another run, is in use, or cannot be written.
        RunInterrupted: on Ctrl-C, after the checkpoints are written.
    """
    version = version_of(study)
    registered = dict(registered or _own_claims(study))
    if unknown := sorted(set(study.claims) - set(registered)):
        raise UserError(f"{study.key} judges claims that are not registered: {', '.join(unknown)}.")
    id_ = run_id(study, version)
    store = Store(str(out) if out is not None else str(Path("runs") / study.key / id_))
    say = say or (lambda text: print(text, file=sys.stderr))
    seconds = float(os.environ.get("UNSEEN_CHECKPOINT_SECONDS", 20)) if checkpoint_every is None else checkpoint_every
    job = _Job(study, store, scale, version, id_, registered, dict(paper or {}), say)
    if not fresh and (done := job.finished()) is not None:
        return done
    store.make()
    with _locked(store):
        if fresh:
            job.forget()
        elif (done := job.finished()) is not None:
            return done
        job.claim_directory()
        found = job.compute(workers, on, quiet, seconds)
        return job.conclude(found)


@dataclasses.dataclass
class _Job:
    study: Study
    store: Store
    scale: str
    version: str
    id: str
    registered: dict[str, ClaimText]
    paper: dict[str, Any]
    say: Callable[[str], None]

    # What is there already -------------------------------------------------------------------------------

    def finished(self) -> Run | None:
        """The run that the directory holds, if it is this one, done and whole. What is damaged is named; what
        can be derived again from whole evidence is derived."""
        record = self.known()
        if record is None or record.get("status") != "done":
            return None
        bad = [name for name in FILES if not self._whole(name, record)]
        if "evidence.nc" in bad:
            self.say(f"{self.store.path('evidence.nc')} is damaged or missing; computing it again.")
            return None
        evidence = evidence_.from_bytes(self.store.read("evidence.nc"))
        if bad or record.get("judged_by") != self.judged_by():
            for name in bad:
                self.say(f"{self.store.path(name)} is damaged or missing; making it again from the evidence.")
            with _locked(self.store):
                return self.derive(evidence, record)
        return Run(self.study, self.scale, evidence, self.judge(evidence), str(self.store), record)

    def known(self) -> dict[str, Any] | None:
        """The directory's record; None if there is none (or a damaged one, which is named)."""
        if not self.store.exists("run.json"):
            return None
        try:
            record = self.store.read_json("run.json")
        except Damaged as damage:
            self.say(f"{self.store}: {damage}; making it again.")
            return None
        if record.get("format") != FORMAT or record.get("id") != self.id:
            if record.get("format") != FORMAT:
                why = f"a run of another format ({record.get('format')})"
            elif record.get("study") != self.study.key:
                why = f"a run of {record.get('study')}"
            elif record.get("settings") != self.study.settings():
                mine, theirs = self.study.settings(), record.get("settings", {})
                changed = [n for n in sorted({*mine, *theirs}) if mine.get(n) != theirs.get(n)]
                said = ", ".join(f"{n} {theirs.get(n)}, now {mine.get(n)}" for n in changed)
                why = f"a run with other settings ({said})"
            else:
                why = "a run of another version of the study"
            raise UserError(f"{self.store} holds {why}; choose another --out, or --fresh to replace it.")
        return record

    def _whole(self, name: str, record: Mapping[str, Any]) -> bool:
        try:
            return hashlib.sha256(self.store.read(name)).hexdigest() == record["files"].get(name)
        except (Damaged, KeyError):
            return False

    def forget(self) -> None:
        """Remove what a run of ours left here; files that are not ours stay."""
        with contextlib.suppress(Damaged):
            if self.store.exists("run.json"):
                for name in (*FILES, PENDING, "run.json"):
                    self.store.remove(name)

    def claim_directory(self) -> None:
        """Write that this run is under way; refuse a directory with somebody else's files under our names."""
        ours = self.store.exists("run.json")
        if not ours and (foreign := sorted({*self.store.names()} & {*FILES, PENDING})):
            raise UserError(
                f"{self.store} has a {foreign[0]} that no run of unseen wrote (there is no run.json); "
                "choose another --out."
            )
        self.write_record({"status": "unfinished"})

    # The work --------------------------------------------------------------------------------------------

    def compute(self, workers: int, on: str | None, quiet: bool, every: float) -> xr.Dataset:
        """All blocks, those that an earlier sitting finished read back, as one dataset."""
        set_up()
        blocks, shapes = plan(self.study)
        pending = self.store.under(PENDING)
        pending.make()
        results: list[evidence_.Result] = []
        missing: list[Block] = []
        for block in blocks:
            have, lack = self._results_of(block, pending)
            results += have
            missing += lack
        if results and missing:
            self.say(f"Going on with {self.store}: {len(results)} of {len(results) + len(missing)} blocks are done.")
        control = checkpointed(pending, every)
        with (
            Display(self.study, blocks, shapes, [b for b, _ in results], quiet) as display,
            _ctrl_c() as asked,
        ):
            control.report, control.stop = display.report, asked.is_set
            try:
                for block, arrays in (
                    execute(self.study, missing, control, checkpoints=pending, workers=workers, on=on)
                    if missing
                    else ()
                ):
                    pending.write_arrays(f"{block.name}.block", arrays)
                    pending.remove(f"{block.name}.checkpoint")
                    results.append((block, arrays))
            except Stopped:
                raise RunInterrupted(f"Stopped. The same command goes on from here ({self.store}).") from None
        self.timings = _timings(results)
        self.sizes = {b.part: max(x.size for x, _ in results if x.part == b.part) for b, _ in results}
        planned = {b.part: max(x.size for x in blocks if x.part == b.part) for b in blocks}
        if self.sizes != planned:
            self.say(
                "Memory was short: some blocks were halved, so last bits may differ from a run on a larger machine."
            )
        order = {
            (b.part, repr(dict(b.static)), m[0], repr(dict(m[1]))): i for i, b in enumerate(blocks) for m in b.members
        }
        results.sort(
            key=lambda r: order[r[0].part, repr(dict(r[0].static)), r[0].members[0][0], repr(dict(r[0].members[0][1]))]
        )
        return evidence_.assemble(self.study, results, shapes, {"version": self.version})

    def _results_of(self, block: Block, pending: Store) -> tuple[list[evidence_.Result], list[Block]]:
        file = f"{block.name}.block"
        if pending.exists(file):
            try:
                return [(block, pending.read_arrays(file))], []
            except Damaged as damage:
                self.say(f"{pending.path(file)}: {damage}; computing it again.")
                return [], [block]
        if block.size > 1 and not block.host:
            halves = [self._results_of(half, pending) for half in block.halves()]
            have = [r for h, _ in halves for r in h]
            if have:
                return have, [b for _, lack in halves for b in lack]
        return [], [block]

    # What follows from the evidence ------------------------------------------------------------------------

    def conclude(self, evidence: xr.Dataset) -> Run:
        """Write the evidence and all that follows from it, then clear the workshop."""
        data = evidence_.to_bytes(evidence)
        self.store.write("evidence.nc", data)
        # What is judged is what was written: a reader of the file gets the same verdicts.
        finished = self.derive(evidence_.from_bytes(data), {})
        self.store.remove(PENDING)
        return finished

    def derive(self, evidence: xr.Dataset, old: Mapping[str, Any]) -> Run:
        """Verdicts, figure, report and record from evidence that is on disk."""
        from unseen.lab.report import render

        verdicts = self.judge(evidence)
        figure = _figure(self.study, evidence)
        svg, png = _bytes(figure, "svg"), _bytes(figure, "png")
        files: dict[str, bytes] = {
            "evidence.nc": self.store.read("evidence.nc"),
            "verdicts.json": (json.dumps([v.to_json() for v in verdicts], indent=2) + "\n").encode(),
            "figure.svg": svg,
            "figure.png": png,
        }
        now = {**self.facts(evidence), "status": "done"}
        for kept in (
            "seconds",
            "timings",
            "started",
            "machine",
            "versions",
            "commit",
            "command",
            "block_size",
        ):
            if kept in old:
                now[kept] = old[kept]
        files["report.html"] = render(
            self.whole_record(now), verdicts, evidence, svg.decode(), self.paper or None
        ).encode()
        for name, content in files.items():
            if name != "evidence.nc":
                self.store.write(name, content)
        now["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        record = self.write_record(now)
        return Run(self.study, self.scale, evidence, verdicts, str(self.store), record)

    def judge(self, evidence: xr.Dataset) -> list[Verdict]:
        """A verdict on each registered claim that the study judges, in the catalogue's order."""
        return [
            _judged(self.study, evidence, self.registered[id_]) for id_ in self.registered if id_ in self.study.claims
        ]

    def judged_by(self) -> str:
        """A hash of what turns evidence into verdicts beside the study: the registered texts and our statistics."""
        here = Path(__file__).parent
        text = json.dumps([dataclasses.asdict(c) for c in self.registered.values()])
        versions_ = [source_version(here / f"{name}.py") for name in ("statistics", "claims")]
        return hashlib.sha256("".join([text, *versions_]).encode()).hexdigest()[:12]

    def facts(self, evidence: xr.Dataset) -> dict[str, Any]:
        """The record's fields that follow from the evidence and from this sitting."""
        timings = getattr(self, "timings", {})
        counts = {
            str(name): int((evidence[name] if what == "diverged" else evidence[name].notnull()).sum())
            for what in ("diverged", "stopped_at")
            for name in evidence.data_vars
            if str(name).endswith(what)
        }
        return {
            "judged_by": self.judged_by(),
            "counts": counts,
            "seconds": round(sum(t["compile"] + t["run"] for t in timings.values()), 3),
            "timings": timings,
            "block_size": getattr(self, "sizes", {}),
            "finished": _now(),
        }

    def write_record(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Write `run.json` whole."""
        record = self.whole_record(fields)
        self.store.write_json("run.json", record)
        return record

    def whole_record(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What `run.json` says: what is known of study and machine, and `fields`."""
        defaults = type(self.study)().settings()
        settings = self.study.settings()
        return {
            "format": FORMAT,
            "study": self.study.key,
            "id": self.id,
            "scale": self.scale,
            "version": self.version,
            "settings": settings,
            "changed": {n: v for n, v in settings.items() if defaults[n] != v},
            "description": (type(self.study).__doc__ or "").strip(),
            "watch": list(self.study.watch),
            "command": " ".join(["unseen", *map(shlex.quote, sys.argv[1:])])
            if Path(sys.argv[0]).name == "unseen"
            else "",
            "commit": commit(),
            "versions": versions(),
            "machine": machine(),
            "started": _now(),
            **fields,
        }


def _judged(study: Study, evidence: xr.Dataset, text: ClaimText) -> Verdict:
    changed = _conditions_changed(study)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            judgement = study.judgement(text.id, evidence)
    except (UserError, KeyError) as error:
        # A claim may need a condition that the user left out; with the default conditions it is a defect.
        if not changed and not isinstance(error, UserError):
            raise
        nan = float("nan")
        reason = str(error).strip("'\"").splitlines()[0] if str(error) else "a condition that it needs was not run"
        return Verdict(text.id, "inconclusive", nan, nan, nan, 0, text.rule, f"not judged: {reason}", text.says)
    effect = judgement.effect
    return Verdict(
        text.id,
        judgement.outcome,
        float(effect.estimate),
        float(effect.low),
        float(effect.high),
        int(effect.n),
        text.rule,
        judgement.note,
        text.says,
    )


def _conditions_changed(study: Study) -> bool:
    """Whether conditions differ from the defaults, so that a claim or the figure may miss one that it needs."""
    return any(getattr(study, name) != values for name, values in study.conditions().items())


def _own_claims(study: Study) -> dict[str, ClaimText]:
    found = {id_: getattr(type(study), name).claim_text for id_, name in study.claims.items()}
    bare = [id_ for id_, text in found.items() if not (text.says and text.supported_if and text.refuted_if)]
    if bare:
        raise UserError(
            f"The claim {bare[0]!r} of {study.key} needs says, supported_if and refuted_if, "
            "since it is not in the catalogue."
        )
    return found


def _figure(study: Study, evidence: xr.Dataset) -> Any:
    import matplotlib

    from unseen.lab.figures import STYLE, panels

    changed = _conditions_changed(study)
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return study.figure(evidence)
        except (NotImplementedError, UserError, KeyError) as error:
            if not changed and isinstance(error, KeyError):
                raise
            figure, ax = panels()
            reason = (
                "This study draws no figure." if isinstance(error, NotImplementedError) else f"Nothing to draw: {error}"
            )
            ax.text(0.5, 0.5, reason, ha="center", va="center", wrap=True, transform=ax.transAxes)
            ax.set_axis_off()
            return figure


def _bytes(figure: Any, kind: str) -> bytes:
    import matplotlib

    from unseen.lab.figures import STYLE

    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _timings(results: list[evidence_.Result]) -> dict[str, dict[str, float]]:
    timings: dict[str, dict[str, float]] = {}
    for block, arrays in results:
        compile_, run_ = np.asarray(arrays["seconds"], float)
        of = timings.setdefault(label_of(block), {"compile": 0.0, "run": 0.0, "members": 0})
        of["compile"] = max(of["compile"], round(float(compile_), 3))
        of["run"] += round(float(run_), 3)
        of["members"] += len(block.members)
    return timings


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def _locked(store: Store) -> Iterator[None]:
    """Hold the run directory. A remote one is guarded among the processes of this machine."""
    from filelock import FileLock, Timeout

    if store.is_local:
        path = Path(store.root) / ".lock"
    else:
        path = home() / "locks" / f"{hashlib.sha256(store.url.encode()).hexdigest()[:16]}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"Another process is running in {store}; wait for it, or choose another --out.") from None
    except OSError as error:
        raise UserError(f"Cannot write {store}: {error.strerror or error}.") from error
    try:
        yield
    finally:
        # Removed while held, so that nobody else can hold it; one who opened it before sees a finished run.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


@contextlib.contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Ctrl-C sets the event; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    old = signal.getsignal(signal.SIGINT)

    def hear(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("\nStopping after this step; Ctrl-C again to stop at once.", file=sys.stderr)

    signal.signal(signal.SIGINT, hear)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, old)
