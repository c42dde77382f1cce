"""Live progress in a terminal or a notebook; nothing at all in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from unseen.lab.engine import Block, Progress, Shapes
from unseen.lab.study import Study


class Display:
    """A bar for the whole study with the time left, and a line for each group that runs now with its newest
    measures."""

    def __init__(self, study: Study, blocks: Sequence[Block], shapes: Shapes, done: Sequence[Block], quiet: bool):
        def work(chosen: Sequence[Block]) -> int:
            return sum(len(b.members) * (1 + shapes[b.part, repr(dict(b.static))].rounds) for b in chosen)

        self.watch = study.watch
        self.total, self.before = work(blocks), work(done)
        self.quiet = quiet or not _watched()
        self.lines: dict[str, Any] = {}
        self.bar: Any = None
        self._drawn = 0.0

    def __enter__(self) -> Display:
        if not self.quiet:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import (
                Progress as Bar,
            )

            self.bar = Bar(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=False),
                TextColumn("{task.fields[metrics]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self.bar.start()
            self.whole = self.bar.add_task("[bold]all", total=self.total, completed=self.before, metrics="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def report(self, event: Progress) -> None:
        """Draw what happened."""
        if self.bar is None:
            return
        if event.label not in self.lines:
            for old, line in list(self.lines.items()):
                if self.bar.tasks[self.bar.task_ids.index(line)].finished or len(self.lines) > 3:
                    self.bar.remove_task(self.lines.pop(old))
            self.lines[event.label] = self.bar.add_task(event.label, total=None, metrics="compiling ...")
        line = self.lines[event.label]
        amount = event.members * max(event.rounds, 0)
        self.bar.advance(self.whole, amount)
        if event.metrics and time.monotonic() - self._drawn > 0.1:
            self._drawn = time.monotonic()
            shown = [n for n in self.watch if n in event.metrics] or list(event.metrics)[:2]
            text = "  ".join(f"{n.replace('_', ' ')} [bold]{event.metrics[n]:.3g}[/bold]" for n in shown)
            self.bar.update(line, metrics=text)


def _watched() -> bool:
    if "ipykernel" in sys.modules:
        return True
    return sys.stderr.isatty()
