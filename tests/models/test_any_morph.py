import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.models.any_morph import AnyMorphPolicy, GraphDescribedPolicy, PaddedMLP, token_shuffle_probe


@pytest.fixture(scope="module")
def tokens():
    tokens = jax.random.normal(jax.random.key(0), (2, 6, 14)).at[..., 0].set(1.0)
    tokens = tokens.at[..., 2:6].set(jax.random.normal(jax.random.key(1), (2, 1, 4)))
    return tokens * jnp.array([[1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]])[..., None]


@pytest.fixture(scope="module")
def policies():
    key = jax.random.key(2)
    return AnyMorphPolicy(width=16, key=key), GraphDescribedPolicy(16, key=key), PaddedMLP(width=16, key=key)


def test_missing_joints_act_not_and_are_not_read(tokens, policies):
    for policy in policies:
        actions = policy(tokens)
        assert actions.shape == (2, 6) and not np.any(actions[0, jnp.array([2, 4, 5])]) and np.all(actions[1] != 0)
        junk = tokens.at[0, 2, 1].set(5.0)  # the angle of a joint that is not there
        if not isinstance(policy, PaddedMLP):
            np.testing.assert_allclose(policy(junk)[0], actions[0], atol=1e-6)


def test_a_batch_is_its_members(tokens, policies):
    for policy in policies:
        np.testing.assert_allclose(policy(tokens), jnp.stack([policy(t) for t in tokens]), atol=1e-6)


def test_learned_tokens_do_not_read_the_plan_and_the_graph_reads_its_columns(tokens, policies):
    changed = tokens.at[..., 11:].add(1.0)  # drag ratios and gears
    same = [np.allclose(p(tokens), p(changed), atol=1e-6) for p in policies]
    assert same == [True, True, True]
    graph = tokens.at[..., 6:11].add(1.0 * (tokens[..., :1] > 0))
    assert [np.allclose(p(tokens), p(graph), atol=1e-6) for p in policies] == [True, False, True]
    told = GraphDescribedPolicy(16, columns=8, key=jax.random.key(2))
    assert not np.allclose(told(tokens), told(changed), atol=1e-4)


def test_the_graph_policy_does_not_know_slots_but_tokens_do(tokens, policies):
    order = jnp.array([3, 0, 5, 1, 4, 2])
    any_morph, graph, _ = policies
    np.testing.assert_allclose(graph(tokens[:, order]), graph(tokens)[:, order], atol=1e-5)
    assert not np.allclose(any_morph(tokens[:, order]), any_morph(tokens)[:, order], atol=1e-3)


def test_shuffling_moves_every_token_and_nothing_else(tokens, policies):
    policy = policies[0]
    for seed in range(5):
        shuffled = token_shuffle_probe(policy, jax.random.key(seed))
        for name in ("joint_sensors", "actuators"):
            before, after = np.asarray(getattr(policy.tokens, name)), np.asarray(getattr(shuffled.tokens, name))
            assert not (before == after).all(1).any()
            assert np.array_equal(np.sort(before, 0), np.sort(after, 0))
        assert np.array_equal(policy.tokens.shared_sensors, shuffled.tokens.shared_sensors)
    assert not np.allclose(policy(tokens), shuffled(tokens), atol=1e-3)
    # Relabelling the joints undoes it: the permutation is the same for sensors and motors.
    where = np.array([np.flatnonzero((policy.tokens.actuators == row).all(1))[0] for row in shuffled.tokens.actuators])
    np.testing.assert_allclose(
        shuffled(tokens[1]), policy(jnp.zeros((6, 14)).at[where].set(tokens[1]))[where], atol=1e-5
    )


def test_a_smaller_output_layer_only_acts_less(tokens, policies):
    key = jax.random.key(2)
    quiet = (
        AnyMorphPolicy(width=16, output_scale=0.01, key=key),
        GraphDescribedPolicy(16, output_scale=0.01, key=key),
        PaddedMLP(width=16, output_scale=0.01, key=key),
    )
    for small, usual in zip(quiet, policies, strict=True):
        np.testing.assert_allclose(small(tokens), 0.01 * usual(tokens), atol=1e-6)
