import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.models import MultiTaskPolicy

SEEN = jax.random.normal(jax.random.key(1), (4,))


def told(task: int, tasks: int = 3) -> jax.Array:
    return jnp.concatenate([SEEN, jax.nn.one_hot(task, tasks)])


def bolder(policy: MultiTaskPolicy) -> MultiTaskPolicy:
    return eqx.tree_at(lambda p: p.bias, policy, jax.random.normal(jax.random.key(2), policy.bias.shape))


def test_a_head_is_a_network_of_its_own_on_the_shared_trunk():
    policy = bolder(MultiTaskPolicy(7, 2, 3, 8, key=jax.random.key(0)))
    for task in range(3):
        x = SEEN
        for layer in policy.trunk:
            x = jnp.tanh(layer(x))
        assert np.allclose(policy(told(task)), policy.weight[task] @ x + policy.bias[task], atol=1e-6)
    assert not np.allclose(policy(told(0)), policy(told(1)))


@pytest.mark.parametrize("embedding", [None, 5])
def test_one_task_teaches_nothing_to_the_other_heads(embedding):
    policy = MultiTaskPolicy(7, 2, 3, 8, embedding=embedding, key=jax.random.key(0))
    slope = eqx.filter_grad(lambda p: p(told(1)).sum())(policy)
    touched = [bool(jnp.any(row)) for row in (slope.weight if embedding is None else slope.embedding)]
    assert touched == [False, True, False]
    assert all(jnp.any(layer.weight) for layer in slope.trunk)


def test_an_embedding_is_more_of_the_observation():
    policy = bolder(MultiTaskPolicy(7, 2, 3, 8, embedding=5, key=jax.random.key(0)))
    x = jnp.concatenate([SEEN, policy.embedding[2]])
    for layer in policy.trunk:
        x = jnp.tanh(layer(x))
    assert np.allclose(policy(told(2)), policy.weight[0] @ x + policy.bias[0], atol=1e-6)


def test_a_batch_is_its_rows():
    policy = bolder(MultiTaskPolicy(7, 2, 3, 8, key=jax.random.key(0)))
    batch = jnp.stack([told(task) for task in (2, 0)])
    assert np.allclose(policy(batch), jnp.stack([policy(row) for row in batch]), atol=1e-6)
