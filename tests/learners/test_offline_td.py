import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners import OfflineTD
from unseen.learners.offline_td import TDBatch, goal_relabelled, steps_of
from unseen.worlds.control import OfflineDataset

SIDE, STATES, DISCOUNT = 5, 25, 0.9
MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0))
GOAL = 18


def after(state, action):
    row, column = divmod(state, SIDE)
    down, right = MOVES[action]
    return min(max(row + down, 0), SIDE - 1) * SIDE + min(max(column + right, 0), SIDE - 1)


NEXT = np.array([[after(s, a) for a in range(4)] for s in range(STATES)])


def optimal():
    # Value iteration: entering the goal pays 1 and ends the episode.
    values = np.zeros((STATES, 4))
    for _ in range(200):
        values = np.where(NEXT == GOAL, 1.0, DISCOUNT * values.max(axis=1)[NEXT])
    return values


def every_step(key):
    # Full coverage: all (state, action) pairs outside the goal, in every batch.
    s, a = (x.ravel() for x in np.meshgrid(np.arange(STATES), np.arange(4), indexing="ij"))
    s, a = s[s != GOAL], a[s != GOAL]
    hit = NEXT[s, a] == GOAL
    eye = jnp.eye(STATES)
    return TDBatch(
        eye[s], jnp.asarray(a), jnp.asarray(hit, jnp.float32), eye[NEXT[s, a]],
        jnp.asarray(np.where(hit, 0.0, DISCOUNT), jnp.float32),
    )  # fmt: skip


def tabular(**settings):
    settings = {"critics": 1, "depth": 0, "target_rate": 0.05, **settings}
    return OfflineTD(
        sample=every_step, features=STATES, actions=4, discrete=True,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.03, 4000)), **settings,
    )  # fmt: skip


def q_of(td, state):
    return np.asarray(td.all_values(state.networks.critics, jnp.eye(STATES)).min(axis=0))


REST = np.arange(STATES) != GOAL


@pytest.mark.parametrize("critics", [1, 2])
def test_the_fixed_point_is_value_iterations(critics):
    td = tabular(bootstrap="maximum", critics=critics)
    state = td.train(td.init(jax.random.key(0)), 4000)
    np.testing.assert_allclose(q_of(td, state)[REST], optimal()[REST], atol=0.01)
    actions = jax.vmap(lambda s: td.act(state.networks, s))(jnp.eye(STATES))
    chosen = optimal()[np.arange(STATES), np.asarray(actions)]
    np.testing.assert_allclose(chosen[REST], optimal().max(axis=1)[REST], atol=1e-6)


def test_a_high_expectile_approaches_value_iteration_and_a_half_the_behaviours_value():
    high = tabular(expectile=0.995)
    found = q_of(high, high.train(high.init(jax.random.key(0)), 4000))[REST]
    assert abs(found - optimal()[REST]).max() < 0.05
    half = tabular(expectile=0.5)
    found = q_of(half, half.train(half.init(jax.random.key(0)), 4000))[REST]
    # The behaviour is uniform; its values solve a linear system.
    values = np.zeros((STATES, 4))
    for _ in range(500):
        values = np.where(NEXT == GOAL, 1.0, DISCOUNT * values.mean(axis=1)[NEXT])
    np.testing.assert_allclose(found, values[REST], atol=0.01)


def test_state_values_alone_agree_with_the_behaviours_at_expectile_one_half():
    td = tabular(bootstrap="value", expectile=0.5)
    state = td.train(td.init(jax.random.key(0)), 4000)
    found = q_of(td, state)[REST, 0]
    values = np.zeros((STATES, 4))
    for _ in range(500):
        values = np.where(NEXT == GOAL, 1.0, DISCOUNT * values.mean(axis=1)[NEXT])
    np.testing.assert_allclose(found, values.mean(axis=1)[REST], atol=0.01)
    assert state.networks.value is None


def test_without_conservative_weight_it_is_q_learning_and_with_it_lower():
    plain, careful = (tabular(bootstrap="maximum", conservative=c) for c in (0.0, 0.1))
    free = q_of(plain, plain.train(plain.init(jax.random.key(0)), 3000))
    held = q_of(careful, careful.train(careful.init(jax.random.key(0)), 3000))
    # Full coverage has each action as often: the penalty flattens the values of a state and leaves their mean.
    assert (held.max(axis=1) - held.min(axis=1))[REST].mean() < (free.max(axis=1) - free.min(axis=1))[REST].mean()


