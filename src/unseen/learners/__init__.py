"""What turns a model, a world and an objective into a Learner."""

from unseen.learners.classifier import classifier

__all__ = ["classifier"]
