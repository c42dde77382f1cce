import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.control.gym_maze import GYM_MAZES, GymMaze, shortest_path


def test_no_test_pair_lies_within_one_group():
    for maze in GYM_MAZES.values():
        assert maze.tests
        for pair in maze.tests:
            assert not any(set(pair) <= set(group) for group in maze.groups)
        for pair in maze.seen:
            assert any(set(pair) <= set(group) for group in maze.groups)


def test_shortest_path_around_the_u():
    walls = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
    assert shortest_path(walls, (1, 1), (3, 1)) == [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]
    with pytest.raises(UserError, match="reached"):
        shortest_path([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]], (1, 1), (1, 3))


def test_an_unknown_maze_is_refused():
    with pytest.raises(UserError, match=r"u-maze, medium, large, got 'small'"):
        GymMaze.preset("small")


def test_a_real_log_stays_in_its_groups_and_follows_mujoco():
    pytest.importorskip("gymnasium_robotics")
    maze = GymMaze.preset("u-maze")
    log = maze.collect(600, seed=0)
    assert log.size == 600 and log.observation.shape[-1] == 4
    env = maze.make(300)
    for i in range(len(log.length)):
        cells = {
            tuple(int(j) for j in env.unwrapped.maze.cell_xy_to_rowcol(p))
            for p in np.asarray(log.achieved[i, : int(log.length[i]) + 1], float)
        }
        assert cells & set(maze.groups[int(log.task[i])])
        assert not {(1, 1), (3, 1)} <= cells  # the test pair is never joined
    # The first episode, replayed in the simulator from its own first state and actions.
    env.reset(seed=0)
    point = env.unwrapped.point_env
    first = np.asarray(log.observation[0, 0], float)
    point.set_state(first[:2], first[2:])
    for t in range(int(log.length[0])):
        seen = env.step(np.asarray(log.action[0, t]))[0]["observation"]
        np.testing.assert_allclose(seen, log.observation[0, t + 1], atol=1e-3)


def test_the_controller_solves_what_no_action_does_not():
    pytest.importorskip("gymnasium_robotics")
    from unseen.worlds.control.gym_maze import play, waypoint_controller

    maze = GymMaze.preset("u-maze")
    env = maze.make(300)
    rng = np.random.default_rng(0)
    assert play(env, *maze.tests[0], waypoint_controller(env, rng), seed=1)[2]
    still = maze.success(lambda observation, goal: np.zeros(2), maze.tests, episodes=1, horizon=20)
    assert still.tolist() == [0.0, 0.0]
