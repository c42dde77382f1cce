"""One noisy function of one number, and coordinates by which its examples can be told apart."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab import UserError


class Curve(eqx.Module):
    """Training points of a curve, and a sweep along it to be predicted.

    Attributes:
        x: the number, then the noise coordinates, which are 0 along the sweep.
        labels: values of the true function, (n, 1).
        targets: what is trained towards, with label noise, (n, 1).
        train, test: 1 for the points and for the sweep.
    """

    x: Float[Array, "n dims"]
    labels: Float[Array, "n 1"]
    targets: Float[Array, "n 1"]
    train: Float[Array, " n"]
    test: Float[Array, " n"]

    @property
    def inputs(self) -> tuple[Float[Array, "n dims"]]:
        """The model's arguments."""
        return (self.x,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoodBadUgly:
    """Regression in which noise in the labels can be memorised in three ways.

    y = tanh(x) + tanh(-5 x) / 2 on [-1.5, 1.5], with noise on the labels of the training points, and further
    inputs that differ between training points by a little noise and are 0 elsewhere. Without them, fitting the label
    noise bends the curve between the points (ugly); with large ones the noise is fitted through them, which leaves
    the curve alone (good) or keeps the net from learning it (bad).

    Attributes:
        points: training points, evenly spaced.
        sweep: points of the curve to predict.
        noise_dims: number of the further inputs.
        spread: their standard deviation; may be traced. The paper's: 1e-4 good, 1e-3 bad, 0 ugly.
        label_noise: standard deviation of the noise on training labels.

    Source: Bayat et al. (2024, arXiv 2412.07684), `good_bad_ugly_memorization.py` of the official code.
    """

    points: int = 20
    sweep: int = 200
    noise_dims: int = 30
    spread: float | Float[Array, ""] = 0.0
    label_noise: float = 0.08

    def __post_init__(self) -> None:
        if min(self.points, self.sweep) < 2:
            raise UserError(f"points and sweep take numbers from 2 on, got {self.points} and {self.sweep}.")

    def grid(self) -> Float[Array, " sweep"]:
        """Where the sweep lies."""
        return jnp.linspace(-1.5, 1.5, self.sweep)

    @staticmethod
    def truth(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The function without noise."""
        return jnp.tanh(x) + 0.5 * jnp.tanh(-5 * x)

    def sample(self, key: PRNGKeyArray) -> Curve:
        """Training points first, then the sweep."""
        inputs, labels = jax.random.split(key)
        at = jnp.concatenate([jnp.linspace(-1.5, 1.5, self.points), self.grid()])[:, None]
        train = (jnp.arange(len(at)) < self.points).astype(jnp.float32)
        marks = self.spread * train[:, None] * jax.random.normal(inputs, (len(at), self.noise_dims))
        noise = self.label_noise * train[:, None] * jax.random.normal(labels, at.shape)
        y = self.truth(at)
        return Curve(jnp.concatenate([at, marks], axis=1), y, y + noise, train, 1 - train)
