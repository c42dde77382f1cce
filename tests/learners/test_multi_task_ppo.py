from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("rejax")
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from unseen.lab import UserError
from unseen.learners.multi_task_ppo import multi_task_ppo


class Sides(eqx.Module):
    weight: jax.Array
    max_steps_in_episode: int = eqx.field(static=True, default=1)


class Side(eqx.Module):
    task: jax.Array
    time: jax.Array


class Opposite(Environment):
    """One step, two tasks that show the same: the first pays for an action near 0.5, the second near -0.5."""

    @property
    def default_params(self):
        return Sides(jnp.array([0.5, 0.5]))

    def reset_env(self, key, params):
        task = (jax.random.uniform(key) > params.weight[0]).astype(int)
        return self.seen(task), Side(task, jnp.zeros((), int))

    def step_env(self, key, state, action, params):
        reward = -((jnp.clip(action[0], -1, 1) - (0.5 - state.task)) ** 2)
        state = Side(state.task, state.time + 1)
        return self.seen(state.task), state, reward, jnp.ones((), bool), {}

    def seen(self, task):
        return jnp.concatenate([jnp.ones(1), jax.nn.one_hot(task, 2)])

    def is_terminated(self, state, params):
        return jnp.ones((), bool)

    def action_space(self, params: Any = None):
        return spaces.Box(-1.0, 1.0, (1,))

    def observation_space(self, params: Any = None):
        return spaces.Box(-jnp.inf, jnp.inf, (3,))


WORLD = Opposite()


@pytest.mark.parametrize("embedding", [None, 2])
def test_tasks_that_look_alike_are_told_apart(embedding):
    """And a learner of the first task alone does not know the second; the weights of tasks are traced."""

    def learner(weight):
        return multi_task_ppo(
            WORLD, Sides(weight), tasks=2, width=16, embedding=embedding, total_steps=12_800, every=50, num_envs=32,
            num_steps=8, num_minibatches=2, num_epochs=4, learning_rate=1e-2,
            final=lambda policy: {"act": jnp.stack([policy(WORLD.seen(task))[0] for task in (0, 1)])},
        )  # fmt: skip

    weights = jnp.array([[0.5, 0.5], [1.0, 0.0]])
    init, advance, final = (
        jax.jit(jax.vmap(lambda w, x, name=name: getattr(learner(w), name)(x))) for name in ("init", "advance", "final")
    )
    act = np.asarray(final(weights, advance(weights, init(weights, jax.random.split(jax.random.key(0), 2))))["act"])
    assert np.allclose(act[0], [0.5, -0.5], atol=0.15)
    assert abs(act[1, 0] - 0.5) < 0.15 and act[1, 1] > -0.3


def test_a_one_hot_longer_than_the_observation_is_refused():
    with pytest.raises(UserError, match="tasks takes 1 to 2"):
        multi_task_ppo(WORLD, tasks=3)