def test_the_threshold_leaves_out_what_the_behaviour_does_not_do():
    # Two actions in one state; action 1 pays more but the log has it one time in twenty.
    def sample(key):
        a = (jax.random.uniform(key, (400,)) < 0.05).astype(int)
        return TDBatch(jnp.ones((400, 1)), a, jnp.where(a == 1, 2.0, 1.0), jnp.ones((400, 1)), jnp.zeros(400))

    for threshold, expected in ((0.0, 1), (0.3, 0)):
        td = OfflineTD(
            sample=sample, features=1, actions=2, discrete=True, bootstrap="maximum", depth=0,
            threshold=threshold, optimizer=optax.adam(0.02),
        )  # fmt: skip
        state = td.train(td.init(jax.random.key(0)), 800)
        assert int(td.act(state.networks, jnp.ones(1))) == expected


@pytest.mark.parametrize(("bootstrap", "constraint"), [("expectile", 0.4), ("policy", 0.0), ("policy", 1e4)])
def test_numbers_as_actions(bootstrap, constraint):
    # Reward -(a - 0.6)^2, actions uniform on [-1, 1] with mean 0: cloning gives 0, improvement 0.6.
    def sample(key):
        a = jax.random.uniform(key, (256, 1), minval=-1, maxval=1)
        return TDBatch(jnp.ones((256, 1)), a, -((a[:, 0] - 0.6) ** 2), jnp.ones((256, 1)), jnp.zeros(256))

    td = OfflineTD(
        sample=sample, features=1, actions=1, bootstrap=bootstrap, constraint=constraint, temperature=30.0,
        width=32, optimizer=optax.adam(3e-3), target_rate=0.05,
    )  # fmt: skip
    state = td.train(td.init(jax.random.key(0)), 1500)
    action = float(td.act(state.networks, jnp.ones(1))[0])
    assert action == pytest.approx(0.0 if constraint > 1 else 0.6, abs=0.12)


def test_a_conservative_critic_of_numbers_prefers_the_logs_actions():
    def sample(key):
        a = 0.1 * jax.random.normal(key, (128, 1))  # the log acts near 0 and nothing pays
        return TDBatch(jnp.ones((128, 1)), a, jnp.zeros(128), jnp.ones((128, 1)), jnp.zeros(128))

    td = OfflineTD(
        sample=sample, features=1, actions=1, bootstrap="policy", conservative=1.0, width=32,
        optimizer=optax.adam(3e-3),
    )  # fmt: skip
    state = td.train(td.init(jax.random.key(0)), 800)
    actions = jnp.array([[0.0], [0.9], [-0.9]])
    q = td.values(state.networks.critics, jnp.ones((3, 1)), actions).min(axis=0)
    assert q[0] > q[1] + 0.1 and q[0] > q[2] + 0.1


def test_the_target_moves_by_its_rate():
    td = tabular(bootstrap="maximum", target_rate=0.25)
    before = td.init(jax.random.key(0))
    later = td.train(before, 1)
    old, new = before.target.layers[0].weight, later.networks.critics.layers[0].weight
    np.testing.assert_allclose(later.target.layers[0].weight, 0.75 * old + 0.25 * new, rtol=1e-5)


LINE = OfflineDataset.from_episodes(
    [{"observation": np.arange(start, start + 7.0)[:, None], "action": np.zeros((6, 1))} for start in (0, 100)]
)


@pytest.mark.parametrize("n", [1, 3])
def test_relabelled_rewards_by_hand(n):
    sample = goal_relabelled(LINE, 3_000, lambda s, g: jnp.stack([s[0], g[0]]), radius=0.5, discount=0.9, n=n)
    batch = jax.tree.map(np.asarray, sample(jax.random.key(0)))
    state, goal = batch.inputs.T
    end = np.where(state < 50, 6, 106)
    taken = np.minimum(n, end - state)
    hit = (goal > state) & (goal <= state + taken)
    np.testing.assert_allclose(batch.reward, np.where(hit, 0.9 ** (goal - state - 1), 0), rtol=1e-5)
    np.testing.assert_allclose(batch.discount, np.where(hit, 0, 0.9**taken), rtol=1e-5)
    np.testing.assert_array_equal(batch.next_inputs, np.stack([state + taken, goal], axis=1))
    other = (state < 50) != (goal < 50)
    assert other.mean() == pytest.approx(0.3 * 0.5, abs=0.03)  # random goals, half of them on the other line


def test_steps_of_the_log():
    batch = steps_of(LINE, 50, lambda s: s, discount=0.9)(jax.random.key(0))
    np.testing.assert_array_equal(batch.next_inputs, batch.inputs + 1)
    np.testing.assert_allclose(batch.discount, 0.9, rtol=1e-6)  # no episode of this log is terminal


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"bootstrap": "maximum"}, "maximum"),
        ({"bootstrap": "policy", "discrete": True}, "policy"),
        ({"bootstrap": "value", "conservative": 1.0}, "conservative"),
    ],
)
def test_switches_that_exclude_each_other_are_refused(settings, word):
    with pytest.raises(UserError, match=word):
        OfflineTD(sample=every_step, features=1, actions=1, **settings)
