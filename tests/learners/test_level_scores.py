import jax
import jax.numpy as jnp
import numpy as np

from unseen.learners.level_scores import (
    AlgorithmicRegret,
    ValueTable,
    a2c,
    returns_after,
    score_vs_true_regret,
    valued_updates,
)
from unseen.learners.lifetimes import Lives, LPGRule
from unseen.methods.learned_objective import LPG
from unseen.worlds.control import CompiledLevel, FirstPays, RewardObjects, levels_of

LIVES = Lives(walkers=4, time=8, limit=10)
LEVELS = jax.vmap(CompiledLevel.of)(levels_of(FirstPays(RewardObjects(5, 1, walls=0.0)), 6))
LEVEL = jax.tree.map(lambda leaf: leaf[0], LEVELS)
KEY = jax.random.key(0)
IDLE = LPGRule(LPG(4, 3, key=KEY), rate=0.0)  # learns nothing


def test_values_beside_a_learner_are_those_of_an_actor_critic():
    rule, table = a2c(critic_rate=0.3), ValueTable(0.3)

    @jax.jit
    def live(key):
        life = LIVES.begin(rule, LEVEL, key)
        return valued_updates(LIVES, rule, table, LEVEL, life, jnp.zeros(LEVEL.states), 5.0, 5)

    life, values, losses = live(KEY)
    np.testing.assert_allclose(values, life.tables.critic, atol=1e-6)
    assert float(jnp.abs(values).max()) > 0
    assert losses.l1.shape == (5,) and bool((losses.l1 >= losses.positive).all()) and bool((losses.positive >= 0).all())


def test_value_losses_by_hand():
    """From values of 0, the first rollout's advantages are its discounted returns, cut at the ends of episodes."""
    table = ValueTable(trace=1.0)

    @jax.jit
    def first(key):
        seen, _ = LIVES.rollout(LEVEL, LIVES.begin(IDLE, LEVEL, key))
        return seen, table.see(jnp.zeros(LEVEL.states), seen)[1]

    seen, gains = first(KEY)
    for walker in range(LIVES.walkers):
        following = 0.0
        for t in reversed(range(LIVES.time)):
            following = float(seen.reward[walker, t]) + 0.99 * following * (1 - bool(seen.done[walker, t]))
            np.testing.assert_allclose(gains[walker, t], following, rtol=1e-5)
    assert float(gains.max()) > 0


def test_algorithmic_regret_is_the_difference_of_two_exact_returns():
    score = AlgorithmicRegret(LIVES)

    @jax.jit
    def scored(key):
        rival, _ = LIVES.whole(score.antagonist, LEVEL, key, 20, 1)
        idle = IDLE.begin(LEVEL.states, LEVEL.moves)
        values = [LIVES.value(LEVEL, tables) for tables in (rival.tables, idle)]
        return score(LEVEL, rival.tables, key, 20), score(LEVEL, idle, key, 20), *values

    itself, other, rival, idle = scored(KEY)
    assert float(itself) == 0
    np.testing.assert_allclose(other, rival - idle, rtol=1e-6)
    assert float(other) > 0.1 * float(rival)


def test_scores_of_a_rule_that_learns_nothing():
    """Its regret is that of the uniform policy; no antagonist earns more than the optimum."""
    found = jax.jit(lambda key: score_vs_true_regret(LIVES, IDLE, LEVELS, key, 12, updates=3, batch=3))(KEY)
    uniform = jnp.full((LEVEL.states, LEVEL.moves), 1 / LEVEL.moves)
    value = jax.vmap(lambda level: level.evaluate(uniform, LIVES.limit))(LEVELS)
    best = jax.vmap(lambda level: level.optimum(LIVES.limit))(LEVELS)
    np.testing.assert_allclose(found.optimum, best, rtol=1e-5)
    np.testing.assert_allclose(found.regret, best - value, rtol=1e-4, atol=1e-6)
    assert bool((found.algorithmic_regret <= found.regret + 1e-5).all())
    assert float(found.algorithmic_regret.sum()) > 0.5 * float(found.regret.sum())
    assert bool((found.positive_value_loss > 0).all()) and bool(
        (found.l1_value_loss >= found.positive_value_loss).all()
    )
    same = jax.jit(lambda key: returns_after(LIVES, IDLE, LEVELS, key, 2))(KEY)
    np.testing.assert_allclose(same, value, rtol=1e-4, atol=1e-6)
