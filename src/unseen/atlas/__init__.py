"""The atlas: the catalogue of papers with their registered claims, and the results recorded for them."""

from unseen.atlas.catalogue import Paper, families, paper, papers

__all__ = ["Paper", "families", "paper", "papers"]
