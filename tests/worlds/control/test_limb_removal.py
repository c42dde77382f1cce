import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax")

from unseen.lab import UserError
from unseen.worlds.control import limb_sets
from unseen.worlds.control.gaits import swim
from unseen.worlds.control.swimmer import start

STEPS, LEAST = 40, 0.12


@pytest.fixture(scope="module")
def sets():
    return limb_sets(12, 4, least=LEAST, steps=STEPS)


def test_bodies_are_other_combinations_of_the_same_links(sets):
    trained, unseen = sets
    assert (len(trained), len(unseen)) == (8, 4)
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), *sets).swimmers
    assert both.present[:, 0].all() and both.present.sum(1).min() >= 3
    assert len(np.unique(both.present, axis=0)) == 12  # none is both trained and held out
    # A link is the same wherever it is, and nowhere else has a length.
    assert all(len(np.unique(both.length[both.present[:, i], i])) == 1 for i in range(7))
    assert not both.length[~both.present].any()
    assert (both.ratio == both.ratio[0]).all() and (both.gear == both.gear[0]).all()
    assert len(np.unique(both.ratio[0])) == 7 and np.all((both.ratio >= 1.5) & (both.ratio <= 4))
    assert trained.swimmers.present.sum(0).min() >= 2


def test_the_gait_of_every_body_swims_as_far_as_it_says(sets):
    bodies = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *sets)

    def distance(one):
        begin = start(one.swimmers, jnp.zeros(6))
        return swim(one.swimmers, begin, lambda state: one.experts(one.swimmers, state), STEPS)[1]

    np.testing.assert_allclose(jax.jit(jax.vmap(distance))(bodies), bodies.distance, atol=1e-4)
    assert float(bodies.distance.min()) >= LEAST


def test_settings_repeat_and_another_split_is_of_the_same_links(sets):
    again, _ = limb_sets(12, 4, least=LEAST, steps=STEPS)
    assert np.array_equal(again.swimmers.present, sets[0].swimmers.present)
    wider, _ = limb_sets(16, 4, least=LEAST, steps=STEPS)
    assert float(wider.swimmers.length.max()) <= 1.5 and np.array_equal(wider.swimmers.gear[0], again.swimmers.gear[0])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(count=12, held_out=12), "held_out takes a number from 1 to 11"),
        (dict(count=12, held_out=11), "held_out takes fewer bodies"),
        (dict(count=58), "count takes at most the"),
        (dict(least=9.0), "count takes at most the 0 bodies that swim 9 body lengths"),
    ],
)
def test_what_cannot_be_is_named(settings, says):
    with pytest.raises(UserError, match=says):
        limb_sets(**{"least": LEAST, "steps": STEPS, **settings})
