import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners.lifetimes import DriftRule, Lives, lifetime_fitness
from unseen.learners.meta_training import LifetimeEvolution, TruncatedDescent
from unseen.methods.evolution import EvolutionStrategies
from unseen.worlds.control import RewardObjects, levels_of
from unseen.worlds.control.compiled_levels import CompiledLevel

LEVELS = jax.vmap(CompiledLevel.of)(levels_of(RewardObjects(5, 1, walls=0.0, reward=(0.5, 1.0)), 4))
LIVES = Lives(walkers=4, time=8, limit=10)
KEY = jax.random.key(0)


class Share(eqx.Module):
    """A drift that takes a share of the surrogate away at every ratio but 1."""

    share: jax.Array

    def __call__(self, ratio, advantage, when):
        return self.share * (ratio - 1) * advantage


def rule(drift):
    return DriftRule(drift, 10.0, epochs=3)


WORST = Share(jnp.array(2.0))
SHARED = dict(lives=LIVES, levels=LEVELS, rule=rule)


def evolution(pairs=4, horizons=(1, 3)) -> LifetimeEvolution:
    search = EvolutionStrategies(pairs=pairs, sigma=0.5, optimizer=optax.adam(0.3), shaping=None)
    return LifetimeEvolution(horizons=horizons, search=search, **SHARED)


def test_a_generation_is_that_of_pairs_one_by_one():
    training = evolution()
    start = training.init(WORST, KEY)
    later = jax.jit(lambda state: training.advance(state, 1))(start)

    _, ask, pick, live = jax.random.split(KEY, 4)
    noise, population = training.search.ask(ask, start.search)
    which, luck = jax.random.randint(pick, (2, 2), 0, 4), jax.random.split(live, (2, 2))
    lived = jax.jit(lambda drift, level, key, n: lifetime_fitness(LIVES, rule(drift), level, key, n))
    values = np.zeros((2, 4), np.float32)
    for i in range(4):  # pairs 0 and 1 live 1 update, pairs 2 and 3 live 3
        of = divmod(i, 2)
        level = jax.tree.map(lambda leaf, of=of: leaf[which[of]], LEVELS)
        for sign in range(2):
            values[sign, i] = lived(Share(population.share[sign, i]), level, luck[of], training.horizons[of[0]])
    # One update with one epoch's ratio of 1 and two more: both members begin alike, and part.
    assert len(np.unique(values)) > 4 and training.updates == 16
    told = training.search.tell(start.search, noise, jnp.asarray(values))
    np.testing.assert_allclose(training.current(later).share, told.centre.share, rtol=1e-5)
    np.testing.assert_allclose(later.search.optimizer[0].mu.share, told.optimizer[0].mu.share, rtol=1e-3)


def test_descent_unlearns_a_drift_that_cancels_the_gradient_and_learners_are_born_again():
    descent = TruncatedDescent(horizons=(2, 60), optimizer=optax.adam(0.1), learners=32, updates=2, **SHARED)
    start = descent.init(WORST, KEY)
    np.testing.assert_array_equal(descent.lifetimes[:4], [2, 60, 2, 60])
    np.testing.assert_array_equal(start.lives.step[:4], [0, 7, 0, 21])
    later = jax.jit(lambda state: descent.advance(state, 1))(start)
    assert np.isclose(float(descent.current(later).share), 1.9, atol=1e-3)
    # The short lives are over, the long ones go on where they were.
    np.testing.assert_array_equal(later.lives.step[:4], [0, 9, 0, 23])
    logits = jnp.abs(later.lives.tables.policy).max((1, 2))
    assert logits[0] == logits[2] == 0 < logits[1]
    np.testing.assert_array_equal(later.level[1::2][:4], start.level[1::2][:4])


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="pairs"):
        evolution(pairs=3)
    with pytest.raises(UserError, match="horizons"):
        evolution(horizons=(0, 4))
    for name in ("learners", "updates", "horizons"):
        with pytest.raises(UserError, match=name):
            TruncatedDescent(
                **{**SHARED, "horizons": (4,), "optimizer": optax.sgd(0.1), name: () if name == "horizons" else 0}
            )
