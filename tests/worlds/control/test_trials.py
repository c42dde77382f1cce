import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax")
import gymnax

from unseen.lab import UserError
from unseen.worlds.control.task_suite import TaskSuite
from unseen.worlds.control.trials import Trials


def test_a_trial_repeats_one_task_from_one_beginning():
    suite = TaskSuite(("push", "reach"), shows_goal=False, max_steps=5)
    world = Trials(suite, 3)
    params = world.default_params
    assert params.max_steps_in_episode == 15 and world.observation_space().shape == (12 + 4 + 2,)
    step = jax.jit(world.step_env)
    for seed in range(3):
        seen, state = world.reset_env(jax.random.key(seed), params)
        assert seen[-1] == 1 and np.all(seen[12:17] == 0)
        first, ends, places = np.asarray(seen[:12]), [], set()
        for i in range(15):
            action = jax.random.uniform(jax.random.key(i), (4,), minval=-1.0)
            seen, state, reward, over, info = step(jax.random.key(i), state, action, params)
            assert np.allclose(seen[12:16], action) and seen[16] == reward
            ends.append(bool(over))
            places.add((int(state.inner.task), *np.asarray(state.inner.goal).tolist()))
            begins = i % 5 == 4
            assert bool(seen[-1]) == bool(info["ended"]) == begins and int(info["episode"]) == i // 5
            assert np.array_equal(seen[:12], first) == begins
        assert ends == [False] * 14 + [True] and len(places) == 1


def test_the_environments_own_end_begins_the_next_episode():
    environment, inner = gymnax.make("CartPole-v1")
    world = Trials(environment, 2)
    params = world.params(inner)
    assert world.observation_space(params).shape == (4 + 2 + 2,)
    _, state = world.reset_env(jax.random.key(0), params)
    step, over, count = jax.jit(world.step_env), False, 0
    while not over:  # pushed to one side the pole falls after about ten steps, and again
        seen, state, _, over, _ = step(jax.random.key(1), state, jnp.ones((), int), params)
        count += 1
    assert 16 <= count <= 22 and np.array_equal(seen[4:6], [0, 1])
    with pytest.raises(UserError, match="episodes"):
        Trials(environment, 0)
