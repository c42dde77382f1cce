import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from unseen.lab import UserError
from unseen.worlds.control import OfflineDataset


def chain(lengths, **more):
    """Episodes whose observation is 100 * episode + time."""
    return OfflineDataset.from_episodes(
        [
            {
                "observation": (100.0 * i + np.arange(n + 1))[:, None],
                "action": np.arange(n),
                "reward": np.arange(1.0, n + 1),
                "terminated": i % 2 == 0,
                **more,
            }
            for i, n in enumerate(lengths)
        ]
    )


LOG = chain([5, 3, 8])


def test_rows_name_every_transition_in_order():
    assert LOG.size == 16
    assert LOG.rows[:6].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [1, 0]]


def test_transitions_are_uniform_and_respect_the_limit():
    batch = LOG.transitions(jax.random.key(0), 16_000)
    counts = np.zeros(16)
    for e, t in zip(batch.episode.tolist(), batch.time.tolist(), strict=True):
        counts[[0, 5, 8][e] + t] += 1
    assert stats.chisquare(counts).pvalue > 0.001
    few = jax.jit(lambda limit: LOG.transitions(jax.random.key(1), 500, limit=limit))(jnp.array(6))
    assert set(zip(few.episode.tolist(), few.time.tolist(), strict=True)) == {*((0, t) for t in range(5)), (1, 0)}


def test_a_transition_is_what_the_log_says():
    batch = LOG.transitions(jax.random.key(0), 100, discount=0.9)
    np.testing.assert_array_equal(batch.observation[:, 0], 100 * batch.episode + batch.time)
    np.testing.assert_array_equal(batch.next_observation, batch.observation + 1)
    np.testing.assert_array_equal(batch.reward, batch.time + 1)
    ended = (batch.time + 1 == LOG.length[batch.episode]) & (batch.episode != 1)  # episode 1 was only cut off
    np.testing.assert_allclose(batch.discount, np.where(ended, 0.0, 0.9), rtol=1e-6)


def test_n_step_by_hand():
    batch = LOG.n_step(jax.random.key(0), 300, 3, discount=0.5)
    for i in range(300):
        e, t = int(batch.episode[i]), int(batch.time[i])
        n = min(3, [5, 3, 8][e] - t)
        assert batch.reward[i] == pytest.approx(sum(0.5**k * (t + 1 + k) for k in range(n)))
        assert batch.next_observation[i, 0] == 100 * e + t + n
        over = t + n == [5, 3, 8][e] and e != 1
        assert batch.discount[i] == pytest.approx(0 if over else 0.5**n)


def test_segments_stop_being_valid_at_the_end():
    batch = LOG.segments(jax.random.key(0), 200, 4)
    wanted = batch.time[:, :1] + jnp.arange(4)
    np.testing.assert_array_equal(batch.valid, wanted < LOG.length[batch.episode][:, None])
    np.testing.assert_array_equal(
        batch.observation[..., 0][batch.valid], (100 * batch.episode[:, None] + wanted)[batch.valid]
    )


def test_returns_to_go_by_hand():
    returns = chain([3]).returns_to_go(0.5)
    np.testing.assert_allclose(returns[0], [1 + 0.5 * 2 + 0.25 * 3, 2 + 0.5 * 3, 3])
    assert float(LOG.returns_to_go()[1, 0]) == 6 and float(LOG.returns_to_go()[1, 5]) == 0


@pytest.mark.parametrize("discount", [0.5, 0.9, 0.99])
def test_geometric_goals_have_the_truncated_geometric_distribution(discount):
    zeros = jnp.zeros(20_000, int)
    episode, time = LOG.hindsight(jax.random.key(3), zeros + 2, zeros + 1, how="geometric", discount=discount)
    weights = discount ** np.arange(1, 8)
    counts = np.bincount(np.asarray(time) - 1, minlength=8)
    assert set(episode.tolist()) == {2} and counts[0] == 0
    assert stats.chisquare(counts[1:], 20_000 * weights / weights.sum()).pvalue > 0.001


def test_other_hindsight_goals():
    batch = LOG.transitions(jax.random.key(0), 4_000)
    place = batch.episode, batch.time
    episode, time = LOG.hindsight(jax.random.key(1), *place, how="final")
    np.testing.assert_array_equal(time, LOG.length[batch.episode])
    _, time = LOG.hindsight(jax.random.key(1), *place, how="uniform")
    ahead = np.asarray(time - batch.time)[(batch.episode == 2) & (batch.time == 3)]
    assert set(ahead) == {1, 2, 3, 4, 5} and stats.chisquare(np.bincount(ahead)[1:]).pvalue > 0.001
    episode, time = LOG.hindsight(jax.random.key(1), *place, how="random", limit=5)
    assert set(episode.tolist()) == {0} and set(time.tolist()) == {1, 2, 3, 4, 5}
    np.testing.assert_array_equal(LOG.at(episode, time)[:, 0], time)


def test_cut_ends_the_last_episode_early_and_without_reward():
    log = LOG.cut(7)
    assert log.size == 7 and log.length.tolist() == [5, 2] and log.terminated.tolist() == [True, False]
    assert log.observation[1, :, 0].tolist() == [100, 101, 102, 102, 102, 102]
    assert LOG.cut(5).terminated.tolist() == [True]
    with pytest.raises(UserError, match="16"):
        LOG.cut(17)


def test_arrays_round_trip():
    back = OfflineDataset.from_arrays(LOG.to_arrays())
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), LOG, back)))


def test_broken_episodes_are_refused():
    with pytest.raises(UserError, match="none"):
        OfflineDataset.from_episodes([])
    with pytest.raises(UserError, match="3 actions and 3 observations in episode 0"):
        OfflineDataset.from_episodes([{"observation": np.zeros((3, 1)), "action": np.zeros(3)}])


def test_minari_round_trip(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    log = OfflineDataset.from_episodes(
        [
            {
                "observation": np.random.default_rng(i).normal(size=(n + 1, 4)).astype(np.float32),
                "action": np.random.default_rng(i).normal(size=(n, 2)).astype(np.float32),
                "reward": np.arange(n, dtype=np.float32),
                "achieved": np.random.default_rng(i + 9).normal(size=(n + 1, 2)).astype(np.float32),
                "terminated": i == 1,
                "task": i,
                "behaviour": 3,
                "action_kept": np.arange(n) % 2 == 0,
            }
            for i, n in enumerate([4, 7, 2])
        ]
    )
    log.to_minari("unseen/test-v0")
    assert minari.load_dataset("unseen/test-v0").total_steps == 13
    back = OfflineDataset.from_minari("unseen/test-v0")
    inside = np.arange(7) < np.asarray(log.length)[:, None]
    for name in ("length", "terminated", "observation", "achieved", "task", "behaviour"):
        np.testing.assert_array_equal(getattr(back, name), getattr(log, name), err_msg=name)
    for name in ("action", "reward", "action_kept", "reward_kept"):
        np.testing.assert_array_equal(
            np.asarray(getattr(back, name))[inside], np.asarray(getattr(log, name))[inside], err_msg=name
        )
