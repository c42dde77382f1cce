import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.models import JointAttentionPolicy
from unseen.models.joint_attention import split_tokens


@pytest.fixture(scope="module")
def tokens():
    tokens = jax.random.normal(jax.random.key(0), (5, 6, 14))
    mask = jnp.arange(6) < jnp.array([2, 3, 4, 5, 6])[:, None]
    shared = jax.random.normal(jax.random.key(1), (5, 1, 4))
    tokens = tokens.at[..., 0].set(1.0).at[..., 2:6].set(shared)
    return tokens * mask[..., None]


def test_tokens_come_apart(tokens):
    mask, own, shared, description = split_tokens(tokens)
    assert mask.sum(1).tolist() == [2, 3, 4, 5, 6]
    np.testing.assert_allclose(shared, tokens[:, 0, 2:6], rtol=1e-5)
    assert own.shape == (5, 6, 1) and description.shape == (5, 6, 8)


def test_joints_in_any_order_and_padding_change_nothing(tokens):
    policy = JointAttentionPolicy(width=16, latent=8, key=jax.random.key(2))
    actions = policy(tokens)
    order = jnp.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(policy(tokens[:, order]), actions[:, order], atol=1e-6)
    np.testing.assert_allclose(policy(tokens[0, :2]), actions[0, :2], atol=1e-6)
    assert not np.any(actions[np.asarray(tokens[..., 0]) == 0])


def test_every_joint_hears_of_every_other(tokens):
    policy = JointAttentionPolicy(width=16, latent=8, key=jax.random.key(2))
    gradient = jax.jacobian(lambda own: policy(tokens[4].at[:, 1].set(own)))(tokens[4, :, 1])
    assert np.all(np.abs(gradient) > 1e-7)
