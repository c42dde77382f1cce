import numpy as np
import pytest

pytest.importorskip("metaworld")
import metaworld

from unseen.lab import UserError
from unseen.worlds.control.meta_world import BENCHMARKS, TRAIN_POSITIONS, MetaWorldSuite

SUITE = MetaWorldSuite("ML10", "test", max_steps=300)


def test_splits_are_meta_worlds_own():
    sizes = {name: (len(b["train"]), len(b["test"])) for name, b in BENCHMARKS.items()}
    assert sizes == {
        "MT10": (10, 0), "MT25": (25, 0), "MT50": (50, 0), "ML10": (10, 5), "ML25": (25, 5), "ML45": (45, 5),
    }  # fmt: skip
    for name in ("ML10", "ML45"):
        assert not set(BENCHMARKS[name]["train"]) & set(BENCHMARKS[name]["test"])
    assert set(BENCHMARKS["ML45"]["train"]) | set(BENCHMARKS["ML45"]["test"]) == set(metaworld.MT1.ENV_NAMES)


@pytest.mark.parametrize("task", ["drawer-open-v3", "door-close-v3"])
def test_an_episode_is_the_simulators_own(task):
    """Step by step what Meta-World gives by itself, from the same seed and with the same actions."""
    alone = metaworld.env_dict.ALL_V3_ENVIRONMENTS[task]()
    alone.seeded_rand_vec, alone._freeze_rand_vec, alone._set_task_called = True, False, True
    alone._partially_observable = False
    del alone.sawyer_observation_space
    alone.seed(60)
    observation, _ = alone.reset()
    steps = 0
    for mine, action, reward, success in SUITE.episode(task, 60):
        assert np.array_equal(mine, observation)
        observation, peer_reward, _, _, info = alone.step(action)
        assert reward == peer_reward and success == bool(info["success"])
        steps += 1
    assert success and 10 < steps < 300


def test_the_experts_solve_held_out_tasks_at_new_positions():
    tasks = ["drawer-open-v3", "door-close-v3"]
    demonstrations = SUITE.demonstrations(range(TRAIN_POSITIONS, TRAIN_POSITIONS + 2), tasks)
    assert demonstrations["success"].shape == (2, 2) and demonstrations["success"].all()
    seen, actions = demonstrations["observation"], demonstrations["action"]
    assert seen.shape == (len(actions), 39) and np.all(seen[:, -3:] == 0)  # the goal is hidden in ML
    assert np.abs(actions).max() <= 1 and np.ptp(actions, axis=0).min() > 0


def test_positions_are_numbers_and_new_ones_are_new():
    task = "door-close-v3"
    first = [SUITE.start(task, position).copy() for position in (0, 49, 50, 51)]
    assert len({tuple(x.round(6)) for x in first}) == 4
    assert np.array_equal(SUITE.start(task, 50), first[2])
    assert np.all(SUITE.seen(first[0])[-3:] == 0) and np.any(first[0][-3:] != 0)
    assert np.array_equal(MetaWorldSuite("drawer-open-v3", shows_goal=True).seen(first[0]), first[0])


def test_a_policy_that_does_nothing_or_breaks():
    assert not MetaWorldSuite("ML10", "test", max_steps=5).solved(lambda seen: np.zeros(4), [0], SUITE.tasks[:1]).any()

    def broken(seen):
        raise ValueError("no weights")

    with pytest.raises(UserError, match=r"drawer-open-v3 raised ValueError \(no weights\) at step 0 of position 0"):
        SUITE.solved(broken, [0], ["drawer-open-v3"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ML11",), "benchmark takes"),
        (("MT10", "test"), "split takes train of MT10"),
        (("ML10", "new"), "train or test"),
    ],
)
def test_bad_settings_are_named(arguments, said):
    with pytest.raises(UserError, match=said):
        MetaWorldSuite(*arguments)
    with pytest.raises(UserError, match="500"):
        MetaWorldSuite(max_steps=501)
    with pytest.raises(UserError, match="task takes one of"):
        SUITE.simulator("reach-v3")
