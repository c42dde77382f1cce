import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax")
import gymnax
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from unseen.lab import UserError
from unseen.learners.recurrent_ppo import RecurrentPolicy, recurrent_ppo


class Cue(eqx.Module):
    side: jax.Array
    time: jax.Array


class Recall(Environment):
    """A cue is shown in the first of three steps; the last one pays 1 for choosing its side."""

    @property
    def default_params(self):
        return PARAMS

    def reset_env(self, key, params):
        state = Cue(jax.random.bernoulli(key).astype(int), jnp.zeros((), int))
        return self.seen(state), state

    def step_env(self, key, state, action, params):
        reward = ((action == state.side) & (state.time == 2)).astype(jnp.float32)
        state = Cue(state.side, state.time + 1)
        return self.seen(state), state, reward, jnp.zeros((), bool), {}

    def seen(self, state):
        return jnp.where(state.time == 0, 2.0 * state.side - 1, 0.0)[None]

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (1,))


class Three(eqx.Module):
    max_steps_in_episode: int = 3


PARAMS = Three()


@pytest.mark.parametrize("discrete", [True, False])
def test_unrolling_is_stepping(discrete):
    """Along a sequence with episodes that end in it, for every lane, as step by step by equinox's own cell."""
    policy = RecurrentPolicy(5, 3, discrete, 8, key=jax.random.key(0))
    seen = jax.random.normal(jax.random.key(1), (6, 2, 5))
    begins = jnp.zeros((6, 2), bool).at[0, 0].set(True).at[3, 1].set(True)
    start = jax.random.normal(jax.random.key(2), (2, 8))
    heads, values = policy.unroll(start, seen, begins)
    for lane in range(2):
        memory = start[lane]
        for t in range(6):
            memory = jnp.where(begins[t, lane], 0.0, memory)
            memory, head, value = policy(memory, seen[t, lane])
            assert np.allclose(head, heads[t, lane], atol=1e-6) and np.isclose(value, values[t, lane], atol=1e-6)


def test_probabilities_by_hand():
    gaussian = RecurrentPolicy(2, 1, False, 4, key=jax.random.key(0))
    assert np.isclose(gaussian.log_prob(jnp.array([0.5]), jnp.array([1.5])), -0.5 - 0.5 * np.log(2 * np.pi))
    assert np.isclose(gaussian.entropy(jnp.array([0.5])), 0.5 * np.log(2 * np.pi * np.e))
    choice = RecurrentPolicy(2, 2, True, 4, key=jax.random.key(0))
    head = jnp.log(jnp.array([0.25, 0.75]))
    assert np.isclose(choice.log_prob(head, jnp.array(0)), np.log(0.25)) and choice.mode(head) == 1
    assert np.isclose(choice.entropy(head), -0.25 * np.log(0.25) - 0.75 * np.log(0.75))


def pull(learner, seeds=2):
    keys = jax.random.split(jax.random.key(0), seeds)
    state = jax.jit(jax.vmap(learner.init))(keys)
    for _ in range(learner.rounds):
        state = jax.jit(jax.vmap(learner.advance))(state)
    return state


def test_memory_solves_what_cannot_be_solved_without():
    world = Recall()

    def correct(policy):
        def answer(side):
            memory = policy.start
            for seen in (2.0 * side - 1, 0.0, 0.0):
                memory, head, _ = policy(memory, jnp.array([seen]))
            return policy.mode(head) == side

        # Numbers, since the sum of two bools is a bool.
        return {"correct": jnp.stack([answer(0), answer(1)]).astype(jnp.float32).mean()}

    found = {}
    for memory in (True, False):
        learner = recurrent_ppo(
            world, PARAMS, total_steps=48_000, every=125, learning_rate=5e-3, gamma=0.9, num_envs=16, num_steps=24,
            num_minibatches=2, width=16, memory=memory, final=correct,
        )  # fmt: skip
        found[memory] = np.asarray(jax.jit(jax.vmap(learner.final))(pull(learner))["correct"])
    assert np.all(found[True] == 1) and np.all(found[False] == 0.5)


def test_learns_cartpole_from_one_program_with_two_rates():
    environment, params = gymnax.make("CartPole-v1")

    def learner(rate):
        return recurrent_ppo(
            environment, params, total_steps=48_000, every=24, learning_rate=rate, gamma=0.97, num_envs=32,
            num_steps=64, width=32, memory=False,
        )  # fmt: skip

    rates, keys = jnp.array([0.0, 3e-3]), jax.random.split(jax.random.key(0), 2)
    start = jax.jit(jax.vmap(lambda r, k: learner(r).init(k)))(rates, keys)
    end = jax.jit(jax.vmap(lambda r, s: learner(r).advance(s)))(rates, start)
    still = jax.tree.map(
        lambda a, b: np.array_equal(a[0], b[0]), *(eqx.filter(s.policy, eqx.is_array) for s in (start, end))
    )
    assert all(jax.tree.leaves(still))  # a rate of zero learns nothing, in the same compiled program
    # Discounted by 0.97, an endless episode is worth 33; one of 20 steps 15.
    assert end.scale[1, 0] > 2 * end.scale[0, 0]


def test_uneven_minibatches_are_refused():
    with pytest.raises(UserError, match="num_minibatches"):
        recurrent_ppo(Recall(), num_envs=6, num_minibatches=4)
