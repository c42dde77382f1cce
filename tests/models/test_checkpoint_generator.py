import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.models.checkpoint_generator import CheckpointGenerator

SIDE = 4


def layouts(key, count):
    """Lava in two fifths of the cells; the second plane is where one can stand."""
    lava = jax.random.bernoulli(key, 0.4, (count, SIDE, SIDE))
    return jnp.stack([lava, ~lava], -1).astype(jnp.float32)


def test_the_loss_is_minus_the_log_probability_where_the_latent_says_nothing():
    """Without weights on the latent every draw gives the same logits, and the divergence is left."""
    net = CheckpointGenerator((2, 2), 1, latent=2, beta=2.0, key=jax.random.key(0))
    net = eqx.tree_at(lambda n: n.spread.weight, net, jnp.zeros_like(net.spread.weight))
    planes = jnp.array([[[1.0], [0.0]], [[0.0], [1.0]]])
    mean, log_variance = jnp.split(net.encoder(jax.nn.one_hot(3, 4)), 2)
    divergence = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum()
    expected = -jax.nn.log_softmax(net.logits(planes, jnp.zeros(2)))[3] + 2 * divergence
    loss = eqx.filter_jit(net.loss)(planes, jnp.array(3), jax.random.key(1))
    assert np.isclose(loss, expected, atol=1e-5)
    with pytest.raises(UserError, match="latent"):
        CheckpointGenerator((2, 2), 1, latent=0, key=jax.random.key(0))


def test_imagines_cells_of_layouts_that_were_never_seen():
    """Trained on free cells of the upper half, it draws such cells, different ones, in new layouts; untrained it draws
    lava as often as it comes."""
    net = CheckpointGenerator((SIDE, SIDE), 2, key=jax.random.key(0))
    optimizer = optax.adam(1e-2)

    def batch(key):
        draw, pick = jax.random.split(key)
        planes = layouts(draw, 32)
        upper = planes[:, : SIDE // 2, :, 1].reshape(32, -1)
        return planes, jax.random.categorical(pick, jnp.where(upper > 0, 0.0, -30.0))

    @eqx.filter_jit
    def train(net):
        net, rest = eqx.partition(net, eqx.is_inexact_array)

        def update(carry, key):
            net, state = carry
            draw, noise = jax.random.split(key)
            planes, cells = batch(draw)
            loss = lambda n: jax.vmap(eqx.combine(n, rest).loss)(planes, cells, jax.random.split(noise, 32)).mean()  # noqa: E731
            value, gradient = jax.value_and_grad(loss)(net)
            change, state = optimizer.update(gradient, state)
            return (optax.apply_updates(net, change), state), value

        keys = jax.random.split(jax.random.key(1), 600)
        (net, _), losses = jax.lax.scan(update, (net, optimizer.init(net)), keys)
        return eqx.combine(net, rest), losses

    @eqx.filter_jit
    def drawn(net, planes):
        keys = jax.random.split(jax.random.key(3), len(planes))
        return jax.vmap(lambda p, k: net.sample(p, 16, key=k))(planes, keys)

    planes = layouts(jax.random.key(2), 50)
    before = np.asarray(drawn(net, planes))
    trained, losses = train(net)
    after = np.asarray(drawn(trained, planes))
    lava = lambda cells: np.take_along_axis(np.asarray(planes[..., 0]).reshape(50, -1), cells, 1).mean()  # noqa: E731
    assert lava(before) > 0.3 and lava(after) < 0.15
    assert (after < SIDE * SIDE // 2).mean() > 0.9 > (before < SIDE * SIDE // 2).mean()
    assert np.mean([len(set(row)) for row in after]) > 2.5
    assert losses[-50:].mean() < losses[:50].mean() - 0.5
