"""Continuous and finite control tasks with named axes of variation."""

from unseen.worlds.control.corridor import TwoRewardCorridor, collect_corridor
from unseen.worlds.control.crossed import CrossedRegions, StitchingSplit, collect_crossed
from unseen.worlds.control.dataset import OfflineDataset, Segments, Transitions
from unseen.worlds.control.maze import LAYOUTS, MazeOracle, PointMaze, shortest_steps
from unseen.worlds.control.tabular import TabularMDPs

__all__ = [
    "LAYOUTS",
    "CrossedRegions",
    "MazeOracle",
    "OfflineDataset",
    "PointMaze",
    "Segments",
    "StitchingSplit",
    "TabularMDPs",
    "Transitions",
    "TwoRewardCorridor",
    "collect_corridor",
    "collect_crossed",
    "shortest_steps",
]

_NEED_GYMNAX = ("ContextCartPole", "ContextFeature", "ContextMDP", "ContextPendulum", "Region", "context_protocol")


def __getattr__(name: str):  # the context worlds need the extra `control`; the others do not
    if name in _NEED_GYMNAX:
        from unseen.worlds.control import context

        return getattr(context, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
