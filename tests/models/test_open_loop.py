import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unseen.models import BetaVAE, DeepDynamics, LatentDynamics, OpenLoopWorldModel, Segment, WorldModel

KEYS = jax.random.split(jax.random.key(0), 4)
PARTS = BetaVAE(2, 3, 8, key=KEYS[0]), LatentDynamics(3, 1, 5, key=KEYS[1])
SEEN, ACTION = jax.random.normal(KEYS[2], (7, 2)), jax.random.normal(KEYS[3], (6, 1))
FIRST = jnp.zeros(6, bool).at[4].set(True)


def test_it_reads_itself_but_at_beginnings():
    model = OpenLoopWorldModel(*PARTS)
    memory, latent, foreseen = eqx.filter_jit(model.watch)(SEEN[:-1], ACTION, FIRST)
    encoded = jax.vmap(lambda one: model.vae.encode(one)[0])(SEEN)
    for t in range(6):
        np.testing.assert_allclose(latent[t], encoded[t] if t in (0, 4) else foreseen.latent[t - 1], rtol=1e-5)
    assert not memory[0].any() and not memory[4].any() and memory[5].any()
    # What comes after a beginning changes nothing, what a closed loop reads does.
    other = SEEN.at[2].add(1.0)
    np.testing.assert_array_equal(eqx.filter_jit(model.watch)(other[:-1], ACTION, FIRST)[2].latent, foreseen.latent)
    closed = WorldModel(*PARTS)
    same, changed = (eqx.filter_jit(closed.watch)(x[:-1], ACTION, FIRST)[2].latent for x in (SEEN, other))
    assert not np.allclose(same[2], changed[2])
    np.testing.assert_allclose(same[0], foreseen.latent[0], rtol=1e-5)


def test_its_loss_is_that_of_long_predictions():
    segment = Segment(SEEN, ACTION, jnp.ones(6), FIRST, FIRST, jnp.ones(6, bool))
    opened, closed = (eqx.filter_jit(kind(*PARTS).loss)(segment, KEYS[0]) for kind in (OpenLoopWorldModel, WorldModel))
    assert np.isfinite(opened) and not np.isclose(opened, closed)
    every = segment._replace(first=jnp.ones(6, bool))  # each step a beginning: nothing left to foresee from
    opened, closed = (eqx.filter_jit(kind(*PARTS).loss)(every, KEYS[0]) for kind in (OpenLoopWorldModel, WorldModel))
    assert np.isclose(opened, closed, rtol=1e-5)


def test_deep_dynamics_foresee_a_change_and_count_rewards_in_units():
    dynamics = DeepDynamics(3, 1, 5, 8, key=KEYS[1])
    still = eqx.tree_at(
        lambda d: (d.following.layers[-1].weight, d.following.layers[-1].bias), dynamics, replace_fn=jnp.zeros_like
    )
    latent, action = jnp.arange(3.0), jnp.ones(1)
    memory, foreseen = still(still.start(), latent, action)
    np.testing.assert_array_equal(foreseen.latent, latent)
    assert memory.any()
    again, other = still.in_units(0.1)(still.start(), latent, action)
    np.testing.assert_allclose(other.reward, 0.1 * foreseen.reward, rtol=1e-5)
    np.testing.assert_array_equal(again, memory)
    np.testing.assert_array_equal(other.ends, foreseen.ends)
