import jax
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.control.tabular import TabularMDPs


@pytest.mark.parametrize(
    "family",
    [
        lambda key: TabularMDPs.garnet(key, 7, 6, 3, 2),
        lambda key: TabularMDPs.communicating(key, 7, 6, 3),
        lambda key: TabularMDPs.contexts(key, 2, 5, 3, similarity=0.3),
        lambda key: TabularMDPs.chain(3, 5, slip=0.2),
        lambda key: TabularMDPs.river_swim(2, 6),
    ],
)
def test_rows_are_distributions(family):
    m = family(jax.random.key(0))
    assert np.allclose(m.transition.sum(-1), 1, atol=1e-5) and np.all(m.transition >= 0)
    assert np.isclose(m.start.sum(), 1)
    assert m.reward.shape == m.transition.shape[:3]


def test_garnet_has_exactly_its_branches_and_families_differ():
    m = TabularMDPs.garnet(jax.random.key(1), 20, 8, 3, 3)
    assert np.all((np.asarray(m.transition) > 0).sum(-1) == 3)
    assert not np.allclose(m.transition[0], m.transition[1])


def test_contexts_share_reward_and_coincide_at_similarity_one():
    far = TabularMDPs.contexts(jax.random.key(2), similarity=0.0)
    same = TabularMDPs.contexts(jax.random.key(2), similarity=1.0)
    assert np.array_equal(far.reward[0], far.reward[1]) and not np.allclose(far.transition[0], far.transition[1])
    assert np.allclose(same.transition[0], same.transition[1])


def test_communicating_reaches_every_state_in_one_step():
    assert np.all(TabularMDPs.communicating(jax.random.key(3), 4, 5, 2, mixing=0.1).transition >= 0.1 / 5 - 1e-7)


def test_river_swim_numbers():
    p = np.asarray(TabularMDPs.river_swim(1, 6).transition[0])
    assert np.allclose(p[0, 1, :2], [0.4, 0.6]) and np.allclose(p[2, 1, 1:4], [0.05, 0.6, 0.35])
    assert np.allclose(p[5, 1, 4:], [0.4, 0.6]) and p[3, 0, 2] == 1


def test_bad_settings_are_named():
    key = jax.random.key(0)
    for wrong in (
        lambda: TabularMDPs.garnet(key, 1, 3, 2, branching=4),
        lambda: TabularMDPs.communicating(key, mixing=0.0),
        lambda: TabularMDPs.contexts(key, similarity=1.5),
        lambda: TabularMDPs.chain(states=1),
        lambda: TabularMDPs.river_swim(states=2),
    ):
        with pytest.raises(UserError, match="takes"):
            wrong()
