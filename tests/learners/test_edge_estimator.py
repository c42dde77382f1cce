import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners.edge_estimator import Decided, EdgeEstimator
from unseen.learners.replay import Transition
from unseen.methods.value_heads import Distribution

# A line of five cells, the goal is 0; right of cell 4 is lava. Moves: 0 left, 1 right.
CELLS, ESTIMATOR = 5, EdgeEstimator(actions=2, longest=6, depth=0, target_rate=0.2, optimizer=optax.adam(0.1))


def line() -> Transition:
    cell, action = (x.ravel() for x in jnp.meshgrid(jnp.arange(1, CELLS), jnp.arange(2), indexing="ij"))
    after = cell + 2 * action - 1
    reward, terminal = ESTIMATOR.pay(after == 0, after == CELLS)
    see = lambda c: jax.nn.one_hot(c, CELLS)  # noqa: E731
    return Transition(see(cell), action, reward, terminal, see(jnp.minimum(after, CELLS - 1)))


@jax.jit
def learned(key, decided):
    """`decided`: moves in the next states (or the best ones where negative)."""
    batch = line()
    if decided is not None:
        batch = batch._replace(next_observation=Decided(batch.next_observation, decided))
    state, rest = eqx.partition(ESTIMATOR.init(key, jnp.zeros(CELLS)), eqx.is_array)

    def body(state, key):
        state, loss = ESTIMATOR.update(eqx.combine(state, rest), batch, key)
        return eqx.filter(state, eqx.is_array), loss

    state = eqx.combine(jax.lax.scan(body, state, jax.random.split(key, 400))[0], rest)
    return jax.vmap(lambda o: ESTIMATOR.distribution(state.network, o))(jnp.eye(CELLS)[1:])


def test_the_best_policy_walks_straight():
    steps = learned(jax.random.key(0), None)
    length = ESTIMATOR.length(steps)[:, 0]
    # Left: 1, 2, 3, 4 steps; right: one step there and the way back, and never from the last cell.
    np.testing.assert_allclose(length, [[1, 3], [2, 4], [3, 5], [4, 7]], atol=0.15)
    arrival = ESTIMATOR.arrival(steps, 0.9)[:, 0]
    exact = 0.9 ** np.array([[1, 3], [2, 4], [3, 5], [4, np.inf]])
    np.testing.assert_allclose(arrival, exact, atol=0.03)


def test_evaluates_a_policy_that_it_is_told():
    """One that always goes right ends in the lava; what comes after a move to the left from 1 is the goal."""
    steps = learned(jax.random.key(0), jnp.ones(2 * (CELLS - 1), int))
    arrival = ESTIMATOR.arrival(steps, 0.9)[:, 0]
    np.testing.assert_allclose(arrival[0, 0], 0.9, atol=0.03)
    np.testing.assert_allclose(np.asarray(arrival)[1:], 0, atol=0.05)


def test_reading_a_distribution():
    steps = Distribution(jnp.array([-7.0, -2.0, -1.0]), jnp.array([0.5, 0.25, 0.25]))
    assert np.isclose(ESTIMATOR.arrival(steps, 0.5), 0.25 * 0.25 + 0.25 * 0.5)
    assert np.isclose(ESTIMATOR.length(steps), 3.5 + 0.5 + 0.25)
    reward, terminal = ESTIMATOR.pay(jnp.array([True, False, False, True]), jnp.array([False, True, False, True]))
    assert reward.tolist() == [-1, -7, -1, -1] and terminal.tolist() == [True, True, False, True]


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="longest"):
        EdgeEstimator(actions=2, longest=0)
    with pytest.raises(UserError, match="actions"):
        EdgeEstimator(actions=0)
