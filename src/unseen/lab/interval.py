"""An estimate with its interval, apart from the statistics that make it so that it imports at once."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval over seeds.

    Attributes:
        estimate, low, high: in the units of the statistic; a censored or undetermined side is infinite.
        n: number of seeds with a value.
        missing: number of seeds without one (NaN: diverged, not run, or censored without any information).
        method: how the interval was made, e.g. "t", "log t", "BCa".
    """

    estimate: float
    low: float
    high: float
    n: int
    missing: int = 0
    method: str = "t"

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"
