import jax
import numpy as np

from unseen.measures.exact import value_iteration
from unseen.worlds.control.revaluation import four_rooms_changes, two_stage_graph


def differs(old, change):
    """(state, action) pairs in which two tasks differ."""
    new = change.task
    return {
        (int(s), int(a))
        for s, a in np.argwhere(
            (np.abs(np.asarray(new.transition) - old.transition).max(-1) > 0) | (np.asarray(new.reward) != old.reward)
        )
    }


def test_nothing_but_the_sites_has_changed():
    for tasks in (two_stage_graph(), four_rooms_changes(jax.random.key(0))):
        for change in (tasks.reward, tasks.transition):
            sites = {tuple(int(x) for x in pair) for pair in change.sites}
            assert differs(tasks.old, change) <= sites
        assert np.array_equal(tasks.reward.task.transition, tasks.old.transition)
        assert np.array_equal(tasks.transition.task.reward, tasks.old.reward)


def test_both_changes_of_the_graph_move_the_best_first_choice():
    tasks = two_stage_graph()
    first = [
        int(value_iteration(t.transition, t.reward, 0.9)[1][0])
        for t in (tasks.old, tasks.reward.task, tasks.transition.task)
    ]
    assert first == [0, 1, 1]


def test_four_rooms_keep_the_goal_reachable_by_a_detour():
    tasks = four_rooms_changes(jax.random.key(3), slip=0.0)
    old, new = (
        float(t.start @ value_iteration(t.transition, t.reward, 0.95)[0]) for t in (tasks.old, tasks.transition.task)
    )
    assert 0 < new < 0.9 * old
