import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from unseen.learners.lifetimes import (
    DriftRule,
    Lives,
    LPGRule,
    Rollout,
    Tables,
    UpdateRule,
    advantages,
    after_updates,
    entropy,
    horizon_sweep,
    lifetime_fitness,
    pair_ranks,
    rows,
    sums_by_state,
)
from unseen.methods.evolution import EvolutionStrategies
from unseen.methods.learned_objective import LPG, LPO, lpg_loss, ppo_clip_drift, truncated_meta_gradient
from unseen.worlds.control import RewardObjects, levels_of
from unseen.worlds.control.compiled_levels import CompiledLevel

LEVELS = jax.vmap(CompiledLevel.of)(levels_of(RewardObjects(5, 1, walls=0.0, reward=(0.5, 1.0)), 4))
LEVEL = jax.tree.map(lambda leaf: leaf[0], LEVELS)
LIVES = Lives(walkers=4, time=8, limit=10)
KEY = jax.random.key(0)


def some_rollout(states=18, walkers=4, time=8) -> Rollout:
    rng = np.random.default_rng(0)
    visited = jnp.asarray(rng.integers(states, size=(walkers, time + 1)))
    state, after = visited[:, :-1], visited[:, 1:]
    action = jnp.asarray(rng.integers(4, size=(walkers, time)))
    return Rollout(
        state, action, jnp.asarray(rng.normal(size=(walkers, time)), jnp.float32),
        jnp.asarray(rng.random((walkers, time)) < 0.2), after,
    )  # fmt: skip


def test_sums_by_state_are_those_of_a_scatter():
    rng = np.random.default_rng(0)
    state, values = jnp.asarray(rng.integers(21, size=50)), jnp.asarray(rng.normal(size=(50, 3)), jnp.float32)
    np.testing.assert_allclose(sums_by_state(state, values, 21), jnp.zeros((21, 3)).at[state].add(values), atol=1e-5)


def test_gradient_of_rows_is_that_of_a_lookup():
    rng = np.random.default_rng(0)
    state, weight = jnp.asarray(rng.integers(21, size=50)), jnp.asarray(rng.normal(size=(50, 3)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(21, 3)), jnp.float32)
    assert (rows(table, state) == table[state]).all()
    slope = jax.grad(lambda table: jnp.sum(weight * jnp.tanh(rows(table, state))))(table)
    plain = jax.grad(lambda table: jnp.sum(weight * jnp.tanh(table[state])))(table)
    np.testing.assert_allclose(slope, plain, atol=1e-5)


def test_advantages_follow_their_definition():
    seen, values = some_rollout(), jnp.linspace(-1, 1, 18)
    found = advantages(values, seen, 0.9, 0.7)
    for walker in range(4):
        after = 0.0
        for t in range(7, -1, -1):
            on = 1 - float(seen.done[walker, t])
            error = seen.reward[walker, t] + 0.9 * on * values[seen.after[walker, t]] - values[seen.state[walker, t]]
            after = error + 0.9 * 0.7 * on * after
            np.testing.assert_allclose(found[walker, t], after, rtol=1e-4, atol=1e-5)


def test_drift_rule_climbs_the_clipped_surrogate():
    """Two epochs against gradients by differentiation of the surrogate itself."""
    seen = some_rollout()
    rule = DriftRule(rate=3.0, critic_rate=0.25)
    tables = Tables(jax.random.normal(KEY, (18, 4)), jnp.linspace(-1, 1, 18))
    after = rule.update(tables, seen, 2.0, 10.0)
    raw = advantages(tables.critic, seen, rule.discount, rule.trace)
    gain = (raw - raw.mean()) / (raw.std() + 1e-6)

    def chance(policy):
        return jnp.take_along_axis(jax.nn.softmax(policy)[seen.state], seen.action[..., None], -1)[..., 0]

    def surrogate(policy):
        ratio = chance(policy) / chance(tables.policy)
        return jnp.mean(ratio * gain - ppo_clip_drift(ratio, gain))

    policy = tables.policy
    for _ in range(2):
        policy = policy + 3.0 * jax.grad(surrogate)(policy)
    np.testing.assert_allclose(after.policy, policy, atol=2e-5)
    at = np.asarray(seen.state) == 5
    assert at.any()
    expected = tables.critic[5] + 0.25 * np.asarray(raw)[at].mean()
    np.testing.assert_allclose(after.critic[5], expected, rtol=1e-4)
    half = DriftRule(rate=3.0, anneal=1.0, epochs=1).update(tables, seen, 5.0, 10.0).policy - tables.policy
    full = DriftRule(rate=3.0, epochs=1).update(tables, seen, 5.0, 10.0).policy - tables.policy
    np.testing.assert_allclose(2 * half, full, atol=1e-5)


def test_far_steps_leave_the_tables_finite():
    """Actions all but ruled out come back with a ratio beyond the largest float."""
    rule = DriftRule(lambda ratio, gain, when: 0 * ratio, rate=5000.0, epochs=4)
    tables = Tables(jnp.zeros((18, 4)), jnp.zeros(18))
    for n in range(3):
        seen = some_rollout()
        tables = rule.update(tables, seen._replace(action=(seen.action + n) % 4), float(n), 3.0)
    assert float(jnp.abs(tables.policy).max()) > 1000
    assert all(bool(jnp.isfinite(table).all()) for table in tables)


