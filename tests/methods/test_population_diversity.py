import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.methods.evolution import EvolutionStrategies
from unseen.methods.population_diversity import (
    BehaviorEmbedding,
    DvD,
    NoveltySearchES,
    ThompsonWeight,
    behaviour_kernel,
    log_volume,
    mean_distance,
)

pytestmark = pytest.mark.optimized


def test_embedding_is_the_actions_on_the_probes():
    policy = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    probes = jax.random.normal(jax.random.key(1), (5, 3))
    expected = np.concatenate([np.asarray(policy(p)) for p in probes])
    np.testing.assert_allclose(BehaviorEmbedding(probes)(policy), expected, rtol=1e-6)


def test_log_volume_is_the_log_determinant():
    embeddings = jax.random.normal(jax.random.key(0), (6, 8))
    kernel = np.asarray(behaviour_kernel(embeddings), float)
    np.testing.assert_allclose(
        kernel[0, 1], np.exp(-np.mean((np.asarray(embeddings[0] - embeddings[1])) ** 2)), rtol=1e-5
    )
    expected = np.linalg.slogdet(kernel + 1e-4 * np.eye(6))[1]
    np.testing.assert_allclose(log_volume(embeddings), expected, rtol=1e-4)
    # Two members by hand: determinant 1 - k^2.
    two = jnp.array([[0.0], [1.0]])
    np.testing.assert_allclose(log_volume(two, jitter=0.0), np.log(1 - np.exp(-2)), rtol=1e-5)
    assert np.isfinite(jax.grad(log_volume)(embeddings)).all()


def test_volume_sees_redundancy_that_distances_do_not():
    # Three and three at opposite ends, against six directions at the same mean distance.
    clusters = jnp.repeat(jnp.array([[-1.0] * 6, [1.0] * 6]), 3, 0)
    spread = jnp.eye(6)
    spread = spread * float(mean_distance(clusters).mean() / mean_distance(spread).mean())
    np.testing.assert_allclose(mean_distance(spread).mean(), mean_distance(clusters).mean(), rtol=1e-5)
    np.testing.assert_allclose(mean_distance(clusters), 3 / 5 * 2.0, rtol=1e-5)
    assert log_volume(spread) > log_volume(clusters) + 10


def search(members=3, pairs=20):
    return EvolutionStrategies(pairs=pairs, sigma=0.1, optimizer=optax.adam(0.05), shaping=None, centres=members)


def points(kind, weight, updates=150):
    """Members are points of a square with reward -|x| of the first coordinate, behaviours the points themselves."""
    method = kind(search())

    def evaluate(p):
        return -jnp.abs(p[0]), jnp.clip(p, -1, 1)

    def update(state, key):
        return method.update(key, state, evaluate, weight), None

    start = method.search.init(0.1 * jax.random.normal(jax.random.key(0), (3, 2)))
    state, _ = jax.jit(lambda s: jax.lax.scan(update, s, jax.random.split(jax.random.key(1), updates)))(start)
    return np.asarray(state.centre)


def test_weights_trade_reward_against_diversity():
    assert np.all(np.abs(points(DvD, 0.0)[:, 0]) < 0.1)
    for kind in (DvD, NoveltySearchES):
        # Three points of a square that are far apart lie on its edges.
        apart = np.clip(points(kind, 1.0), -1, 1)
        assert np.all(np.abs(apart).max(1) > 0.9)
        both = points(kind, 0.4)
        assert np.abs(both[:, 0]).mean() < np.abs(apart[:, 0]).mean()
    assert float(log_volume(jnp.clip(points(DvD, 1.0), -1, 1))) > float(log_volume(jnp.asarray(points(DvD, 0.0))))


def test_without_diversity_members_move_as_independent_searches():
    method, plain = DvD(search()), search()
    state = plain.init(jnp.arange(6.0).reshape(3, 2))
    returns, embeddings = jax.random.normal(jax.random.key(2), (2, 20, 3)), jnp.zeros((2, 20, 3, 4))
    fitness = np.asarray(method.fitness(returns, embeddings, 0.0))
    r = np.asarray(returns)
    np.testing.assert_allclose(fitness, (r - r.mean((0, 1))) / r.std((0, 1)), rtol=1e-4)
    assert plain.tell(state, plain.ask(jax.random.key(0), state)[0], jnp.asarray(fitness)).centre.shape == (3, 2)


def test_bandit_counts_what_helped_among_the_last_updates():
    bandit = ThompsonWeight(window=4, back=2)
    state = bandit.init(jnp.array(0.0))
    assert float(bandit.weight(state)) == 0.0
    # Better than the best of the two before?          yes  no   yes  no   yes
    for arm, value in zip((0, 1, 1, 0, 1), (1.0, 0.5, 2.0, 1.5, 3.0), strict=True):
        state = bandit.observe(jax.random.key(0), state._replace(arm=jnp.array(arm)), jnp.array(value))
    won, lost = bandit.beta(state)  # the first update has left the window
    assert won.tolist() == [1, 3] and lost.tolist() == [2, 2]


def test_bandit_comes_to_the_arm_that_helps():
    bandit = ThompsonWeight()

    def update(carry, key):
        state, value = carry
        weight = bandit.weight(state)
        value = value + jnp.where(weight > 0, 1.0, -0.1)
        return (bandit.observe(key, state, value), value), weight

    keys = jax.random.split(jax.random.key(3), 300)
    _, weights = jax.lax.scan(update, (bandit.init(jnp.array(0.0)), jnp.array(0.0)), keys)
    assert weights[:5].shape == (5,) and float((weights[100:] == 0.5).mean()) > 0.85


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="search"):
        DvD(EvolutionStrategies(shaping=None))
    with pytest.raises(UserError, match="search"):
        NoveltySearchES(EvolutionStrategies(centres=3))
    for name, value in dict(weights=(0.5,), window=0, back=0).items():
        with pytest.raises(UserError, match=name):
            ThompsonWeight(**{name: value})
