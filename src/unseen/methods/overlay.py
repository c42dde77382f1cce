"""Images that shine through others."""

from __future__ import annotations

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray


class RandomOverlay(eqx.Module):
    """Mixes each image with a random picture that has nothing to do with it.

    Example:
        >>> overlay = RandomOverlay(jnp.asarray(photographs(20)))
        >>> distracted = overlay(key, images)

    Attributes:
        pictures: to choose from.
        share: of the picture in the mixture; may be traced.

    Source: Hansen and Wang, "Generalization in RL by Soft Data Augmentation" (2021), section III-D, with share 0.5.
    """

    pictures: Float[Array, "pictures height width channels"]
    share: float | Float[Array, ""] = 0.5

    def __call__(
        self, key: PRNGKeyArray, images: Float[Array, "n height width channels"]
    ) -> Float[Array, "n height width channels"]:
        """Every image with a picture of its own over it."""
        chosen = self.pictures[jax.random.randint(key, (len(images),), 0, len(self.pictures))]
        return (1 - self.share) * images + self.share * chosen
