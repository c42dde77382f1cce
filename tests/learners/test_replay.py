import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.learners.replay import GoalObservation, Hindsight, Replay, Transition


def filled(steps=23, lanes=2, capacity=8, length=5):
    """Lane i ends its episodes every `length` + i steps; observations carry (lane, step), goals -1."""

    def transition(lane, step):
        o = GoalObservation(jnp.array([lane, step]), jnp.array([-1]))
        n = GoalObservation(jnp.array([lane, step + 1]), jnp.array([-1]))
        return Transition(o, jnp.array(0), jnp.array(0.0), jnp.array(False), n)

    replay = Replay.empty(transition(0, 0), lanes, capacity)
    for step in range(steps):
        rows = [transition(lane, step) for lane in range(lanes)]
        batch = jax.tree.map(lambda *x: jnp.stack(x), *rows)
        replay = replay.add(batch, jnp.array([(step + 1) % (length + lane) == 0 for lane in range(lanes)]))
    return replay


def test_only_the_last_steps_are_drawn_and_all_of_them():
    replay = filled()
    rows = replay.draw(jax.random.key(0), 400)
    seen = np.asarray(replay[rows].observation.observation)
    assert np.array_equal(seen[:, 0], rows.lane) and np.array_equal(seen[:, 1], rows.number)
    assert {tuple(row) for row in seen.tolist()} == {(lane, step) for lane in (0, 1) for step in range(15, 23)}
    early = filled(steps=3)
    assert set(np.asarray(early.draw(jax.random.key(0), 100).number).tolist()) == {0, 1, 2}


def test_the_future_stays_within_the_episode_and_reaches_all_of_it():
    replay = filled()
    rows = replay.draw(jax.random.key(1), 2_000)
    later = replay.future(jax.random.key(2), rows)
    lane, now, then = (np.asarray(x) for x in (rows.lane, rows.number, later.number))
    length = 5 + lane
    assert np.array_equal(later.lane, lane) and np.all(then >= now) and np.all(then // length == now // length)
    assert np.all(then < 23)
    found = {t for i, n, t in zip(lane, now, then, strict=True) if (i, n) == (0, 15)}
    assert found == {15, 16, 17, 18, 19}
    found = {t for i, n, t in zip(lane, now, then, strict=True) if (i, n) == (1, 18)}
    assert found == {18, 19, 20, 21, 22}  # an episode still in progress ends with its last step


def hindsight(**settings):
    return Hindsight(
        achieved=lambda o: o[:, 1:],
        reward=lambda reached, goal: (jnp.where((reached == goal).all(-1), 1.0, -0.5), (reached == goal).all(-1)),
        **settings,
    )


def test_hindsight_relabels_goals_and_rewards():
    replay = filled()
    rows = replay.draw(jax.random.key(3), 2_000)
    batch = hindsight(future=0.5)(jax.random.key(4), replay, rows, replay[rows])
    goal, reached = np.asarray(batch.observation.goal[:, 0]), np.asarray(batch.next_observation.observation[:, 1])
    changed = goal != -1
    assert abs(changed.mean() - 0.5) < 0.05
    assert np.array_equal(goal, batch.next_observation.goal[:, 0])
    assert np.all(goal[changed] >= reached[changed]) and np.all(np.asarray(batch.reward)[~changed] == 0)
    assert np.array_equal(np.asarray(batch.reward)[changed] == 1.0, goal[changed] == reached[changed])
    assert np.array_equal(np.asarray(batch.terminal), changed & (goal == reached))


def test_imagined_goals_take_their_share():
    replay = filled()
    rows = replay.draw(jax.random.key(5), 2_000)
    label = hindsight(future=0.3, imagination=0.4, imagined=lambda key, n: jnp.full((n, 1), 99))
    goal = np.asarray(label(jax.random.key(6), replay, rows, replay[rows]).observation.goal)
    assert abs((goal == 99).mean() - 0.4) < 0.05 and abs((goal == -1).mean() - 0.3) < 0.05


def test_bad_settings():
    with pytest.raises(UserError, match="future and imagination"):
        hindsight(future=0.8, imagination=0.5, imagined=lambda key, n: jnp.zeros((n, 1)))
    with pytest.raises(UserError, match="imagination"):
        hindsight(future=0.5, imagination=0.5)
    with pytest.raises(UserError, match="capacity"):
        filled(capacity=0)
