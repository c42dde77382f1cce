"""What turns a model, a world and an objective into a Learner."""

from unseen.learners.classifier import classifier
from unseen.learners.offline_td import OfflineTD
from unseen.learners.outcome_bc import OutcomeBC

__all__ = [
    "OfflineTD",
    "OutcomeBC",
    "classifier",
]
