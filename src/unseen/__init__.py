"""unseen: a laboratory for generalization.

>>> import unseen
>>> unseen.run("grokking", seeds=4)          # evidence and verdicts
>>> unseen.run(MyStudy, weight_decay=(0, 1))  # a study of your own
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseen.atlas import paper, papers
    from unseen.atlas.running import run
    from unseen.lab import Learner, Run, Study, UserError, above, artifact, below, claim, judge, part

__version__ = "0.1.0"
__all__ = [
    "Learner",
    "Run",
    "Study",
    "UserError",
    "above",
    "artifact",
    "below",
    "claim",
    "judge",
    "paper",
    "papers",
    "part",
    "run",
]

_ATLAS = {
    "run": "unseen.atlas.running",
    "paper": "unseen.atlas.catalogue",
    "papers": "unseen.atlas.catalogue",
}


def __getattr__(name: str) -> Any:
    # Imported when first used: `unseen --help` must answer without loading JAX.
    if name in __all__:
        return getattr(importlib.import_module(_ATLAS.get(name, "unseen.lab")), name)
    raise AttributeError(f"module 'unseen' has no attribute {name!r}")
