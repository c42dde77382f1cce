"""Worlds of exact algorithms and operation tables."""

from unseen.worlds.algorithms.addition import PlainAddition, SumPairs
from unseen.worlds.algorithms.automata import Automaton, RandomAutomata, StringTree
from unseen.worlds.algorithms.chomsky import CHOMSKY_TASKS, ChomskyTask
from unseen.worlds.algorithms.modular import OPERATIONS, ModularArithmetic, PairList, PairSplit

__all__ = [
    "CHOMSKY_TASKS",
    "OPERATIONS",
    "Automaton",
    "ChomskyTask",
    "ModularArithmetic",
    "PairList",
    "PairSplit",
    "PlainAddition",
    "RandomAutomata",
    "StringTree",
    "SumPairs",
]
