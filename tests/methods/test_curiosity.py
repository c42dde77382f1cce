import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners import Replay, Transition
from unseen.methods import CuriosityReward, Steps

CURIOSITY = CuriosityReward(optimizer=optax.adam(1e-2), width=32, capacity=64, updates=100, batch_size=32)


def walk(key, count, low=0.0, high=1.0):
    """A point that an action pushes through a curved field."""
    place, push = jax.random.split(key)
    x = jax.random.uniform(place, (count, 2), minval=low, maxval=high)
    action = jax.random.normal(push, (count, 1))
    return Steps(x, action, x + 0.3 * jnp.sin(3 * x) + 0.2 * action)


def test_what_has_been_learned_is_no_longer_rewarded():
    keys = jax.random.split(jax.random.key(0), 4)
    state = CURIOSITY.init(keys[0], 2, 1)
    known, unknown = walk(keys[1], 64), walk(keys[2], 64, 3.0, 4.0)
    before = CURIOSITY.reward(state, known).mean(), CURIOSITY.reward(state, unknown).mean()
    learn = eqx.filter_jit(lambda state: CURIOSITY.learn(CURIOSITY.observe(state, known), keys[3]))
    for _ in range(3):
        state = learn(state)
    after = CURIOSITY.reward(state, known).mean(), CURIOSITY.reward(state, unknown).mean()
    assert after[0] < 0.02 * before[0] and after[1] > 5 * after[0]


def test_memory_is_a_ring_and_learning_draws_from_what_is_filled():
    small = dataclasses.replace(CURIOSITY, capacity=8)
    state = small.init(jax.random.key(0), 2, 1)
    parts = [walk(jax.random.key(i), 4) for i in range(3)]
    for part in parts:
        state = small.observe(state, part)
    assert int(state.count) == 12
    np.testing.assert_array_equal(state.memory.observation[:4], parts[2].observation)
    np.testing.assert_array_equal(state.memory.following[4:], parts[1].following)
    once = small.observe(small.init(jax.random.key(0), 2, 1), parts[0])
    poisoned = once._replace(memory=jax.tree.map(lambda leaf: leaf.at[4:].set(jnp.nan), once.memory))
    learned = small.learn(poisoned, jax.random.key(1)).model.net.layers[0].weight
    assert bool(jnp.isfinite(learned).all())


def test_labels_depend_on_the_step_and_the_present_model_alone():
    steps = walk(jax.random.key(0), 12)
    state = CURIOSITY.init(jax.random.key(1), 2, 1)
    fresh = CURIOSITY.reward(state, jax.tree.map(lambda leaf: leaf.reshape(3, 4, -1), steps))
    one = Transition(jnp.zeros(2), jnp.zeros((), int), jnp.zeros(()), jnp.zeros((), bool), jnp.zeros(2))
    replay = Replay.empty(one, 1, 20)
    for x, following in zip(steps.observation, steps.following, strict=True):
        step = Transition(x, jnp.zeros((), int), jnp.zeros(()), jnp.zeros((), bool), following)
        replay = replay.add(jax.tree.map(lambda leaf: leaf[None], step), jnp.zeros(1, bool))

    def relabel(key, replay, rows, batch):
        action = jnp.take(steps.action, rows.number, axis=0)
        return batch._replace(reward=CURIOSITY.reward(state, Steps(batch.observation, action, batch.next_observation)))

    rows = replay.draw(jax.random.key(2), 30)
    batch = relabel(jax.random.key(3), replay, rows, replay[rows])
    np.testing.assert_allclose(batch.reward, fresh.ravel()[rows.number], rtol=1e-5)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="capacity"):
        CuriosityReward(capacity=0)
    with pytest.raises(UserError, match="multiple of the 7"):
        CURIOSITY.observe(CURIOSITY.init(jax.random.key(0), 2, 1), walk(jax.random.key(0), 7))
