import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners import SkillPPO
from unseen.methods import CuriosityReward, SnapshotStore
from unseen.worlds.control import CoordinateLevels, GridLevel

pytestmark = pytest.mark.optimized

UP, RIGHT, DOWN, LEFT = range(4)
LEVEL = GridLevel.from_text("##########\n#G...S...#\n##########")
LEVEL = eqx.tree_at(lambda level: level.ends, LEVEL, jnp.zeros(1))
WORLD = CoordinateLevels(lambda key: LEVEL)


def there(state):
    """At the left end, at the right end."""
    return jnp.stack([state.player[0, 1] == 1, state.player[0, 1] == 8])


TRAINER = SkillPPO(
    environment=WORLD, params=WORLD.params(LEVEL, max_steps=8), events=there, horizon=8, episodes=16, epochs=2,
    minibatches=2, period=4, width=16, learning_rate=1e-2,
    curiosity=CuriosityReward(optimizer=optax.adam(1e-2), width=16, capacity=512, updates=4, batch_size=32),
)  # fmt: skip


def left(played, surprise):
    return played.newly[..., 0].astype(float)


def always(move):
    policy = TRAINER.policy(jax.random.key(5))
    bias = jnp.full(4, -20.0).at[move].set(20.0)
    return eqx.tree_at(lambda p: (p.mlp.layers[-1].weight, p.mlp.layers[-1].bias), policy, (jnp.zeros((4, 16)), bias))


def stored(*moves):
    store = SnapshotStore.empty(always(0), len(moves))
    for move in moves:
        store = store.add(always(move))
    return store.policies


@eqx.filter_jit
def trained(state, pay, iterations, policies=None):
    arrays, static = eqx.partition(state, eqx.is_array)

    def body(arrays, _):
        state = TRAINER.iterate(eqx.combine(arrays, static), pay, policies)
        return eqx.filter(state, eqx.is_array), state.achieved

    arrays, achieved = jax.lax.scan(body, arrays, None, iterations)
    return eqx.combine(arrays, static), achieved


def test_without_stored_policies_it_learns_what_is_paid():
    state = TRAINER.init(jax.random.key(0))
    state, achieved = trained(state, left, 40)
    assert achieved[:3, 0].mean() < 0.5 and achieved[-3:, 0].mean() > 0.9 and int(state.iteration) == 40


def test_the_scheduler_learns_whom_to_trust():
    policies = stored(RIGHT, LEFT, UP)
    state = TRAINER.init(jax.random.key(0), jnp.ones(3, bool))
    seen = TRAINER.play(state.agent, jax.random.key(1), policies).observation[0, 0]
    before = np.exp(state.agent.scheduler.log_probs(seen))
    np.testing.assert_allclose(before, [1 / 6, 1 / 6, 1 / 6, 1 / 2], rtol=1e-5)
    state, achieved = trained(state, left, 15, policies)
    after = np.exp(state.agent.scheduler.log_probs(seen))
    assert after[0] < 0.1 and after[1] + after[3] > 0.85 and after[1] > before[1] and achieved[-2:, 0].mean() > 0.7


def test_a_choice_holds_for_a_period_and_its_policy_acts():
    state = TRAINER.init(jax.random.key(0), jnp.ones(2, bool))
    played = TRAINER.play(state.agent, jax.random.key(1), stored(RIGHT, LEFT))
    choice = np.asarray(played.choice).reshape(2, 4, 16)
    assert (choice == choice[:, :1]).all() and set(choice.ravel()) == {0, 1, 2}
    np.testing.assert_array_equal(played.decided, [True, False, False, False] * 2)
    action = np.asarray(played.action)
    assert (action[np.asarray(played.choice) == 0] == RIGHT).all()
    assert (action[np.asarray(played.choice) == 1] == LEFT).all()
    assert len(set(action[np.asarray(played.choice) == 2])) > 2


def test_only_what_was_decided_has_a_probability():
    agent = TRAINER.init(jax.random.key(0), jnp.ones(2, bool)).agent
    seen = TRAINER.play(agent, jax.random.key(1)).observation[0, 0]
    choices, moves = agent.scheduler.log_probs(seen), agent.policy.log_probs(seen)
    for choice, decided, expected in (
        (2, True, choices[2] + moves[1]), (2, False, moves[1]), (0, True, choices[0]), (0, False, 0.0),
    ):  # fmt: skip
        found, _ = TRAINER.log_prob(agent, seen, jnp.array(1), jnp.array(choice), jnp.array(decided))
        assert np.isclose(found, expected)


def test_newly_pays_an_event_once_an_episode():
    state = TRAINER.init(jax.random.key(0), jnp.array([True]))
    played = TRAINER.play(state.agent, jax.random.key(3), stored(LEFT))
    assert (played.newly.sum(0) == played.events.any(0)).all() and (played.newly <= played.events).all()
    assert played.events.sum() > played.newly.sum() > 0


def test_curiosity_decays_where_nothing_new_is_to_be_seen():
    state, _ = trained(TRAINER.init(jax.random.key(0)), lambda played, surprise: surprise, 5)
    later, _ = trained(state, lambda played, surprise: surprise, 80)
    assert float(later.scale) < 0.3 * float(state.scale)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="horizon"):
        dataclasses.replace(TRAINER, period=3)
    with pytest.raises(UserError, match="minibatches"):
        dataclasses.replace(TRAINER, minibatches=3)
