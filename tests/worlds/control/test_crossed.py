import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.control import CrossedRegions, MazeOracle, PointMaze, StitchingSplit, TwoRewardCorridor

pytestmark = pytest.mark.optimized

REGIONS = CrossedRegions(PointMaze.preset("four-rooms"), ("AB", "BC", "CD"))
LOG = REGIONS.collect(6_000)


def test_no_unlisted_pair_occurs_in_a_trajectory():
    listed = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]], bool)
    np.testing.assert_array_equal(REGIONS.split.seen, listed)
    np.testing.assert_array_equal(StitchingSplit.in_log(REGIONS.maze, LOG).seen, listed)
    assert REGIONS.split.unseen.sum() == 6  # A-C, A-D and B-D, both ways


def test_in_log_finds_a_pair_that_was_smuggled_in():
    crossed = CrossedRegions(PointMaze.preset("four-rooms"), ("AB", "AD")).collect(2_000)
    assert StitchingSplit.in_log(REGIONS.maze, crossed).seen[0, 3]


def test_the_log_follows_the_dynamics_and_ends_at_goals():
    states, actions = LOG.observation, LOG.action
    after = jax.vmap(jax.vmap(REGIONS.maze.step))(states[:, :-1], actions)
    inside = np.arange(actions.shape[1]) < np.asarray(LOG.length)[:, None]
    np.testing.assert_allclose(np.asarray(after)[inside], np.asarray(states[:, 1:])[inside], atol=1e-5)
    assert LOG.size == 6_000 and np.asarray(LOG.reward).sum() >= len(LOG.length) - 1
    assert np.asarray(LOG.terminated)[:-1].all()


def test_a_shorter_log_is_a_prefix():
    short = REGIONS.collect(2_000)
    whole = len(short.length) - 1
    np.testing.assert_array_equal(short.rows, LOG.rows[:2_000])
    for name in ("observation", "action"):
        ours, theirs = getattr(short, name)[:whole], getattr(LOG, name)[:whole]
        np.testing.assert_array_equal(ours, theirs[:, : ours.shape[1]])
    assert short.size == 2_000


def test_the_oracle_solves_every_pair_and_standing_still_none():
    oracle = MazeOracle.of(REGIONS.maze)
    solved = REGIONS.success(lambda m, s, g: (m, oracle(s, g)), jax.random.key(0), episodes=5, horizon=150)
    assert solved.shape == (4, 4) and float(solved.min()) == 1
    still = REGIONS.success(lambda m, s, g: (m, jnp.zeros(2)), jax.random.key(0), episodes=5, horizon=3)
    assert float(REGIONS.split.rates(still)["seen"]) == 0
    late = REGIONS.success(lambda m, s, g: (m, oracle(s, g)), jax.random.key(0), episodes=5, horizon=3)
    assert float(REGIONS.split.rates(late)["unseen"]) == 0


def test_rates_by_hand():
    split = StitchingSplit.of("ABC", ("AB", "BC"))
    success = jnp.array([[9.0, 0.5, 0.1], [0.7, 9.0, 0.2], [0.3, 0.6, 9.0]])
    rates = split.rates(success)
    assert float(rates["seen"]) == pytest.approx((0.5 + 0.7 + 0.2 + 0.6) / 4)
    assert float(rates["unseen"]) == pytest.approx((0.1 + 0.3) / 2)


@pytest.mark.parametrize("pair", ["AE", "AA", "ABC", "A"])
def test_a_wrong_pair_is_refused(pair):
    with pytest.raises(UserError, match="pairs takes"):
        StitchingSplit.of("ABCD", (pair,))


def test_the_corridor_never_pays_two_from_the_start():
    world = TwoRewardCorridor()
    log = world.collect(5_000)
    start = np.asarray(log.observation[:, 0, 0])
    paid = np.asarray(log.returns_to_go()[:, 0])
    assert set(np.unique(paid)) == {0.0, 1.0, 2.0}
    assert paid[start < 6].max() == 1 and (paid[start > 7] > 1).any()


def test_corridor_returns_of_going_left_right_and_nowhere():
    world = TwoRewardCorridor()
    for action, expected in (((-1.0, 0.0), 1.0), ((1.0, 0.0), 2.0), ((0.0, 1.0), 0.0)):
        move = jnp.array(action)
        returns = world.returns(lambda state, move=move: move, jax.random.key(0), episodes=7)
        assert returns.tolist() == [expected] * 7
