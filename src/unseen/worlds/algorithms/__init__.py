"""Worlds of exact algorithms and operation tables."""

from unseen.worlds.algorithms.modular import OPERATIONS, ModularArithmetic, PairList, PairSplit

__all__ = ["OPERATIONS", "ModularArithmetic", "PairList", "PairSplit"]
