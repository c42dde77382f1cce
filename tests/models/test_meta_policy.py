import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from unseen.models import MetaPolicyNetwork

NET = MetaPolicyNetwork(7, 2, tasks=3, width=6, key=jax.random.key(0))
SEEN = jnp.concatenate([jax.random.normal(jax.random.key(1), (5, 4)), jnp.tile(jnp.eye(3)[1], (5, 1))], -1)
FIRST = jnp.array([[1.0, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0]])
SECOND = jnp.array([[0.0, 1, 1, 0, 0, 1], [0, 0, 1, 1, 0, 1]])


def test_under_a_mask_it_is_the_smaller_network():
    one, two = (np.flatnonzero(mask) for mask in FIRST)
    a, b = NET.hidden
    x = jnp.tanh(SEEN @ a.weight[one].T + a.bias[one])
    x = jnp.tanh(x @ b.weight[np.ix_(two, one)].T + b.bias[two])
    np.testing.assert_allclose(NET(SEEN, FIRST), x @ NET.head.weight[:, two].T, atol=1e-6)


def test_the_task_is_told_from_zero_and_explored_alone():
    other = SEEN.at[:, -3:].set(jnp.eye(3)[2])
    assert np.array_equal(NET(SEEN, FIRST), NET(other, FIRST)) and float(jnp.abs(NET.hidden[0].weight[:, :4]).min()) > 0
    bold = eqx.tree_at(lambda n: n.log_std, NET, jnp.array([[0.0, 0], [0.5, -0.5], [9, -9]]))
    np.testing.assert_allclose(bold.deviation(SEEN[0]), np.exp([0.5, -0.5]), rtol=1e-5)
    np.testing.assert_allclose(bold.deviation(other[0]), np.exp([2.0, -5.0]), rtol=1e-5)
    action = jnp.array([0.3, -0.2])
    expected = norm.logpdf(action, NET(SEEN[0], FIRST), np.exp([0.5, -0.5])).sum()
    np.testing.assert_allclose(bold.log_prob(SEEN[0], FIRST, action), expected, rtol=1e-4)


def test_protection_keeps_earlier_functions_bit_for_bit_and_nothing_else():
    used = (FIRST > 0) | (SECOND > 0)
    slope = eqx.filter_grad(lambda n: n.protected(used)(SEEN, jnp.ones((2, 6))).sum())(NET)
    a, b = slope.hidden
    assert np.array_equal(np.any(np.asarray(a.weight) != 0, 1), ~np.asarray(used[0]))
    assert np.array_equal(np.asarray(a.bias) != 0, ~np.asarray(used[0]))
    assert np.array_equal(np.asarray(b.weight) != 0, ~(np.asarray(used[1])[:, None] & np.asarray(used[0])))
    assert np.array_equal(np.asarray(b.bias) != 0, ~np.asarray(used[1]))
    assert np.array_equal(np.all(np.asarray(slope.head.weight) != 0, 0), ~np.asarray(used[1]))
    # However far what is free moves, both tasks stay; without protection they would not.
    moved = eqx.apply_updates(NET, jax.tree.map(lambda g: 100 * g, slope))
    free = eqx.filter_grad(lambda n: n(SEEN, jnp.ones((2, 6))).sum())(NET)
    lost = eqx.apply_updates(NET, jax.tree.map(lambda g: 100 * g, free))
    for mask in (FIRST, SECOND):
        assert np.array_equal(moved(SEEN, mask), NET(SEEN, mask)) and not np.allclose(lost(SEEN, mask), NET(SEEN, mask))
    assert not np.allclose(moved(SEEN, jnp.ones((2, 6))), NET(SEEN, jnp.ones((2, 6))))


def test_protection_changes_no_value():
    assert np.array_equal(NET.protected(FIRST > 0)(SEEN, SECOND), NET(SEEN, SECOND))
