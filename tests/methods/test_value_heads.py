import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import wasserstein_distance

from unseen.lab import UserError
from unseen.methods.value_heads import (
    CategoricalHead,
    Distribution,
    QuantileHead,
    ValueHead,
    mixture,
    project_categorical,
    quantile_huber_loss,
    wasserstein1,
)

COIN = Distribution(jnp.array([0.25, 2.0]), jnp.array([0.5, 0.5]))


def test_projection_onto_two_atoms_by_hand():
    # 0.25 lies a quarter of the way from 0 to 1; 2 is clipped to 1.
    np.testing.assert_allclose(project_categorical(COIN, 0.0, 1.0, 2), [0.375, 0.625], rtol=1e-6)
    # On five atoms up to 4 nothing is clipped and the mean is kept.
    five = project_categorical(COIN, 0.0, 4.0, 5)
    np.testing.assert_allclose(five, [0.375, 0.125, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(five @ jnp.arange(5.0), COIN.mean(), rtol=1e-6)


def test_losses_against_two_atoms_by_hand():
    head = CategoricalHead(0.0, 1.0, 2)
    logits = jnp.log(jnp.array([0.2, 0.8]))
    expected = -(0.375 * np.log(0.2) + 0.625 * np.log(0.8))
    np.testing.assert_allclose(head.loss(logits, COIN), expected, rtol=1e-5)
    # Quantiles 0 and 3 at midpoints 1/4 and 3/4. Errors: 0.25, 2 from the first; -2.75, -1 from the second.
    quantiles = jnp.array([0.0, 3.0])
    pinball = 0.5 * 0.25 * (0.25 + 2.0) + 0.5 * 0.25 * (2.75 + 1.0)
    np.testing.assert_allclose(quantile_huber_loss(quantiles, COIN, 0.0), pinball, rtol=1e-6)
    huber = 0.5 * 0.25 * (0.03125 + 1.5) + 0.5 * 0.25 * (2.25 + 0.5)
    np.testing.assert_allclose(quantile_huber_loss(quantiles, COIN, 1.0), huber, rtol=1e-6)
    np.testing.assert_allclose(ValueHead().loss(jnp.array([0.125]), COIN), 0.5, rtol=1e-6)
    np.testing.assert_allclose(ValueHead(huber=0.5).loss(jnp.array([0.125]), COIN), 0.375, rtol=1e-6)


def test_backup_and_mixture():
    moved = COIN.backup(jnp.array(1.0), jnp.array(0.5))
    np.testing.assert_allclose(moved.locations, [1.125, 2.0])
    both = mixture(COIN, moved)
    np.testing.assert_allclose(both.probabilities.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(both.mean(), (COIN.mean() + moved.mean()) / 2, rtol=1e-6)


def test_wasserstein1_is_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)), rng.normal(1, 2, size=(7, 9))
    p, q = rng.dirichlet(np.ones(5), 7), rng.dirichlet(np.ones(9), 7)
    found = wasserstein1(
        *(Distribution(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)) for a, b in ((x, p), (y, q)))
    )
    np.testing.assert_allclose(found, [wasserstein_distance(*row) for row in zip(x, y, p, q, strict=True)], rtol=1e-4)


@pytest.mark.parametrize("head", [CategoricalHead(-1.0, 3.0, 21), QuantileHead(8, 0.0), ValueHead()])
def test_the_minimum_of_each_loss_is_the_projection(head):
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 1_500))

    def update(carry, _):
        outputs, state = carry
        updates, state = optimizer.update(jax.grad(lambda o: head.loss(o, COIN))(outputs), state)
        return (optax.apply_updates(outputs, updates), state), None

    start = 0.1 * jax.random.normal(jax.random.key(0), (head.size,))
    (outputs, _), _ = jax.jit(lambda s: jax.lax.scan(update, (s, optimizer.init(s)), None, 1_500))(start)
    fitted = head.distribution(outputs)
    np.testing.assert_allclose(fitted.mean(), COIN.mean(), atol=0.02)
    if isinstance(head, QuantileHead):
        np.testing.assert_allclose(np.sort(fitted.locations), [0.25] * 4 + [2.0] * 4, atol=0.02)


def test_bad_settings():
    with pytest.raises(UserError, match="atoms"):
        CategoricalHead(1.0, 0.0)
    with pytest.raises(UserError, match="quantiles"):
        QuantileHead(0)
