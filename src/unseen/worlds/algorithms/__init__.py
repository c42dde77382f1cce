"""Worlds of exact algorithms and operation tables."""

from unseen.worlds.algorithms.modular import ModularArithmetic, PairList, PairSplit

__all__ = ["ModularArithmetic", "PairList", "PairSplit"]
