import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.methods.learned_objective import (
    LPG,
    LPO,
    lifetime_inputs,
    lpg_loss,
    ppo_clip_drift,
    surrogate_weight,
    truncated_meta_gradient,
)

RATIO, ADVANTAGE = (g.ravel() for g in jnp.meshgrid(jnp.linspace(0.2, 3.0, 15), jnp.linspace(-2.1, 2.0, 12)))
NEVER = jnp.zeros(2)


def by_hand(epsilon: float) -> LPO:
    """PPO's clip: the network passes (r - 1) A on, the margin is epsilon."""
    rule = LPO(width=2, depth=1, activation=jax.nn.relu, key=jax.random.key(0), margin=epsilon)
    first = jnp.zeros((3, 2, 8)).at[0, :, 4].set(jnp.array([-1.0, 1.0]))  # input 4 is (1 - r) A
    rule = eqx.tree_at(lambda r: r.first, rule, first)
    return eqx.tree_at(lambda r: r.rest.layers[0].weight, rule, jnp.array([[1.0, -1.0]]))


def test_lpo_with_hand_set_weights_is_the_drift_of_ppo():
    rule = by_hand(0.2)
    drift = jax.vmap(rule, (0, 0, None))(RATIO, ADVANTAGE, lifetime_inputs(3, 10))
    np.testing.assert_allclose(drift, ppo_clip_drift(RATIO, ADVANTAGE, 0.2), atol=2e-6)
    # Its surrogate is the clipped one, and so is the gradient (away from the kinks).
    clipped = jnp.minimum(RATIO * ADVANTAGE, jnp.clip(RATIO, 0.8, 1.2) * ADVANTAGE)
    np.testing.assert_allclose(RATIO * ADVANTAGE - drift, clipped, atol=2e-6)
    slope = jax.vmap(jax.grad(lambda r, a: jnp.minimum(r * a, jnp.clip(r, 0.8, 1.2) * a)))(RATIO, ADVANTAGE)
    smooth = (jnp.abs(RATIO - 0.8) > 1e-3) & (jnp.abs(RATIO - 1.2) > 1e-3)
    weight = surrogate_weight(rule, RATIO, ADVANTAGE, NEVER)
    np.testing.assert_allclose(weight[smooth], slope[smooth], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_any_weights_make_a_drift(seed):
    rule = LPO(8, key=jax.random.key(seed))
    when = lifetime_inputs(7, 40)
    drift = jax.vmap(rule, (0, 0, None))
    assert bool((drift(RATIO, ADVANTAGE, when) >= 0).all()) and float(drift(RATIO, ADVANTAGE, when).max()) > 0.01
    ones = jnp.ones_like(ADVANTAGE)
    assert bool((drift(ones, ADVANTAGE, when) == 0).all())
    np.testing.assert_array_equal(surrogate_weight(rule, ones, ADVANTAGE, when), ADVANTAGE)
    assert np.isfinite(surrogate_weight(rule, jnp.exp(jnp.array([-40.0, 40.0])), jnp.ones(2), when)).all()


def test_only_an_aware_rule_changes_over_life():
    rule = LPO(8, key=jax.random.key(0))

    def at(step, lifetime, aware):
        return surrogate_weight(rule, RATIO, ADVANTAGE, lifetime_inputs(step, lifetime, aware))

    np.testing.assert_array_equal(at(1, 10, 0.0), at(9, 20, 0.0))
    assert float(jnp.abs(at(1, 10, 1.0) - at(9, 10, 1.0)).max()) > 0.01
    assert float(jnp.abs(at(1, 10, 1.0) - at(2, 20, 1.0)).max()) > 0.01
    np.testing.assert_allclose(lifetime_inputs(5, 20, 1.0, 40.0), [0.25, np.log(0.5)], rtol=1e-6)


DISCOUNT, TRACE, SCALE = 0.9, 0.8, 1e-3
LEVELS = jnp.linspace(-1.0, 1.0, 8)  # what the eight categories are worth


def critic_by_hand() -> LPG:
    """Units 0 and 1 of the GRU carry plus and minus the generalised advantage, 2 and 3 the value of the state."""
    decay = DISCOUNT * TRACE
    rule = LPG(width=4, key=jax.random.key(0))
    # Embedding: relu(v + 2) - 2 is v for values above -2.
    hidden = jnp.zeros((16, 8)).at[0].set(LEVELS)
    rule = eqx.tree_at(
        lambda r: (r.embed.layers[0].weight, r.embed.layers[0].bias, r.embed.layers[1].weight, r.embed.layers[1].bias),
        rule,
        (
            hidden,
            jnp.zeros(16).at[0].set(2.0),
            jnp.zeros((1, 16)).at[0, 0].set(1.0),
            jnp.full(rule.embed.layers[1].bias.shape, -2.0),
        ),
    )
    # Inputs: reward, done, chance, value here, value there, two times. The candidate is a small multiple of the error
    # r + discount V' - V; the update gate keeps a share `decay` of the memory.
    error = SCALE * jnp.array([1.0, 0.0, 0.0, -1.0, DISCOUNT, 0.0, 0.0])
    value = SCALE * jnp.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    candidate = jnp.stack([error, -error, value, -value])
    weights = jnp.concatenate([jnp.zeros((8, 7)), candidate])
    keep = jnp.array([np.log(decay / (1 - decay))] * 2 + [-40.0] * 2)
    bias = jnp.concatenate([jnp.zeros(4), keep, jnp.zeros(4)])
    advantage = jnp.array([1.0, -1.0, 0.0, 0.0]) / (SCALE * (1 - decay))
    here = jnp.array([0.0, 0.0, 1.0, -1.0]) / SCALE
    spread = jnp.var(LEVELS)
    target = jnp.outer(LEVELS, advantage + here / spread)
    return eqx.tree_at(
        lambda r: (
            r.cell.weight_ih, r.cell.weight_hh, r.cell.bias, r.cell.bias_n,
            r.coefficient.weight, r.coefficient.bias, r.target.weight, r.target.bias,
        ),
        rule,
        (
            weights, jnp.zeros((12, 4)), bias, jnp.zeros(4),
            advantage[None], jnp.zeros(rule.coefficient.bias.shape), target, jnp.zeros(8),
        ),
    )  # fmt: skip


def actor_critic_advantages(reward, done, here, there):
    """Generalised advantages, one step at a time."""
    after, out = 0.0, []
    for r, d, v, w in list(zip(reward, done, here, there, strict=True))[::-1]:
        after = r + DISCOUNT * (1 - d) * w - v + DISCOUNT * TRACE * (1 - d) * after
        out.append(after)
    return np.array(out[::-1])


def test_lpg_with_hand_set_weights_is_an_advantage_actor_critic():
    rng = np.random.default_rng(0)
    reward, done = jnp.asarray(rng.normal(size=12), jnp.float32), jnp.asarray(rng.random(12) < 0.25)
    logits = jnp.asarray(0.02 * rng.normal(size=(13, 1))) * LEVELS  # nearly uniform predictions: values near 0
    predictions = jax.nn.softmax(logits)
    values = np.asarray(predictions @ LEVELS)
    advantage = actor_critic_advantages(np.asarray(reward), np.asarray(done), values[:-1], values[1:])
    chance = jnp.full(12, 0.25)
    rule = critic_by_hand()
    coefficient, target = rule(reward, done, chance, predictions[:-1], predictions[1:], NEVER)
    np.testing.assert_allclose(coefficient, advantage, atol=2e-3)

    # The learner's step: log probabilities rise by the advantage, and values go where a critic's would.
    def loss(log_chance, logits):
        return lpg_loss(log_chance, jax.nn.softmax(logits), coefficient, target, 1.0)

    up, down = jax.grad(loss, (0, 1))(jnp.log(chance), logits[:-1])
    np.testing.assert_allclose(-12 * up, advantage, atol=2e-3)
    slope = jax.vmap(jax.grad(lambda row: jax.nn.softmax(row) @ LEVELS))(logits[:-1])
    np.testing.assert_allclose(-12 * down, advantage[:, None] * slope, atol=0.03 * float(np.abs(advantage).max() / 8))


def test_lpg_does_not_look_across_the_end_of_an_episode():
    rule = LPG(key=jax.random.key(1))
    done = jnp.arange(6) == 2
    chance, even = jnp.full(6, 0.3), jnp.full((6, 8), 1 / 8)
    other = jnp.array([0.0, 0, 0, 1, 1, 1])
    first = rule(jnp.zeros(6), done, chance, even, even, NEVER)
    second = rule(other, done, chance, even, even, NEVER)
    np.testing.assert_array_equal(first[0][:3], second[0][:3])
    assert not np.allclose(first[0][3:], second[0][3:])
    assert first[1].shape == (6, 8) and np.allclose(first[1].sum(-1), 1)


def test_truncated_meta_gradient_is_that_of_the_unrolled_updates():
    """One number moves by `rate * (goal - x)` K times; the derivative of its final squared distance is known."""
    rate, goal, updates = jnp.array(0.3), 2.0, 5

    def unroll(rate, x):
        for _ in range(updates):
            x = x + rate * (goal - x)
        return x, (goal - x) ** 2

    x = jnp.array([0.0, 1.0])
    gradient, later, loss = truncated_meta_gradient(rate, unroll, x)
    gap = (goal - x) * (1 - rate) ** updates
    np.testing.assert_allclose(later, goal - gap, rtol=1e-5)
    np.testing.assert_allclose(loss, jnp.mean(gap**2), rtol=1e-5)
    np.testing.assert_allclose(gradient, jnp.mean(-2 * updates * gap**2 / (1 - rate)), rtol=1e-5)
