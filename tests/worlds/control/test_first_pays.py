import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unseen.worlds.control import CompiledLevel, FirstPays, RewardObjects, levels_of


def test_something_can_be_earned_and_all_else_is_as_it_was():
    kind = RewardObjects(5, 2, walls=0.0)
    plain, pays = levels_of(kind, 32), levels_of(FirstPays(kind), 32)
    assert bool((plain.reward[:, 0] < 0).any()) and bool((pays.reward[:, 0] > 0).all())
    np.testing.assert_array_equal(pays.reward[:, 0], jnp.abs(plain.reward[:, 0]))
    assert bool((pays.reward[:, 1] < 0).any())
    same = eqx.tree_at(lambda level: level.reward, plain, pays.reward.at[:, 0].set(plain.reward[:, 0]))
    assert bool(eqx.tree_equal(same, plain))
    # Nine cells without walls: the first object is four moves away at most.
    best = jax.jit(jax.vmap(lambda level: CompiledLevel.of(level).optimum(9)))(pays)
    assert bool((best > 0).all())
