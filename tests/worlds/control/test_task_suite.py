import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax")

from unseen.lab import UserError
from unseen.worlds.control.task_suite import (
    CONTACT,
    HIGH,
    LOW,
    SENTENCES,
    STEP,
    TEST_TASKS,
    TRAIN_POSITIONS,
    TRAIN_TASKS,
    TaskSuite,
)

SUITE = TaskSuite((*TRAIN_TASKS, *TEST_TASKS))
STEP_ENV = jax.jit(SUITE.step_env)
START = jax.jit(SUITE.start)
RESETS = jax.jit(lambda keys, params: jax.vmap(lambda key: SUITE.reset_env(key, params)[1])(keys))


def act(state, *moves):
    """State after actions (motion in metres, gripper)."""
    for *motion, grip in moves:
        action = jnp.array([*(np.array(motion) / STEP), grip], jnp.float32)
        _, state, *_ = STEP_ENV(jax.random.key(0), state, action, SUITE.default_params)
    return state


def beginning(task, hand=None, **changes):
    import dataclasses

    state = START(SUITE.tasks.index(task), 3)
    changes |= {} if hand is None else {"hand": jnp.asarray(hand, jnp.float32)}
    return dataclasses.replace(state, **changes)


def test_the_expert_solves_every_task():
    def run(task, position):
        def step(state, _):
            _, state, reward, *_ = SUITE.step_env(jax.random.key(0), state, SUITE.expert(state), SUITE.default_params)
            return state, (state, reward)

        end, (states, reward) = jax.lax.scan(step, SUITE.start(task, position), None, SUITE.max_steps)
        return end.success, states, reward

    positions = jnp.arange(100)  # of training and new
    solved, states, reward = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(jnp.arange(15), positions)
    assert solved.all(), dict(zip(SUITE.tasks, solved.mean(1), strict=True))
    first = (~states.success).sum(-1)
    assert first.min() >= 1 and first.max() < SUITE.max_steps  # no task begins solved
    assert np.all(states.hand >= LOW - 1e-6) and np.all(states.hand <= HIGH + 1e-6)
    assert np.all((reward >= 0) & (reward <= 1)) and np.all(reward.max(-1) > 0.5)


def test_doing_nothing_solves_nothing():
    keys = jax.random.split(jax.random.key(0), 60)
    assert not jax.jit(lambda: SUITE.solved(lambda key, seen: jnp.zeros(4), SUITE.params(), keys))().any()


def test_positions_are_a_places_number_and_new_ones_are_new():
    everywhere = jax.jit(jax.vmap(jax.vmap(SUITE.start, (None, 0)), (0, None)))
    places = everywhere(jnp.arange(15), jnp.arange(2 * TRAIN_POSITIONS))
    where = np.concatenate([places.base, places.goal], -1)
    for task in range(15):
        assert len(np.unique(where[task].round(5), axis=0)) == 2 * TRAIN_POSITIONS
    # The place belongs to the task, not to its number within a suite.
    other = TaskSuite(("lever-pull", "push"), shows_goal=False).start(1, 7)
    assert np.array_equal(other.goal, SUITE.start(SUITE.tasks.index("push"), 7).goal)

    def drawn(params):
        return np.asarray(RESETS(jax.random.split(jax.random.key(0), 1_500), params).goal)

    push = SUITE.tasks.index("push")
    train, new = drawn(SUITE.params(push)), drawn(SUITE.new_positions(push))
    seen = {tuple(goal) for goal in train}
    assert len(seen) == TRAIN_POSITIONS and not seen & {tuple(goal) for goal in new}