def test_lpg_rule_descends_its_loss():
    seen, lpg = some_rollout(), LPG(8, key=KEY)
    rule = LPGRule(lpg, rate=2.0)
    assert isinstance(rule, UpdateRule) and isinstance(DriftRule(), UpdateRule)
    tables = Tables(jax.random.normal(KEY, (18, 4)), jax.random.normal(KEY, (18, 8)))
    when = jnp.array([0.3, np.log(10.0)])

    def loss(tables):
        log = jnp.take_along_axis(jax.nn.log_softmax(tables.policy)[seen.state], seen.action[..., None], -1)[..., 0]
        here, there = jax.nn.softmax(tables.critic[seen.state]), jax.nn.softmax(tables.critic[seen.after])
        outputs = jax.vmap(lpg, (0, 0, 0, 0, 0, None))(seen.reward, seen.done, jnp.exp(log), here, there, when)
        return lpg_loss(log, here, *jax.lax.stop_gradient(outputs), 0.5)

    slope = jax.grad(loss)(tables)
    after = rule.update(tables, seen, 3.0, 10.0)
    np.testing.assert_allclose(after.policy, tables.policy - 2.0 * slope.policy, atol=1e-5)
    np.testing.assert_allclose(after.critic, tables.critic - 2.0 * slope.critic, atol=1e-5)


def test_rollouts_obey_the_level_and_the_limit():
    life = LIVES.begin(DriftRule(), LEVEL, KEY)
    first, life = LIVES.rollout(LEVEL, life)
    second, _ = LIVES.rollout(LEVEL, life._replace(step=life.step + 1))
    seen = jax.tree.map(lambda a, b: np.concatenate([a, b], 1), first, second)
    cell, arrived = seen.state // LEVEL.patterns, seen.after // LEVEL.patterns
    assert (np.asarray(LEVEL.arrive)[cell, seen.action] == arrived).all()
    assert ((seen.reward > 0) <= (arrived == int(LEVEL.cell[0]))).all() and (seen.reward > 0).any()
    later = np.where(seen.done[:, :-1], int(LEVEL.start), seen.after[:, :-1])
    assert (later == seen.state[:, 1:]).all()
    longest = max(len(run) for row in seen.done for run in "".join("x" if d else "." for d in row).split("x"))
    assert longest < LIVES.limit and seen.done[:, : LIVES.limit].any(1).all()


def test_ppo_learns_to_the_optimum_and_a_blind_rule_is_blind():
    rule = DriftRule(LPO(4, key=KEY), 20.0, aware=0.0)
    sweep = eqx.filter_jit(lambda rule: horizon_sweep(LIVES, rule, LEVELS, KEY, (2, 5, 60)))
    ppo = sweep(DriftRule(lambda r, a, when: ppo_clip_drift(r, a), 20.0))
    assert float(ppo.value[2] / ppo.optimum) > 0.97 > 0.94 > float(ppo.value[0] / ppo.optimum)
    assert float(ppo.entropy[2, 59]) < 0.5 < float(ppo.entropy[2, 0])
    arrays, static = eqx.partition(rule, eqx.is_array)
    both = jax.jit(
        jax.vmap(
            lambda aware: horizon_sweep(
                LIVES, DriftRule(eqx.combine(arrays, static).drift, 20.0, aware=aware), LEVELS, KEY, (2, 5, 60)
            )
        )
    )(jnp.array([0.0, 1.0]))
    blind, aware = (jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in range(2))
    np.testing.assert_array_equal(blind.entropy[0, :2], blind.entropy[2, :2])
    np.testing.assert_array_equal(blind.entropy[1, :5], blind.entropy[2, :5])
    assert np.isnan(blind.entropy[0, 2:]).all() and np.isfinite(blind.entropy[2]).all()
    assert not np.array_equal(aware.entropy[1, :5], aware.entropy[2, :5])


def test_both_ways_of_meta_training_improve_a_rule():
    """A drift that cancels the policy gradient is unlearned, by evolution and by meta-gradients."""

    class Share(eqx.Module):
        """Takes a share of the surrogate away at every ratio but 1."""

        share: jax.Array

        def __call__(self, ratio, advantage, when):
            return self.share * (ratio - 1) * advantage

    def rule(drift):
        return DriftRule(drift, 10.0, epochs=3)

    search = EvolutionStrategies(pairs=8, sigma=0.5, optimizer=optax.adam(0.3), shaping=None)
    worst = Share(jnp.array(2.0))

    def generation(state, key):
        ask, live = jax.random.split(key)
        noise, population = search.ask(ask, state)
        keys = jnp.tile(jax.random.split(live, 8), (2, 1)).reshape(2, 8)
        lived = jax.vmap(jax.vmap(lambda drift, key: lifetime_fitness(LIVES, rule(drift), LEVEL, key, 4)))
        return search.tell(state, noise, pair_ranks(lived(population, keys))), None

    state, _ = jax.jit(lambda s: jax.lax.scan(generation, s, jax.random.split(KEY, 12)))(search.init(worst))
    assert float(state.centre.share) < 1.0

    lives = jax.vmap(lambda key: LIVES.begin(rule(worst), LEVEL, key))(jax.random.split(KEY, 32))

    def unroll(drift, life):
        return after_updates(LIVES, rule(drift), LEVEL, life, 10.0, 2)

    gradient, later, loss = jax.jit(lambda drift: truncated_meta_gradient(drift, unroll, lives))(worst)
    assert float(gradient.share) > 0 and np.isfinite(float(loss)) and (later.step == 2).all()


def test_pair_ranks_and_entropy():
    fitness = jnp.array([[3.0, -1.0, 2.0], [1.0, 5.0, 2.0]])
    np.testing.assert_array_equal(pair_ranks(fitness), [[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0]])
    np.testing.assert_allclose(entropy(jnp.zeros((3, 4)), jnp.array([0, 2])), np.log(4), rtol=1e-6)
