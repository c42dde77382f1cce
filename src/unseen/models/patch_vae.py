"""A variational autoencoder of small images that shares its features between the places of an image."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab import UserError
from unseen.models.patch_encoder import PatchEncoder
from unseen.models.world_model import BetaVAE


class _Down(eqx.Module):
    """A flat image -> mean and log variance."""

    look: PatchEncoder
    read: eqx.nn.MLP
    size: int = eqx.field(static=True)

    def __call__(self, image: Float[Array, " pixels"]) -> Float[Array, " numbers"]:
        return self.read(self.look(image.reshape(self.size, self.size, -1)))


class PatchDecoder(eqx.Module):
    """Latents to flat images: dense layers, then a transposed convolution whose stride is its kernel's size.

    Attributes:
        spread: latent -> features of every patch.
        paint: features of a patch -> its pixels, the same for all patches.
        side, patch: patches and pixels a side.
    """

    spread: eqx.nn.MLP
    paint: eqx.nn.Linear
    side: int = eqx.field(static=True)
    patch: int = eqx.field(static=True)

    def __init__(
        self, latent: int, size: int = 20, channels: int = 3, *, patch: int = 4, features: int = 24, width: int = 128,
        depth: int = 2, key: PRNGKeyArray,
    ):  # fmt: skip
        """A decoder to `size` x `size` images.

        Raises:
            UserError: if `patch` does not divide `size`.
        """
        if size % patch:
            raise UserError(f"patch takes a divisor of the image's size {size}, got {patch}.")
        spread, paint = jax.random.split(key)
        self.side, self.patch = size // patch, patch
        self.spread = eqx.nn.MLP(latent, self.side**2 * features, width, depth, key=spread)
        self.paint = eqx.nn.Linear(features, patch * patch * channels, key=paint)

    def __call__(self, latent: Float[Array, " latent"]) -> Float[Array, " pixels"]:
        """One image, row by row, channels fastest."""
        features = jax.nn.relu(self.spread(latent)).reshape(self.side**2, -1)
        painted = jax.vmap(self.paint)(features)
        cut = painted.reshape(self.side, self.side, self.patch, self.patch, -1)
        return cut.transpose(0, 2, 1, 3, 4).reshape(-1)


class PatchVAE(BetaVAE):
    """A `BetaVAE` of flat square images whose outermost layers are convolutions over patches.

    What it learned of a thing at one place holds at others, which a dense autoencoder must learn for each.

    Attributes:
        encoder: a `PatchEncoder` and dense layers.
        decoder: a `PatchDecoder`.
        beta: as in `BetaVAE`.
    """

    encoder: Any
    decoder: Any

    def __init__(
        self, size: int = 20, latent: int = 8, channels: int = 3, *, patch: int = 4, features: int = 24,
        width: int = 128, beta: float | Array = 1.0, key: PRNGKeyArray,
    ):  # fmt: skip
        """An autoencoder of images that are given and returned as rows of size * size * channels numbers.

        Raises:
            UserError: if `patch` does not divide `size`.
        """
        look, read, down = jax.random.split(key, 3)
        self.encoder = _Down(
            PatchEncoder(size, channels, patch=patch, features=features, outputs=width, key=look),
            eqx.nn.MLP(width, 2 * latent, width, 1, key=read), size,
        )  # fmt: skip
        self.decoder = PatchDecoder(latent, size, channels, patch=patch, features=features, width=width, key=down)
        self.beta = beta
