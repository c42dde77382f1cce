import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.models import BetaVAE, ForwardModel, InverseModel, LatentDynamics, Segment, WorldModel
from unseen.models.world_model import divergence

A = jnp.array([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1], [0.0, 0.0, 0.7]])
B = jnp.array([[0.0, 0.5], [1.0, 0.0], [0.3, 0.8]])
NOISE = 0.1


def trained(model, loss, steps, rate=3e-3):
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    arrays, static = eqx.partition(model, eqx.is_inexact_array)

    def step(carry, key):
        arrays, state = carry
        gradient = jax.grad(lambda arrays: loss(eqx.combine(arrays, static), key))(arrays)
        change, state = optimizer.update(gradient, state)
        return (optax.apply_updates(arrays, change), state), None

    keys = jax.random.split(jax.random.key(9), steps)
    run = jax.jit(lambda arrays: jax.lax.scan(step, (arrays, optimizer.init(arrays)), keys)[0][0])
    return eqx.combine(run(arrays), static)


def linear_gaussian(key, count):
    """x' = A x + B a + noise, from standard normal x and a."""
    state, action, noise = (
        jax.random.normal(k, (count, n)) for k, n in zip(jax.random.split(key, 3), (3, 2, 3), strict=True)
    )
    return state, action, state @ A.T + action @ B.T + NOISE * noise


def test_forward_head_reaches_the_noise_floor():
    def loss(model, key):
        return jax.vmap(model.error)(*linear_gaussian(key, 128)).mean()

    test = linear_gaussian(jax.random.key(1), 20_000)
    floor = 3 * NOISE**2 / 2  # half the variance of three components
    for depth, steps, slack in ((0, 400, 1.02), (1, 800, 1.1)):
        model = ForwardModel(3, 2, 32, depth, key=jax.random.key(0))
        before = float(loss(model, jax.random.key(2)))
        after = float(jax.vmap(trained(model, loss, steps, 2e-2).error)(*test).mean())
        assert before > 20 * floor and 0.98 * floor < after < slack * floor


def test_inverse_head_reaches_the_best_linear_estimate():
    def loss(model, key, count=256):
        state, action, after = linear_gaussian(key, count)
        return 0.5 * jnp.sum((jax.vmap(model)(state, after) - action) ** 2, -1).mean()

    # Given x and x', the action is Gaussian with covariance (I + B'B / noise^2)^-1.
    floor = 0.5 * float(jnp.trace(jnp.linalg.inv(jnp.eye(2) + B.T @ B / NOISE**2)))
    model = trained(InverseModel(3, 2, depth=0, key=jax.random.key(0)), loss, 1000, 3e-2)
    assert 0.95 * floor < float(loss(model, jax.random.key(5), 20_000)) < 1.05 * floor


def test_divergence_is_that_of_the_two_densities():
    mean, log_variance = jnp.array([0.5, -1.0]), jnp.array([0.3, -0.7])
    z = mean + jnp.exp(log_variance / 2) * jax.random.normal(jax.random.key(0), (200_000, 2))
    own = -0.5 * ((z - mean) ** 2 / jnp.exp(log_variance) + log_variance)
    assert float(divergence(mean, log_variance)) == pytest.approx(float((own + 0.5 * z**2).sum(-1).mean()), rel=0.02)
    assert float(divergence(jnp.zeros(3), jnp.zeros(3))) == 0


def test_beta_trades_reconstruction_for_the_prior():
    basis = jax.random.normal(jax.random.key(3), (2, 6))

    def data(key):
        return jax.random.normal(key, (128, 2)) @ basis

    def loss(model, key):
        drawn, noise = jax.random.split(key)
        return jax.vmap(model.loss)(data(drawn), jax.random.split(noise, 128)).mean()

    def parts(beta):
        model = trained(BetaVAE(6, 2, 32, beta=jnp.array(beta), key=jax.random.key(0)), loss, 500, 1e-2)
        seen = data(jax.random.key(7))
        mean, log_variance = jax.vmap(model.encode)(seen)
        error = ((jax.vmap(model.decode)(mean) - seen) ** 2).sum(-1).mean() / (seen**2).sum(-1).mean()
        return float(error), float(jax.vmap(divergence)(mean, log_variance).mean())

    (exact, far), (coarse, near) = parts(0.01), parts(30.0)
    assert exact < 0.03 and coarse > 0.5 and near < 0.5 < far


def world(key, count, time=8):
    """A point on a circle turns by a hidden speed, shown by its first action; reward is its height, low ends it."""
    start, speed = jax.random.split(key)
    angle = jax.random.uniform(start, (count, 1), maxval=2 * jnp.pi)
    turn = jnp.where(jax.random.bernoulli(speed, shape=(count, 1)), 0.8, -0.8)
    angles = angle + turn * jnp.arange(time + 1)
    seen = jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)
    action = jnp.zeros((count, time, 1)).at[:, 0].set(jnp.sign(turn))
    first = jnp.zeros((count, time), bool).at[:, 0].set(True)
    height = seen[:, 1:, 1]
    return Segment(seen, action, height, height < -0.9, first, jnp.ones((count, time), bool))


def test_world_model_remembers_what_one_observation_does_not_show():
    def loss(model, key):
        play, noise = jax.random.split(key)
        return jax.vmap(model.loss)(world(play, 32), jax.random.split(noise, 32)).mean()

    first, second = jax.random.split(jax.random.key(0))
    model = WorldModel(BetaVAE(2, 4, 32, beta=0.001, key=first), LatentDynamics(4, 1, 32, key=second))
    model = trained(model, loss, 500, 1e-2)
    test = world(jax.random.key(3), 200)
    _, _, foreseen = jax.vmap(model.watch)(test.observation[:, :-1], test.action, test.first)
    seen = jax.vmap(jax.vmap(model.vae.decode))(foreseen.latent)
    error = jnp.where(test.ends, 0, ((seen - test.observation[:, 1:]) ** 2).sum(-1)).mean()
    # Who does not know the direction can do no better than the middle of both, sin(0.8)^2 = 0.51 off.
    assert float(error) < 0.05
    assert float(((foreseen.reward - test.reward) ** 2).mean()) < 0.02
    assert float(((foreseen.ends > 0) == test.ends).mean()) > 0.97


def test_memory_ends_with_the_episode_and_what_does_not_count_does_not():
    keys = jax.random.split(jax.random.key(0), 4)
    model = WorldModel(BetaVAE(2, 3, 8, key=keys[0]), LatentDynamics(3, 1, 5, key=keys[1]))
    one = jax.tree.map(lambda leaf: leaf[0], world(keys[2], 1))
    memory, *_ = eqx.filter_jit(model.watch)(one.observation[:-1], one.action, one.first.at[4].set(True))
    assert not memory[4].any() and memory[5].any() and not memory[0].any()
    loss = eqx.filter_jit(lambda segment: model.loss(segment, keys[3]))
    half = one._replace(valid=jnp.arange(8) < 4)
    changed = half._replace(reward=half.reward.at[4:].set(99.0))
    assert np.isclose(loss(half), loss(changed)) and not np.isclose(loss(one), loss(half))
