"""Continuous and finite control tasks with named axes of variation."""

from unseen.lab.on_demand import on_demand
from unseen.worlds.control.composite_goals import CompositeGoal, branch_success, likely_outcomes, twin_processes
from unseen.worlds.control.corridor import TwoRewardCorridor, collect_corridor
from unseen.worlds.control.crossed import CrossedRegions, StitchingSplit, collect_crossed
from unseen.worlds.control.dataset import OfflineDataset, Segments, Transitions
from unseen.worlds.control.environment_families import perturbed_garnets, replicated
from unseen.worlds.control.gaits import Bodies, GaitExpert, search_gait, swim
from unseen.worlds.control.maze import LAYOUTS, MazeOracle, PointMaze, shortest_steps
from unseen.worlds.control.revaluation import ChangingTask, four_rooms_changes, two_stage_graph
from unseen.worlds.control.skill_grid import SyntheticLearner, mastered_share
from unseen.worlds.control.swimmer import Swimmer, SwimmerState
from unseen.worlds.control.tabular import TabularMDPs, free_cells

__all__ = [
    "LAYOUTS",
    "Bodies",
    "ChangingTask",
    "CompositeGoal",
    "CrossedRegions",
    "GaitExpert",
    "MazeOracle",
    "OfflineDataset",
    "PointMaze",
    "Segments",
    "StitchingSplit",
    "Swimmer",
    "SwimmerState",
    "SyntheticLearner",
    "TabularMDPs",
    "Transitions",
    "TwoRewardCorridor",
    "branch_success",
    "collect_corridor",
    "collect_crossed",
    "four_rooms_changes",
    "free_cells",
    "likely_outcomes",
    "mastered_share",
    "perturbed_garnets",
    "replicated",
    "search_gait",
    "shortest_steps",
    "swim",
    "twin_processes",
    "two_stage_graph",
]

# The gymnax worlds need the extra `control`, the others do not: these are imported when they are asked for.
_ON_DEMAND = {
    "context": ("ContextCartPole", "ContextFeature", "ContextMDP", "ContextPendulum", "Region", "context_protocol"),
    "coordinate_levels": ("PLAYROOM_EVENTS", "CoordinateLevels", "playroom_events"),
    "continuous_maze": ("ContinuousMaze", "MazeLevel", "MazeParams", "MazeState", "maze_keys"),
    "course": ("Course", "GoalCourse"),
    "own": ("ContextGymnax", "HostContextMDP", "environment_named"),
    "task_suite": ("TaskParams", "TaskState", "TaskSuite"),
    "trials": ("Trials",),
    "goal_games": ("GoalFormula", "GoalGame", "TwoPlayerGoalGrid"),
    "grid_levels": (
        "GridLevel",
        "GridLevels",
        "GridParams",
        "GridState",
        "Lava",
        "Maze",
        "Playroom",
        "RewardObjects",
        "Rooms",
        "TwoPlayerGoals",
        "distances",
        "level_keys",
        "levels_of",
        "shortest_path",
        "solvable",
        "stack_levels",
    ),
    "shift_kinds": (
        "CellTable",
        "Elements",
        "Shift",
        "ShiftKinds",
        "ShiftedLevels",
        "ShiftedParams",
        "ShiftedState",
        "TwoCoins",
        "exact_return",
    ),
    "xminigrid_levels": ("XMiniGridLevels", "XMiniGridParams", "XMiniGridState"),
    "pixels": ("PixelControl", "Visuals", "visuals"),
    "compiled_levels": ("CompiledLevel",),
    "discrete_pixels": ("DiscretePixels",),
    "frame_stack": ("FrameStack", "FrameStackState"),
    "embodiments": ("Embodiments", "find_gaits", "generate_bodies", "random_swimmers"),
    "first_pays": ("FirstPays",),
    "hand_made": ("hand_made_mazes",),
    "hazards": ("HazardTask", "Hazards"),
    "limb_removal": ("limb_sets",),
    "maze_task": ("MazeTask", "MazeTaskParams", "MazeTaskState", "clears"),
}

__getattr__ = on_demand(__name__, _ON_DEMAND)
