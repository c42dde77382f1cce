import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.methods import SkillScheduler, SnapshotStore
from unseen.models import CategoricalPolicy


def policies(count):
    return [CategoricalPolicy(3, 2, 4, key=jax.random.key(i)) for i in range(count)]


def test_the_store_gives_back_what_was_put_in_and_forgets_the_oldest():
    made, seen = policies(4), jnp.array([1.0, -2.0, 0.5])
    store = SnapshotStore.empty(made[0], 3)
    for policy in made[:3]:
        store = store.add(policy)
    for slot in range(3):
        np.testing.assert_array_equal(store[slot].log_probs(seen), made[slot].log_probs(seen))
    full = store.add(made[3])
    np.testing.assert_array_equal(full[0].log_probs(seen), made[3].log_probs(seen))
    np.testing.assert_array_equal(full[1].log_probs(seen), made[1].log_probs(seen))
    np.testing.assert_array_equal(store[0].log_probs(seen), made[0].log_probs(seen))  # the old store is as it was
    with pytest.raises(UserError, match="capacity"):
        SnapshotStore.empty(made[0], 0)


@pytest.mark.parametrize("allowed", [(True, True, True), (False, True, False), (False, False, False)])
def test_at_first_the_new_policy_has_one_half_whoever_is_stored(allowed):
    scheduler = SkillScheduler(3, jnp.array(allowed), 8, key=jax.random.key(0))
    chance = np.exp(scheduler.log_probs(jnp.array([1.0, 2.0, 3.0])))
    stored = np.array(allowed) * 0.5 / max(sum(allowed), 1)
    np.testing.assert_allclose(chance, [*stored, 0.5 if any(allowed) else 1.0], atol=1e-6)
    assert scheduler.new == 3


def test_a_stored_policy_that_is_not_allowed_is_never_chosen_whatever_is_learned():
    scheduler = SkillScheduler(3, jnp.array([True, False]), 8, key=jax.random.key(0))
    loud = eqx.tree_at(lambda s: s.net.layers[-1].bias, scheduler, jnp.array([0.0, 50.0, 1.0]))
    chance = np.exp(loud.log_probs(jnp.zeros(3)))
    np.testing.assert_allclose(chance, [1 / (1 + np.e), 0, np.e / (1 + np.e)], atol=1e-6)


def test_options_are_the_stored_ones_and_then_the_new_one():
    made, seen = policies(3), jnp.array([0.3, 0.1, -1.0])
    store = SnapshotStore.empty(made[0], 2).add(made[0]).add(made[1])
    scheduler = SkillScheduler(3, jnp.ones(2, bool), 8, key=jax.random.key(0))
    options = scheduler.options(store.policies, made[2])
    found = eqx.filter_vmap(lambda policy: policy.log_probs(seen))(options)
    np.testing.assert_allclose(found, jnp.stack([policy.log_probs(seen) for policy in made]), rtol=1e-6)
