import jax
import jax.numpy as jnp
import numpy as np

from unseen.learners.successor_features import SuccessorFeatures
from unseen.measures.exact import policy_evaluation, value_iteration
from unseen.worlds.control.tabular import TabularMDPs


def stored():
    m = TabularMDPs.garnet(jax.random.key(0), 1, 8, 3, 3)
    features = jax.random.normal(jax.random.key(1), (8, 3, 4))
    return m.transition[0], features, *SuccessorFeatures.of_tasks(m.transition[0], features, jnp.eye(4), 0.9)


def test_values_are_those_of_a_linear_solve_for_any_mixture():
    p, features, sf, policies = stored()
    w = jnp.array([0.3, -1.0, 0.5, 2.0])
    for i in range(4):
        v = policy_evaluation(p, features @ w, policies[i], 0.9)
        assert np.allclose((policies[i] * sf.values(w)[i]).sum(1), v, atol=1e-3)


def test_each_base_task_is_solved_and_no_mixture_is_worse_than_a_stored_policy():
    p, features, sf, policies = stored()
    for i in range(4):
        best, _ = value_iteration(p, features[..., i], 0.9)
        mine = policy_evaluation(p, features[..., i], jax.nn.one_hot(sf.policy(jnp.eye(4)[i]), 3), 0.9)
        assert np.allclose(mine, best, atol=1e-3)
    gains = []
    for w in jax.random.normal(jax.random.key(2), (10, 4)):
        mine = policy_evaluation(p, features @ w, jax.nn.one_hot(sf.policy(w), 3), 0.9)
        singles = jnp.stack([policy_evaluation(p, features @ w, q, 0.9) for q in policies])
        gains.append(np.asarray(mine - singles.max(0)))
    assert np.min(gains) > -1e-3 and np.mean(gains) > 0.1
