"""Tables: in the terminal by rich, and in docs/benchmarks.md between a benchmark's own pair of markers."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from unseen.lab.machine import commit, cpu_name, versions

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        name: of the markers.
        title: over the table in the terminal; the page has its own heading.
        columns, rows: the table, as text.
        notes: sentences below it.
        packages: further packages whose versions matter.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    packages: Sequence[str] = ()


def where(packages: Sequence[str] = ()) -> str:
    """Processor, cores, versions, commit, date, and how busy the machine was."""
    found = versions()
    chosen = {name: found[name] for name in ("python", "jax", "numpy") if name in found}
    for name in packages:
        try:
            chosen[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    said = ", ".join(f"{name} {version}" for name, version in chosen.items())
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    cores = len(os.sched_getaffinity(0))
    return f"{cpu_name()}, {cores} cores; {said}; commit {commit()}; {when}; load before {LOAD:.1f}."


# When the first benchmark starts: on an idle machine it is near 0. The later ones would see the load of the earlier.
LOAD = float(os.environ.get("BENCHMARKS_LOAD", os.getloadavg()[0]))


def markdown(result: Result) -> str:
    """The table and its notes."""
    lines = [
        "| " + " | ".join(result.columns) + " |",
        "|" + "---|" * len(result.columns),
        *("| " + " | ".join(row) + " |" for row in result.rows),
    ]
    notes = [*result.notes, f"*{where(result.packages)}*"]
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes)


def show(result: Result) -> None:
    """Print it."""
    console = Console()
    table = Table(title=result.title, title_justify="left")
    for i, column in enumerate(result.columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in result.rows:
        table.add_row(*row)
    console.print(table)
    for note in [*result.notes, where(result.packages)]:
        console.print(note, style="dim")


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what is between the markers `<!-- name: begin -->` and `<!-- name: end -->` of a page.

    Raises:
        SystemExit: if the page lacks the markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, opened, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise SystemExit(f"{page} has no lines {begin} and {end} to write between.")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options.add_argument("--tiny", action="store_true", help="sizes of a test: the numbers mean nothing")
    return options


def command(doc: str | None, measure: Callable[[bool], Result]) -> None:
    """A benchmark's command line: `measure(tiny)`, shown and, with --write, kept."""
    options = parser(doc).parse_args()
    result = measure(options.tiny)
    show(result)
    if options.write:
        write(result.name, markdown(result))
