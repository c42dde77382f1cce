import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from unseen.models.saliency_encoder import SaliencyEncoder


def test_features_are_the_encoder_s_also_for_whole_numbers():
    encoder = SaliencyEncoder(8, actions=2, features=5, outputs=7, key=jax.random.key(0))
    image = jax.random.randint(jax.random.key(1), (8, 8, 3), 0, 256).astype(jnp.uint8)
    np.testing.assert_allclose(encoder(image), encoder.encoder(image / 255), atol=1e-6)
    np.testing.assert_allclose(encoder(image), encoder(image / 255), atol=1e-6)


def test_the_decoder_is_a_transposed_convolution():
    encoder = SaliencyEncoder(8, actions=3, features=5, outputs=7, key=jax.random.key(0))
    image = jax.random.uniform(jax.random.key(1), (8, 8, 3))
    given = jnp.concatenate([encoder(image), jnp.array([0.0, 1.0, 0.0])])
    patches = jax.nn.relu(encoder.spread(given)).reshape(2, 2, 5)
    kernel = encoder.pixels.weight.reshape(4, 4, 1, 5).transpose(0, 1, 3, 2)[::-1, ::-1]
    expected = jax.lax.conv_transpose(
        patches[None], kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0, ..., 0] + jnp.tile(encoder.pixels.bias.reshape(4, 4), (2, 2))  # fmt: skip
    np.testing.assert_allclose(encoder.predict(image, jnp.array(1)), expected, atol=1e-5)
    assert not np.allclose(encoder.predict(image, jnp.array(0)), expected)


def test_the_decoder_can_point_at_a_place():
    """Trained to find the one bright pixel of an image, it does."""
    encoder = SaliencyEncoder(8, 1, actions=1, patch=4, features=16, outputs=32, key=jax.random.key(0))
    places = jnp.eye(64).reshape(64, 8, 8)
    optimizer = optax.adam(1e-2)

    def loss(encoder):
        logits = jax.vmap(lambda image: encoder.predict(image[..., None], jnp.array(0)))(places)
        return optax.sigmoid_binary_cross_entropy(logits, places).mean()

    @eqx.filter_jit
    def train(encoder):
        def step(carry, _):
            encoder, state = carry
            change, state = optimizer.update(eqx.filter_grad(loss)(encoder), state)
            return (eqx.apply_updates(encoder, change), state), None

        return jax.lax.scan(step, (encoder, optimizer.init(eqx.filter(encoder, eqx.is_array))), None, 300)[0][0]

    trained = train(encoder)
    found = jax.vmap(lambda image: trained.predict(image[..., None], jnp.array(0)))(places).reshape(64, 64).argmax(1)
    assert float((found == jnp.arange(64)).mean()) > 0.9 and float(loss(trained)) < 0.1 * float(loss(encoder))
