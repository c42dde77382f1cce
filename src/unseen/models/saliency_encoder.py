"""An image encoder that can also say which pixels it deems important."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from unseen.models.patch_encoder import PatchEncoder


class SaliencyEncoder(eqx.Module):
    """A `PatchEncoder` with a decoder from its features and an action to one logit a pixel.

    The decoder mirrors the encoder: a dense layer to features of each patch, a ReLU, and a linear layer from these to
    the patch's pixels (a transposed convolution whose stride is its kernel's size).

    Attributes:
        encoder: images -> features.
        spread: features and action -> features of all patches.
        pixels: features of a patch -> its pixels.
        actions: number of actions.
    """

    encoder: PatchEncoder
    spread: eqx.nn.Linear
    pixels: eqx.nn.Linear
    actions: int = eqx.field(static=True)

    def __init__(
        self,
        size: int = 20,
        channels: int = 3,
        *,
        actions: int,
        patch: int = 4,
        features: int = 24,
        outputs: int = 64,
        key: PRNGKeyArray,
    ):
        """An encoder for `size` x `size` images.

        Raises:
            UserError: if `patch` does not divide `size`.
        """
        one, two, three = jax.random.split(key, 3)
        self.encoder = PatchEncoder(size, channels, patch=patch, features=features, outputs=outputs, key=one)
        self.spread = eqx.nn.Linear(outputs + actions, (size // patch) ** 2 * features, key=two)
        self.pixels = eqx.nn.Linear(features, patch * patch, key=three)
        self.actions = actions

    def __call__(
        self, image: Float[Array, "size size channels"] | UInt8[Array, "size size channels"]
    ) -> Float[Array, " outputs"]:
        """Features of an image in [0, 1], or of one in whole numbers from 0 to 255."""
        return self.encoder(image if jnp.issubdtype(image.dtype, jnp.floating) else image / 255)

    def predict(self, image: Float[Array, "size size channels"], action: Int[Array, ""]) -> Float[Array, "size size"]:
        """Logits of each pixel's being among the most salient ones for the value of an action."""
        given = jnp.concatenate([self(image), jax.nn.one_hot(action, self.actions)])
        patch, side = self.encoder.patch, image.shape[0] // self.encoder.patch
        patches = jax.nn.relu(self.spread(given)).reshape(side * side, -1) @ self.pixels.weight.T + self.pixels.bias
        return jnp.moveaxis(patches.reshape(side, side, patch, patch), 2, 1).reshape(image.shape[:2])
