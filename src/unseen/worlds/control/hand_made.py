"""Nine mazes drawn by hand: levels that no generator of ours makes, for the test of what was learned on those."""

from __future__ import annotations

from unseen.worlds.control.grid_levels import GridLevel

_DRAWN = {
    "corridor": """\
###########
#S........#
#########.#
#.........#
#.#########
#.........#
#########.#
#.........#
#.#########
#........G#
###########""",
    "spiral": """\
###########
#S........#
#########.#
#.......#.#
#.#####.#.#
#.#G..#.#.#
#.###.#.#.#
#.....#.#.#
#######.#.#
#.........#
###########""",
    "four rooms": """\
###########
#S...#....#
#....#....#
#.........#
#....#....#
##.#####.##
#....#....#
#....#....#
#.........#
#....#...G#
###########""",
    "nine rooms": """\
###########
#S..#..#..#
#.........#
#...#..#..#
##.#####.##
#...#..#..#
#...#.....#
##.#####.##
#.........#
#...#..#.G#
###########""",
    "pillars": """\
###########
#S........#
#.#.#.#.#.#
#.........#
#.#.#.#.#.#
#.........#
#.#.#.#.#.#
#.........#
#.#.#.#.#.#
#........G#
###########""",
    "comb": """\
###########
#.#.#.#.#.#
#.#.#.#.#.#
#.#.#.#.#.#
#.#.#.#.#.#
#.........#
#.#.#.#.#.#
#.#.#.#.#.#
#.#.#.#.#.#
#S#.#.#.#G#
###########""",
    "trap": """\
###########
#.........#
#.#######.#
#.......#.#
#.......#.#
#S......#G#
#.......#.#
#.......#.#
#.#######.#
#.........#
###########""",
    "detour": """\
###########
#.........#
#.#.#####.#
#.#.....#.#
#.#####.#.#
#S#G..#.#.#
#.###.#.#.#
#.#.....#.#
#.#######.#
#.........#
###########""",
    "open field": """\
###########
#.........#
#.........#
#.........#
#.........#
#S.......G#
#.........#
#.........#
#.........#
#.........#
###########""",
}  # fmt: skip


def hand_made_mazes() -> dict[str, GridLevel]:
    """Nine levels by name, 9 x 9 cells inside their border, one goal of reward 1 each: long corridors, a spiral, rooms,
    pillars, dead ends, and ways around a wall. `stack_levels` makes one pytree of them.

    Drawn for this laboratory; in the role of the hand-designed mazes on which Jackson et al., "Discovering General
    Reinforcement Learning Algorithms with Adversarial Environment Design" (2023), test.
    """
    return {name: GridLevel.from_text(drawn) for name, drawn in _DRAWN.items()}
