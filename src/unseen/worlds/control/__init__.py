from unseen.worlds.control.corridor import TwoRewardCorridor, collect_corridor
from unseen.worlds.control.crossed import CrossedRegions, StitchingSplit, collect_crossed
from unseen.worlds.control.dataset import OfflineDataset, Segments, Transitions
from unseen.worlds.control.maze import LAYOUTS, MazeOracle, PointMaze, shortest_steps
