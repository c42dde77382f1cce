import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.measures.exact import value_iteration
from unseen.worlds.control.maze import LAYOUTS
from unseen.worlds.control.tabular import TabularMDPs, free_cells


@pytest.mark.parametrize(
    "family",
    [
        lambda key: TabularMDPs.garnet(key, 7, 6, 3, 2),
        lambda key: TabularMDPs.communicating(key, 7, 6, 3),
        lambda key: TabularMDPs.contexts(key, 2, 5, 3, similarity=0.3),
        lambda key: TabularMDPs.chain(3, 5, slip=0.2),
        lambda key: TabularMDPs.river_swim(2, 6),
        lambda key: TabularMDPs.communicating(key, 7, 6, 3, branching=2),
        lambda key: TabularMDPs.deep_sea(key, 3, 5),
        lambda key: TabularMDPs.four_rooms([(1, 1), (9, 9)], slip=0.2, closed=[(2, 5)]),
        lambda key: TabularMDPs.bandits(jax.random.normal(key, (3, 4, 2)), jnp.array([0.1, 0.2, 0.3, 0.4])),
    ],
)
def test_rows_are_distributions(family):
    m = family(jax.random.key(0))
    assert np.allclose(m.transition.sum(-1), 1, atol=1e-5) and np.all(m.transition >= 0)
    assert np.isclose(m.start.sum(), 1)
    assert m.reward.shape == m.transition.shape[:3]


def test_garnet_has_exactly_its_branches_and_families_differ():
    m = TabularMDPs.garnet(jax.random.key(1), 20, 8, 3, 3)
    assert np.all((np.asarray(m.transition) > 0).sum(-1) == 3)
    assert not np.allclose(m.transition[0], m.transition[1])


def test_contexts_share_reward_and_coincide_at_similarity_one():
    far = TabularMDPs.contexts(jax.random.key(2), similarity=0.0)
    same = TabularMDPs.contexts(jax.random.key(2), similarity=1.0)
    assert np.array_equal(far.reward[0], far.reward[1]) and not np.allclose(far.transition[0], far.transition[1])
    assert np.allclose(same.transition[0], same.transition[1])


def test_communicating_reaches_every_state_in_one_step():
    assert np.all(TabularMDPs.communicating(jax.random.key(3), 4, 5, 2, mixing=0.1).transition >= 0.1 / 5 - 1e-7)


def test_sparse_communicating_processes_reach_every_state_from_every_other():
    m = TabularMDPs.communicating(jax.random.key(4), 10, 20, 5, branching=2)
    p = np.asarray(m.transition)
    assert np.all((p > 0).sum(-1) == 2)
    assert np.all(p[p > 0] >= 0.05 - 1e-6)  # mixing / branching
    for one in p:  # under every fixed action, so under every policy
        for action in range(5):
            reach = np.linalg.matrix_power((np.eye(20) + one[:, action] > 0).astype(float), 20)
            assert np.all(reach > 0)


def test_deep_sea_is_gymnax_step_by_step():
    env = gymnax.make("DeepSea-bsuite")[0]
    params = env.default_params.replace(sample_action_map=False)
    size = env.size
    m = TabularMDPs.deep_sea(jax.random.key(0), 1, size, scrambled=False)
    rng = np.random.default_rng(0)
    for episode in range(3):
        _, state = env.reset(jax.random.key(episode), params)
        here = 0
        for t in range(size):
            right = int(episode == 0 or rng.random() < 0.7)
            raw = right if int(state.action_mapping[state.row, state.column]) == 1 else 1 - right
            _, state, reward, *_ = env.step_env(jax.random.key(t), state, raw, params)
            assert float(reward) == pytest.approx(float(m.reward[0, here, right]), abs=1e-6)
            here = int(m.transition[0, here, right].argmax())
            if t < size - 1:
                assert here == int(state.row) * size + int(state.column)
        assert here == size * size