def test_a_closed_gripper_pushes_by_the_overlap():
    puck = jnp.array([0.0, 0.0, 0.02])
    state = beginning("push", hand=[-0.1, 0, 0.02], point=puck)
    after = act(state, (0.05, 0, 0, 1))
    assert np.allclose(after.point, puck + np.array([CONTACT - 0.05, 0, 0]), atol=1e-6)
    assert np.allclose(act(state, (0.05, 0, 0, -1)).point, puck)  # an open one goes around it
    jumped = act(beginning("push", hand=[-0.03, 0, 0.02], point=puck), (0.05, 0, 0, 1))
    assert np.allclose(jumped.point, [0.02 + CONTACT, 0, 0.02], atol=1e-6)  # ahead, not behind


def test_a_puck_is_held_carried_and_falls():
    puck = jnp.array([0.0, 0.0, 0.02])
    held = act(beginning("pick-place", hand=puck, point=puck), (0, 0, 0, 1))
    assert held.grasped == 1 and held.opening == 0
    up = act(held, (0, 0.05, 0.05, 1), (0, 0, 0.05, 1))
    assert np.allclose(up.point, [0, 0.05, 0.12], atol=1e-6) and np.allclose(up.hand, up.point)
    down = act(up, (0, 0, 0, -1), (0, 0, 0, -1), (0, 0, 0, -1))
    assert down.grasped == 0 and np.allclose(down.point, [0, 0.05, 0.02], atol=1e-6)
    came_closed = act(beginning("pick-place", hand=[0, 0, 0.2], point=puck), (0, 0, -0.05, 1), *[(0, 0, -0.05, 1)] * 4)
    assert came_closed.grasped == 0
    # Push tasks have nothing to hold.
    assert act(beginning("push", hand=puck, point=puck), (0, 0, 0, 1)).grasped == 0


def test_a_drawer_and_a_door_keep_to_their_curves():
    drawer = beginning("drawer-open")
    drawer = beginning("drawer-open", hand=drawer.point)
    held = act(drawer, (0, 0, 0, 1), (0.05, -0.05, 0.03, 1))
    assert np.isclose(held.joint, 0.05 / 0.2, atol=1e-5)  # only the part along the rail counts
    assert np.allclose(held.point, drawer.base + np.array([0, -0.05, 0]), atol=1e-5)
    door = beginning("door-open")
    door = beginning("door-open", hand=door.point)
    state = act(door, (0, 0, 0, 1), *[(0, -0.05, 0, 1)] * 3)
    radius = np.linalg.norm(np.asarray(state.point - door.base))
    assert np.isclose(radius, 0.2, atol=1e-6) and 0.3 < state.joint < 0.7
    assert np.allclose(state.hand, state.point, atol=1e-5)  # the hand is taken along


def test_observation_has_the_documented_order():
    state = beginning("lever-pull")
    seen = np.asarray(SUITE.get_obs(state))
    expected = [*state.hand / 0.25, 1, *state.point / 0.25, 0, 0, *state.goal / 0.25]
    assert seen.shape == SUITE.observation_space().shape and np.allclose(seen, expected)
    hidden = TaskSuite(("reach", "push"), shows_goal=False, shows_task=True)
    seen = np.asarray(hidden.get_obs(hidden.start(1, 0)))
    assert np.all(seen[9:12] == 0) and np.array_equal(seen[12:], [0, 1]) and hidden.observation_space().shape == (14,)


def test_tasks_are_drawn_as_weighted():
    keys = jax.random.split(jax.random.key(1), 1_500)
    counts = np.bincount(RESETS(keys, SUITE.params()).task, minlength=15)
    assert np.all(np.abs(counts - 100) < 50)
    assert np.all(RESETS(keys, SUITE.params(4)).task == 4)


def test_every_task_has_a_sentence_of_its_own_and_bad_names_are_named():
    assert set(SENTENCES) == set(SUITE.tasks) and len(set(SENTENCES.values())) == 15
    assert len(TRAIN_TASKS) == 10 and len(TEST_TASKS) == 5 and not set(TRAIN_TASKS) & set(TEST_TASKS)
    for wrong in (("psuh",), ("push", "push")):
        with pytest.raises(UserError, match="different names"):
            TaskSuite(wrong)
