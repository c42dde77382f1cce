import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from unseen.lab import UserError
from unseen.methods import TemporalAugmentation
from unseen.worlds.control import OfflineDataset

# Three straight trajectories on a line of integer points, half a unit of noise aside: 0..4, 4..8 and 20..22. The
# first two meet at 4, nothing meets the third.
PATHS = [np.arange(0.0, 5), np.arange(4.0, 9), np.arange(20.0, 23)]
LOG = OfflineDataset.from_episodes([{"observation": p[:, None], "action": np.zeros(len(p) - 1)} for p in PATHS])
POINTS = len({*PATHS[0], *PATHS[1], *PATHS[2]})  # a cluster for every point
SWAP = TemporalAugmentation.of(LOG.achieved, LOG.length, clusters=POINTS, seed=1)


def at(episode, time):
    return jnp.full(4000, episode), jnp.full(4000, time)


def test_every_point_has_a_cluster_of_its_own():
    clusters = [tuple(np.asarray(SWAP.cluster)[e, : len(p)]) for e, p in enumerate(PATHS)]
    assert clusters[0][4] == clusters[1][0]
    assert len({*clusters[0], *clusters[1], *clusters[2]}) == POINTS


def test_waypoints_are_uniform_over_the_cluster():
    episode, time = SWAP.waypoint(jax.random.key(0), *at(0, 4))
    first = np.asarray((episode == 0) & (time == 4))
    assert (first | np.asarray((episode == 1) & (time == 0))).all()
    assert stats.binomtest(int(first.sum()), 4000).pvalue > 0.001


def test_a_swapped_goal_lies_later_on_a_trajectory_through_the_goal():
    # Goal 4 of path 0: half of the waypoints are its own (the goal stays 4), half lead to 4..8 uniformly.
    goals = LOG.at(*SWAP(jax.random.key(0), *at(0, 4), probability=1.0))[:, 0]
    counts = np.array([int((goals == g).sum()) for g in (4, 5, 6, 7, 8)])
    assert counts.sum() == 4000
    assert stats.chisquare(counts, 4000 * np.array([0.6, 0.1, 0.1, 0.1, 0.1])).pvalue > 0.001


def test_swaps_happen_as_often_as_asked_also_when_traced():
    swap = jax.jit(lambda p: SWAP(jax.random.key(0), *at(1, 0), probability=p))
    for p in (0.0, 0.5, 1.0):
        episode, time = swap(jnp.array(p))
        moved = float(((episode != 1) | (time != 0)).mean())
        # Waypoint: path 0's last state (kept as goal), or path 1's first with five later states.
        assert moved == pytest.approx(p * (0.5 + 0.5 * 0.8), abs=0.03)


def test_a_trajectory_that_meets_no_other_keeps_its_goals():
    episode, time = SWAP(jax.random.key(0), *at(2, 1), probability=1.0)
    assert set(episode.tolist()) == {2} and set(time.tolist()) == {1, 2}


def test_limit_leaves_later_episodes_out():
    episode, _ = jax.jit(lambda n: SWAP(jax.random.key(0), *at(0, 4), probability=1.0, limit=n))(jnp.array(4))
    both, _ = SWAP(jax.random.key(0), *at(0, 4), probability=1.0, limit=8)
    # Path 1 starts after 4 transitions: outside a log of 4, inside one of 8.
    assert set(episode.tolist()) == {0} and set(both.tolist()) == {0, 1}


def test_clusters_agree_with_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    points = np.random.default_rng(0).normal(size=(300, 3, 2)) + 50.0 * (np.arange(300) // 100)[:, None, None]
    length = jnp.full(300, 2)
    ours = TemporalAugmentation.of(jnp.asarray(points, jnp.float32), length, clusters=3).cluster.ravel()
    theirs = cluster.KMeans(3, n_init=5, random_state=0).fit(points.reshape(-1, 2)).labels_
    assert len(set(zip(ours.tolist(), theirs.tolist(), strict=True))) == 3


def test_more_clusters_than_states_are_refused():
    with pytest.raises(UserError, match="13 states"):
        TemporalAugmentation.of(LOG.achieved, LOG.length, clusters=14)
