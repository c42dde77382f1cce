"""The ground floor: learner, study, claim, evidence, engine, run. It knows nothing of machine learning's subfields."""

from unseen.lab.claim import ClaimText, Judgement, Verdict, above, below, claim, judge
from unseen.lab.errors import RunInterrupted, UserError
from unseen.lab.learner import Learner
from unseen.lab.study import Part, Study, part

__all__ = [
    "ClaimText",
    "Judgement",
    "Learner",
    "Part",
    "RunInterrupted",
    "Study",
    "UserError",
    "Verdict",
    "above",
    "below",
    "claim",
    "judge",
    "part",
]
