"""The ground floor: learner, study, claim, evidence, engine, run. It knows nothing of machine learning's subfields."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseen.lab import figures, statistics
    from unseen.lab.artifacts import artifact
    from unseen.lab.claims import ClaimText, Judgement, Verdict, above, below, claim, judge
    from unseen.lab.errors import RunInterrupted, UserError
    from unseen.lab.learner import Learner
    from unseen.lab.run import Run
    from unseen.lab.study import Part, Study, part

_HOMES = {
    "artifact": "artifacts",
    **dict.fromkeys(("ClaimText", "Judgement", "Verdict", "above", "below", "claim", "judge"), "claims"),
    **dict.fromkeys(("RunInterrupted", "UserError"), "errors"),
    "Learner": "learner",
    "Run": "run",
    **dict.fromkeys(("Part", "Study", "part"), "study"),
}
_MODULES = ("figures", "statistics")

__all__ = [
    "ClaimText",
    "Judgement",
    "Learner",
    "Part",
    "Run",
    "RunInterrupted",
    "Study",
    "UserError",
    "Verdict",
    "above",
    "artifact",
    "below",
    "claim",
    "figures",
    "judge",
    "part",
    "statistics",
]


def __getattr__(name: str) -> Any:
    # Imported when first used: `unseen list` must answer without loading JAX, xarray or matplotlib.
    if name in _MODULES:
        return importlib.import_module(f"unseen.lab.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"unseen.lab.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'unseen.lab' has no attribute {name!r}")
