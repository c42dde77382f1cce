"""Timing of alternatives side by side: A B C, A B C, ... so that a change of the machine's mood hits all of them."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Lap:
    """One repeat of one side.

    Attributes:
        seconds: of the work itself, compiled programs at hand, with the members that were left out multiplied in.
        setup: seconds until the first measurement: building, tracing, compiling, initial state.
        share: part of the members that was really run.
    """

    seconds: float
    setup: float = 0.0
    share: float = 1.0


@dataclasses.dataclass(frozen=True)
class Laps:
    """All repeats of one side, in order."""

    laps: tuple[Lap, ...]

    @property
    def seconds(self) -> list[float]:
        return [lap.seconds for lap in self.laps]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def first_setup(self) -> float:
        """The set-up of the first repeat, when nothing had been compiled yet."""
        return self.laps[0].setup

    @property
    def share(self) -> float:
        return self.laps[0].share

    def ratios(self, base: Laps) -> list[float]:
        """This side's time over the other's, repeat by repeat."""
        return [mine / theirs for mine, theirs in zip(self.seconds, base.seconds, strict=True)]


def interleave(sides: Mapping[str, Callable[[], Lap]], repeats: int) -> dict[str, Laps]:
    """Run every side once in each of `repeats` rounds, in the order given."""
    laps: dict[str, list[Lap]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            gc.collect()
            laps[name].append(side())
    return {name: Laps(tuple(mine)) for name, mine in laps.items()}


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes; it must wait for its own results."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def said(values: list[float], unit: str = "", digits: int = 3) -> str:
    """Median with the smallest and the largest value."""
    middle = statistics.median(values)
    shown = f"{_short(middle, digits)}{unit}"
    if len(values) == 1:
        return shown
    return f"{shown} ({_short(min(values), digits)} to {_short(max(values), digits)})"


def _short(value: float, digits: int) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}".rstrip(".")
