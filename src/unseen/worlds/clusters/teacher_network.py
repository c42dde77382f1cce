"""Noisy samples of a two-layer ReLU teacher."""

from __future__ import annotations

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab.errors import UserError
from unseen.worlds.clusters.teacher import TeacherStudent


class Regression(eqx.Module):
    """Inputs with one number each to predict, as the classifier takes them.

    Attributes:
        inputs: one array, with a leading axis of points.
        labels: without noise.
        targets: what is trained on, noise included.
        train, test: weights of the points, 0 or 1.
    """

    inputs: tuple[Float[Array, "points dimension"]]
    labels: Float[Array, " points"]
    targets: Float[Array, " points"]
    train: Float[Array, " points"]
    test: Float[Array, " points"]


@dataclasses.dataclass(frozen=True)
class TeacherNetwork:
    """y = v . relu(W x) + noise for Gaussian x, with W and v scaled so that the mean of y^2 without noise is 1.

    Axes: fresh inputs; `samples`; `noise`.

    Source: Advani and Saxe (2017, arXiv 1710.03667).

    Attributes:
        dimension: of the inputs, each of variance 1.
        hidden: units of the teacher.
        samples: of the training set.
        noise: standard deviation of the targets' noise, 1/sqrt(signal-to-noise ratio).

    Raises:
        UserError: on a size below 1 or negative noise.
    """

    dimension: int = 15
    hidden: int = 30
    samples: int = 150
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise UserError(f"hidden takes a whole number from 1 on, got {self.hidden}.")
        TeacherStudent(self.dimension, self.samples, noise=self.noise)

    def sample(self, key: PRNGKeyArray, test: int = 2_000) -> Regression:
        """A teacher, its training set and fresh inputs."""
        unit_key, readout_key, noise_key = jax.random.split(key, 3)
        units = TeacherStudent(self.dimension, self.samples + test, self.hidden, teacher="relu").sample(unit_key)
        # Each unit's square has mean 1/2.
        readout = jax.random.normal(readout_key, (self.hidden,)) * math.sqrt(2 / self.hidden)
        labels = units.targets @ readout
        train = (jnp.arange(len(labels)) < self.samples).astype(labels.dtype)
        noise = self.noise * jax.random.normal(noise_key, labels.shape)
        return Regression((units.inputs,), labels, labels + train * noise, train, 1 - train)
