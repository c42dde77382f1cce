import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners.groove import Groove
from unseen.learners.level_scores import AlgorithmicRegret
from unseen.learners.lifetimes import Lives
from unseen.methods.curriculum import PrioritisedReplay
from unseen.worlds.control import CompiledLevel, FirstPays, RewardObjects

KIND = FirstPays(RewardObjects(5, 1, walls=0.0, reward=(0.5, 1.0), ends=(1.0, 1.0)))
SIZES = dict(lives=Lives(4, 8, 10), width=4, targets=3, pupils=6, updates=2, lifetime=6)


def draw(key):
    return CompiledLevel.of(KIND(key))


META = Groove(
    PrioritisedReplay(draw, slots=2, replay=jnp.zeros(())), regret=jnp.ones(()), optimizer=optax.adam(2e-2), **SIZES
)
# One program for all tests.
STEP = eqx.filter_jit(lambda meta, state: meta.step(state))


@pytest.fixture(scope="module")
def states():
    """Meta-training on random levels, state by state."""
    found = [eqx.filter_jit(META.init)(jax.random.key(0))]
    for _ in range(60):
        found.append(STEP(META, found[-1]))
    return found


def test_lives_end_in_turn_and_only_whole_ones_are_scored(states):
    assert META.ending == 2
    np.testing.assert_array_equal(states[4].pupils.life.step, [4, 4, 2, 2, 0, 0])
    np.testing.assert_array_equal(states[4].pupils.rival.step, [4, 4, 2, 2, 0, 0])
    assert not states[2].pool.filled.any() and states[3].pool.filled.all()
    # Without replay every level is another one.
    assert len({float(reward) for reward in states[9].pupils.level.reward[:, 0]}) == 6


def test_score_is_that_of_whole_lives(states):
    """Scores in the teacher's pool, against `AlgorithmicRegret`, which lets the antagonist live when all is over."""

    @jax.jit
    def expected(pupils):
        def one(pupil):
            later, _ = META.unroll(states[2].rule, pupil)
            score = AlgorithmicRegret(META.lives)
            regret = score(later.level, later.life.tables, later.rival.key, META.lifetime)
            return regret, META.lives.value(later.level, later.life.tables), later.loss

        return jax.vmap(one)(pupils)

    oldest = jax.tree.map(lambda leaf: leaf[:2], states[2].pupils)
    regret, _, loss = expected(oldest)
    np.testing.assert_allclose(states[3].pool.score, regret, atol=1e-5)
    by_loss = STEP(eqx.tree_at(lambda meta: meta.regret, META, jnp.zeros(())), states[2])
    np.testing.assert_allclose(by_loss.pool.score, loss, rtol=1e-5)
    assert float(jnp.abs(regret).max()) > 0 and float(loss.max()) > 0


def test_replay_brings_back_kept_levels(states):
    meta, state = eqx.tree_at(lambda meta: meta.teacher.replay, META, jnp.ones(())), states[0]
    for _ in range(9):
        state = STEP(meta, state)
    kept, lived = ({float(x) for x in levels.reward[:, 0]} for levels in (state.pool.levels, state.pupils.level))
    assert lived <= kept


def test_meta_training_makes_a_rule_that_learns(states):
    """Learners at the end of short lives earn more of their antagonist's return than those of the first rule."""

    def share(some):
        own, rival = 0.0, 0.0
        for state in some:
            level = jax.tree.map(lambda leaf: leaf[:2], state.pupils.level)
            own += VALUE(level, state.pupils.life.tables.policy[:2])
            rival += VALUE(level, state.pupils.rival.tables.policy[:2])
        return float(own / rival)

    first, last = share(states[2:8]), share(states[-12:])
    assert last > first + 0.1 and last > 0.8


@jax.jit
def VALUE(level, logits):
    """Sum of exact returns."""
    return jax.vmap(lambda level, logits: level.evaluate(jax.nn.softmax(logits), 10))(level, logits).sum()


def test_bad_sizes_are_named():
    with pytest.raises(UserError, match="pupils takes a multiple of lifetime / updates, 3, got 4"):
        Groove(META.teacher, **SIZES | dict(pupils=4))
    with pytest.raises(UserError, match="lifetime takes a multiple of updates, 2, got 5"):
        Groove(META.teacher, **SIZES | dict(lifetime=5))
