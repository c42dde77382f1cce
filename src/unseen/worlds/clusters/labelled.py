"""Labelled images of one seed, as `classifier` and `contrastive` take them."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import UserError
from unseen.worlds.clusters.digits import DigitDomains


class LabelledImages(eqx.Module):
    """Images with labels, the training images first.

    Example:
        >>> data = LabelledImages.draw(key, DigitDomains.mnist5k(), train=500, test=2_000)
        >>> images, labels = data.test_side

    Attributes:
        images, labels: of both sides.
        key: for what is drawn at evaluation (views, occlusions): the same at every evaluation of a seed.
        count: number of training images.
    """

    images: Float[Array, "n height width"]
    labels: Int[Array, " n"]
    key: PRNGKeyArray
    count: int = eqx.field(static=True)

    @classmethod
    def draw(cls, key: PRNGKeyArray, world: DigitDomains, *, train: int, test: int) -> LabelledImages:
        """Different random images of a world for the two sides.

        Raises:
            UserError: if the world has too few images.
        """
        if min(train, test) < 1 or train + test > len(world.labels):
            raise UserError(f"train and test take up to {len(world.labels)} images together, got {train} and {test}.")
        choose, key = jax.random.split(key)
        chosen = jax.random.permutation(choose, len(world.labels))[: train + test]
        return cls(world.images[chosen], world.labels[chosen], key, train)

    @property
    def inputs(self) -> tuple[Float[Array, "n height width"]]:
        """The images."""
        return (self.images,)

    @property
    def targets(self) -> Int[Array, " n"]:
        """The labels."""
        return self.labels

    @property
    def train(self) -> Float[Array, " n"]:
        """1 for training images, else 0."""
        return (jnp.arange(len(self.labels)) < self.count).astype(jnp.float32)

    @property
    def test(self) -> Float[Array, " n"]:
        """1 for test images, else 0."""
        return 1 - self.train

    @property
    def train_side(self) -> tuple[Float[Array, "train height width"], Int[Array, " train"]]:
        """Training images and their labels."""
        return self.images[: self.count], self.labels[: self.count]

    @property
    def test_side(self) -> tuple[Float[Array, "test height width"], Int[Array, " test"]]:
        """Test images and their labels."""
        return self.images[self.count :], self.labels[self.count :]
