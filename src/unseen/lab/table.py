"""The table of verdicts that a terminal or a notebook shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseen.lab.run import Run

MARKS = {"supported": ("✔", "green"), "refuted": ("✘", "red"), "inconclusive": ("~", "yellow")}


def verdict_table(run: Run) -> Any:
    """Claim, what the paper says, what was measured with its 95% interval, and the verdict."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{run.study.key} ({run.scale} scale, {run.study.seeds} seeds)",
        title_justify="left",
        show_lines=True,
    )
    table.add_column("claim", style="bold", no_wrap=True)
    table.add_column("the paper says", ratio=3)
    table.add_column("measured [95% interval]", ratio=2)
    table.add_column("verdict", no_wrap=True)
    for v in run.verdicts:
        mark, color = MARKS[v.verdict]
        measured = f"{v.effect:.3g} [{v.low:.3g}, {v.high:.3g}], n = {v.n}" if v.effect == v.effect else "no value"
        table.add_row(
            v.claim,
            v.says,
            measured + (f"\n{v.note}" if v.note else ""),
            Text(f"{mark} {v.verdict}", style=color),
        )
    lines = [f"{count} members: {what}" for what, count in run.record.get("counts", {}).items() if count]
    lines += [
        f"report  {run.directory}/report.html",
        f"figure  {run.directory}/figure.png",
        f"{run.seconds:.1f} s of computation",
    ]
    return Group(table, Text("\n".join(lines)))