def test_deep_sea_by_hand_and_scrambled_alike():
    m = TabularMDPs.deep_sea(jax.random.key(1), 5, 6)
    g = 0.9
    by_hand = g**5 - 0.01 / 6 * sum(g**t for t in range(6))
    for p, r in zip(m.transition, m.reward, strict=True):
        assert float(value_iteration(p, r, g)[0][0]) == pytest.approx(by_hand, abs=1e-5)
    assert not np.array_equal(m.reward[0], m.reward[1])


def test_four_rooms_distances_and_a_closed_door():
    cells = free_cells(LAYOUTS["four-rooms"]).tolist()
    assert len(cells) == 68
    corner, door, beside = (cells.index(c) for c in ([1, 1], [2, 5], [2, 4]))
    m = TabularMDPs.four_rooms([(1, 1), (2, 6)])
    # 8 steps from the goal: V = g^8 V(goal), and a goal in a corner is never left: V(goal) = 1/(1 - g).
    values, _ = value_iteration(m.transition[0], m.reward[0], 0.9)
    far = cells.index([5, 2])  # four down, one right
    assert float(values[corner]) == pytest.approx(10, rel=1e-4)
    assert float(values[far]) == pytest.approx(10 * 0.9**5, rel=1e-4)
    shut = TabularMDPs.four_rooms([(1, 1), (2, 6)], closed=[(2, 5)])
    assert float(shut.transition[0, beside, 1, beside]) == 1 and float(m.transition[0, beside, 1, door]) == 1
    # From (2, 4) to (2, 6): two steps through the door, where bouncing off the goal costs every other reward; or a
    # detour of 22 through the three other doors, where the shut door is a wall to lean on.
    short, _ = value_iteration(m.transition[1], m.reward[1], 0.9)
    long, _ = value_iteration(shut.transition[1], shut.reward[1], 0.9)
    assert float(short[beside]) == pytest.approx(0.9**2 / (1 - 0.81), rel=1e-4)
    assert float(long[beside]) == pytest.approx(10 * 0.9**22, rel=1e-4)


def test_grid_slip_takes_random_directions():
    m = TabularMDPs.grid("#####\n#...#\n#####", [(1, 1)], slip=0.4)
    assert np.allclose(m.transition[0, 1, 1], [0.1, 0.2, 0.7])


def test_bandits():
    means = jnp.array([[[1.0, 0.4], [0.0, 2.0]]])
    m = TabularMDPs.bandits(means, jnp.array([0.25, 0.75]))
    values, actions = value_iteration(m.transition[0], m.reward[0], 0.5)
    average = 0.25 * 1 + 0.75 * 2
    assert actions.tolist() == [0, 1]
    assert np.allclose(values, np.array([1.0, 2.0]) + 0.5 * average / 0.5)
    assert np.allclose(TabularMDPs.bandits(means[:, :1]).start, [1.0])


def test_river_swim_numbers():
    p = np.asarray(TabularMDPs.river_swim(1, 6).transition[0])
    assert np.allclose(p[0, 1, :2], [0.4, 0.6]) and np.allclose(p[2, 1, 1:4], [0.05, 0.6, 0.35])
    assert np.allclose(p[5, 1, 4:], [0.4, 0.6]) and p[3, 0, 2] == 1


def test_bad_settings_are_named():
    key = jax.random.key(0)
    for wrong in (
        lambda: TabularMDPs.garnet(key, 1, 3, 2, branching=4),
        lambda: TabularMDPs.communicating(key, mixing=0.0),
        lambda: TabularMDPs.contexts(key, similarity=1.5),
        lambda: TabularMDPs.chain(states=1),
        lambda: TabularMDPs.river_swim(states=2),
        lambda: TabularMDPs.communicating(key, branching=9),
        lambda: TabularMDPs.deep_sea(key, size=1),
        lambda: TabularMDPs.four_rooms([(0, 0)]),
        lambda: TabularMDPs.four_rooms(closed=[(5, 5)]),
        lambda: TabularMDPs.four_rooms(slip=2.0),
    ):
        with pytest.raises(UserError, match="take"):
            wrong()
