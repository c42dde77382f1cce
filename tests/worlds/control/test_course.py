import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax", reason="needs the extra control")

from unseen.worlds.control.course import FREE, GOAL, LAVA, Course, GoalCourse
from unseen.worlds.control.grid_levels import GridLevel, GridLevels, Lava, distances, levels_of, stack_levels

LEVELS = levels_of(Lava(6, 0.5), 6)
COURSE = jax.jit(Course.of)(LEVELS)


def inner(cell) -> int:
    return int((cell[0] - 1) * 4 + cell[1] - 1)


def test_tables_are_the_moves_of_the_environment():
    world = GridLevels(Lava(6, 0.5))
    params = world.params(LEVELS)
    step = jax.jit(world.step_env)
    for which in (0, 3):
        first = world.first(params, which, jax.random.key(0))
        assert inner(first.player[0]) == COURSE.start[which]
        for cell in range(16):
            if COURSE.status[which, cell] != FREE:
                continue
            state = first._replace(player=jnp.array([[cell // 4 + 1, cell % 4 + 1]]))
            for action in range(4):
                _, after, reward, ended, *_ = step(jax.random.key(1), state, jnp.array(action), params)
                there = COURSE.following[which, cell, action]
                assert inner(after.player[0]) == there
                assert bool(ended) == (COURSE.status[which, there] != FREE)
                assert float(reward) == (COURSE.status[which, there] == GOAL)


def test_walls_stop_and_cells_that_lead_nowhere_are_not_used():
    level = GridLevel.from_text("######\n#S#LG#\n#.#L.#\n#...L#\n#L.L.#\n######")
    course = jax.jit(Course.of)(stack_levels([level]))
    assert course.following[0, 0].tolist() == [0, 0, 4, 0]  # a wall to the right
    assert course.goal.tolist() == [3] and course.start.tolist() == [0]
    assert not course.usable[0, 0] and course.usable[0].nonzero()[0].tolist() == [7]
    planes = course.planes()[0]
    assert planes[0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]]


def test_arrivals_of_the_best_moves_are_shortest_ways():
    """Moves that lower the distance to the target most arrive after exactly that many steps; lava is never crossed."""
    which = 1
    targets = jnp.flatnonzero(COURSE.usable[which])[:3]
    blocked = LEVELS.walls[which] | LEVELS.lava[which]
    # On the way to another cell the goal ends the episode: it is as good as a wall.
    blocked = blocked.at[*LEVELS.object_cell[which, 0]].set(True)
    near = jax.jit(jax.vmap(lambda t: distances(blocked, jnp.stack([t // 4 + 1, t % 4 + 1]))[1:-1, 1:-1].ravel()))
    far = near(targets).T
    moves = far[COURSE.following[which]].argmin(1)
    taken = np.asarray(COURSE.arrivals(jnp.array(which), moves, targets, 30))
    free = np.asarray(COURSE.status[which] == FREE)[:, None] & (np.arange(16)[:, None] != np.asarray(targets))
    assert np.array_equal(taken[free], np.asarray(far)[free]) and np.isfinite(taken[free]).any()
    # Moves that run into walls for ever never arrive.
    upwards = COURSE.arrivals(jnp.array(which), jnp.zeros((16, 1), int), jnp.array([12]), 30)
    assert np.isinf(np.asarray(upwards)).all()


def judge(reached, goal):
    there = reached[..., 0] == goal[..., 0]
    return there.astype(jnp.float32), there | (reached[..., 1] != FREE)


def test_episodes_begin_anywhere_and_end_where_they_should():
    world = GoalCourse(judge, lambda seen, goal: (seen, goal), horizon=4, practice=0.5)
    reset = jax.jit(jax.vmap(world.reset, (0, None)))
    (seen, goal), place = reset(jax.random.split(jax.random.key(0), 300), COURSE)
    assert set(seen[:, 0].tolist()) == set(range(6)) and (seen[:, 2] == FREE).all()
    assert COURSE.usable[place.level, place.cell].all() and (place.goal != place.cell).all()
    own = place.goal == COURSE.goal[place.level]
    assert 0.4 < own.mean() < 0.7 and COURSE.usable[place.level, place.goal][~own].all()
    assert np.array_equal(goal[:, 1] == GOAL, own)

    step, ends = jax.jit(world.step), set()
    for i in range(60):
        now, count = jax.tree.map(lambda x, i=i: x[i], place), 0
        while True:
            last = now
            _, now, reward, ended, late, info = step(
                jax.random.key(i), now, jax.random.randint(jax.random.key(9 * i + count), (), 0, 4), COURSE
            )
            (level, cell, status), _ = info["final_observation"]
            count += 1
            assert level == last.level and status == COURSE.status[level, cell]
            assert float(reward) == (cell == last.goal) and bool(ended) == (bool(reward) or status != FREE)
            if ended or late:
                ends.add((int(status), bool(ended)))
                assert now.time == 0 and bool(late) == (not ended and count == 4)
                break
            assert now.cell == cell and now.goal == last.goal
    assert {(LAVA, True), (FREE, False)} <= ends
