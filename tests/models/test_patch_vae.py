import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.models import PatchDecoder, PatchVAE


def test_the_last_layer_is_a_transposed_convolution():
    decoder = PatchDecoder(3, 8, 2, patch=4, features=5, width=7, key=jax.random.key(0))
    latent = jax.random.normal(jax.random.key(1), (3,))
    features = jax.nn.relu(decoder.spread(latent)).reshape(1, 2, 2, 5)
    kernel = decoder.paint.weight.reshape(4, 4, 2, 5).transpose(0, 1, 3, 2)
    # JAX correlates where a transposed convolution convolves: hence turned round.
    image = jax.lax.conv_transpose(
        features, kernel[::-1, ::-1], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ) + jnp.tile(decoder.paint.bias.reshape(4, 4, 2), (2, 2, 1))
    np.testing.assert_allclose(decoder(latent).reshape(8, 8, 2), image[0], atol=1e-5)


def test_it_learns_images_of_two_numbers():
    """A square of 2 x 2 pixels anywhere on 8 x 8."""
    place = jax.random.randint(jax.random.key(0), (256, 2), 0, 7)
    at = jnp.arange(8)
    rows, columns = ((at >= p[:, None]) & (at < p[:, None] + 2) for p in (place[:, 0], place[:, 1]))
    images = (rows[:, :, None] & columns[:, None]).astype(jnp.float32).reshape(256, 64)
    vae = PatchVAE(8, 4, 1, features=8, width=32, beta=0.01, key=jax.random.key(1))
    optimizer = optax.adam(3e-3)
    learned, rest = eqx.partition(vae, eqx.is_inexact_array)

    def update(carry, key):
        learned, state = carry
        keys = jax.random.split(key, 256)
        gradient = jax.grad(lambda m: jax.vmap(eqx.combine(m, rest).loss)(images, keys).mean())(learned)
        change, state = optimizer.update(gradient, state)
        return (eqx.apply_updates(learned, change), state), None

    keys = jax.random.split(jax.random.key(2), 400)
    (learned, _), _ = jax.jit(lambda c: jax.lax.scan(update, c, keys))((learned, optimizer.init(learned)))
    vae = eqx.combine(learned, rest)
    again = jax.vmap(lambda x: vae.decode(vae.encode(x)[0]))(images)
    unexplained = float(((again - images) ** 2).sum() / ((images - images.mean(0)) ** 2).sum())
    assert unexplained < 0.3


def test_patches_must_fit():
    for make in (lambda: PatchVAE(10, key=jax.random.key(0)), lambda: PatchDecoder(2, 10, key=jax.random.key(0))):
        with pytest.raises(UserError, match="patch"):
            make()
