"""Stimuli for studies of language models as subjects."""

from unseen.worlds.minds.dialogue import Dialogue, Question, Reply, read_choice

__all__ = ["Dialogue", "Question", "Reply", "read_choice"]
