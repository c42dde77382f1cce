"""A verdict drawn as a small picture: the effect with its interval beside the thresholds of its rule."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from markupsafe import Markup

from unseen.lab.claims import Verdict

# The first comparison of a rule: "> 0.7", "above 0.7", "inside [0.4, 0.6]". A threshold under a logarithm is
# not drawn, since a study may report the ratio itself.
_COMPARISON = re.compile(
    r"(?:[<>]=?|\babove|\bbelow|\bat least|\bat most)\s*(?P<bound>\S+)"
    r"|\b(?:inside|outside)\s*(?P<range>\[[^\]]*\]|\+-\s*[\d.]+)"
)


def measured(v: Verdict) -> str:
    """The effect with its interval as text."""
    return f"{v.effect:.3g} [{v.low:.3g}, {v.high:.3g}]" if not math.isnan(v.effect) else "no value"


def thresholds(half: str) -> tuple[float, ...]:
    """The bounds that half a rule puts on its first statistic: one number, two for a range, none if unclear.

    >>> thresholds("CI lower bound > 0.7 and at most 1 of 8 runs censored")
    (0.7,)
    >>> thresholds("whole CI inside [0.4, 0.6]")
    (0.4, 0.6)
    """
    found = _COMPARISON.search(half)
    if found is None:
        return ()
    if found["range"]:
        numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", found["range"].replace("+-", ""))]
        return (-numbers[0], numbers[0]) if found["range"].startswith("+-") else tuple(numbers)
    bound = re.fullmatch(r"([+-]?\d+(?:\.\d+)?(?:e-?\d+)?)[,.;]?", found["bound"])
    return (float(bound[1]),) if bound else ()


def forest(v: Verdict, supported: Sequence[float], refuted: Sequence[float], beside: Sequence[float] = ()) -> Markup:
    """The effect with its interval beside the rule's thresholds, as a small picture; empty without either.

    Where the rule has no thresholds, the values `beside` are drawn as marks that mean nothing but where they are.
    """
    beside = () if (*supported, *refuted) else beside
    if math.isnan(v.effect) or not (*supported, *refuted, *beside):
        return Markup("")
    shown = [x for x in (v.effect, v.low, v.high, *supported, *refuted, *beside) if math.isfinite(x)]
    low, high = min(shown), max(shown)
    pad = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - pad, high + pad

    def at(x: float) -> float:
        return round(10 + 300 * (min(max(x, low), high) - low) / (high - low), 1)

    parts = ['<line class="axis" x1="10" x2="310" y1="20" y2="20"/>']
    for kind, bounds in (("supported", supported), ("refuted", refuted), ("beside", beside)):
        both = kind == "refuted" and tuple(bounds) == tuple(supported)
        for bound in () if both else bounds:
            parts.append(f'<line class="bound {kind}" x1="{at(bound)}" x2="{at(bound)}" y1="5" y2="35"/>')
            parts.append(f'<text x="{at(bound)}" y="47" text-anchor="middle">{bound:g}</text>')
    left, right = at(v.low), at(v.high)
    parts.append(f'<line class="interval {v.verdict}" x1="{left}" x2="{right}" y1="20" y2="20"/>')
    if math.isinf(v.low):
        parts.append(f'<path class="{v.verdict}" d="M{left - 6} 20l8 -5v10z"/>')
    if math.isinf(v.high):
        parts.append(f'<path class="{v.verdict}" d="M{right + 6} 20l-8 -5v10z"/>')
    if math.isfinite(v.effect):
        parts.append(f'<circle class="{v.verdict}" cx="{at(v.effect)}" cy="20" r="5"/>')
    bounds = ", ".join(f"{bound:g}" for bound in (*supported, *refuted)) or "not drawn"
    label = f"{measured(v)}; thresholds {bounds}"
    return Markup('<svg class="forest" viewBox="0 0 320 50" role="img" aria-label="{}">{}</svg>').format(
        label, Markup("".join(parts))
    )
