"""Claims and the verdicts on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from unseen.lab.interval import Interval

Outcome = Literal["supported", "refuted", "inconclusive"]
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class ClaimText:
    """A falsifiable sentence with its statistic and decision rule, as registered before any run."""

    id: str
    says: str
    statistic: str
    supported_if: str
    refuted_if: str
    source: str = ""
    amended: str = ""

    @property
    def rule(self) -> str:
        """Both halves of the decision rule in one sentence."""
        return f"supported if {self.supported_if}; refuted if {self.refuted_if}"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a claim method returns: the effect with its interval, and which half of the rule holds."""

    effect: Interval
    supported: bool
    refuted: bool
    note: str = ""

    @property
    def outcome(self) -> Outcome:
        """`inconclusive` unless exactly one half of the rule holds on values that all exist."""
        if self.effect.missing or self.supported == self.refuted:
            return "inconclusive"
        return "supported" if self.supported else "refuted"


def judge(
    effect: Interval,
    *,
    supported: Any,
    refuted: Any,
    also: Mapping[str, Interval] | None = None,
    note: str = "",
) -> Judgement:
    """A judgement by a rule with any number of parts.

    Args:
        effect: the claim's main statistic with its 95% interval.
        supported, refuted: truth of the two halves of the registered rule, as bools or 0-d arrays.
        also: the other statistics that the rule uses; their intervals go into the note.
        note: what a reader must know beside the numbers.

    A seed without a value (diverged) in `effect` or `also` makes the judgement inconclusive and is counted in
    the note: it is never dropped in silence.

    Example:
        >>> judge(ci, supported=ci.low > 0.7 and censored <= 1, refuted=ci.high < 0.7)
    """
    also = dict(also or {})
    parts = [note] if note else []
    parts += [f"{name}: {interval}" for name, interval in also.items()]
    missing = {"effect": effect, **also}
    missing = {name: interval for name, interval in missing.items() if interval.missing}
    parts += [
        f"{interval.missing} of {interval.n + interval.missing} seeds have no value"
        + ("" if name == "effect" else f" for {name}")
        for name, interval in missing.items()
    ]
    decided = not missing
    return Judgement(effect, bool(supported) and decided, bool(refuted) and decided, "; ".join(parts))


def above(effect: Interval, bound: float, *, refuted_below: float | None = None, **more: Any) -> Judgement:
    """Supported if the whole interval lies above `bound`, refuted if it lies below `refuted_below`
    (by default `bound` itself)."""
    lower = bound if refuted_below is None else refuted_below
    return judge(effect, supported=effect.low > bound, refuted=effect.high < lower, **more)


def below(effect: Interval, bound: float, *, refuted_above: float | None = None, **more: Any) -> Judgement:
    """Supported if the whole interval lies below `bound`, refuted if it lies above `refuted_above`
    (by default `bound` itself)."""
    upper = bound if refuted_above is None else refuted_above
    return judge(effect, supported=effect.high < bound, refuted=effect.low > upper, **more)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim, judged. `effect`, `low` and `high` may be infinite (a censored side) or NaN (no value)."""

    claim: str
    verdict: Outcome
    effect: float
    low: float
    high: float
    n: int
    rule: str
    note: str
    says: str = ""

    def to_json(self) -> dict[str, Any]:
        """The eight registered fields; numbers that JSON has no word for become null or "inf" strings."""
        return {
            "claim": self.claim,
            "verdict": self.verdict,
            "effect": _number(self.effect),
            "low": _number(self.low),
            "high": _number(self.high),
            "n": self.n,
            "rule": self.rule,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any], says: str = "") -> Verdict:
        """The inverse of `to_json`; the claim's sentence is not part of the eight fields."""
        effect, low, high = (
            float("nan") if found[name] is None else float(found[name]) for name in ("effect", "low", "high")
        )
        claim, verdict, n, rule, note = (found[name] for name in ("claim", "verdict", "n", "rule", "note"))
        return cls(claim, verdict, effect, low, high, int(n), rule, note, says)


def _number(value: float) -> float | str | None:
    if value != value:
        return None
    if value in (float("inf"), float("-inf")):
        return str(value)
    return float(value)


def claim(
    id: str, *, says: str = "", statistic: str = "", supported_if: str = "", refuted_if: str = ""
) -> Callable[[F], F]:
    """Mark a study's method `method(self, evidence) -> Judgement` as the judge of one registered claim.

    A catalogued study gives the id alone: sentence and rule come from the catalogue. A study of your own
    states them here.
    """

    def mark(method: F) -> F:
        method.claim_text = ClaimText(id, says, statistic, supported_if, refuted_if)  # type: ignore[attr-defined]
        return method

    return mark
