"""Exclusive-or worlds: noisy Gaussian clusters, and strings of bits of which two matter."""

from __future__ import annotations

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab.errors import UserError

Scalar = float | Float[Array, ""]
CHUNK = 100  # fresh points that are in memory at once


class XorData(eqx.Module):
    """Labelled points of an exclusive-or world, as the classifier takes them.

    Attributes:
        inputs: what the model is called with, one array or two with a leading axis of points.
        labels: 1 or -1, the right ones.
        targets: 1 or -1, what is trained on: labels, some of them inverted.
        train, test: weights of the points, 0 or 1.
    """

    inputs: tuple[Float[Array, "points _"], ...]
    labels: Float[Array, " points"]
    targets: Float[Array, " points"]
    train: Float[Array, " points"]
    test: Float[Array, " points"]


@dataclasses.dataclass(frozen=True)
class XorClusters:
    """Four Gaussian clusters around mu_1, -mu_1 (label 1) and mu_2, -mu_2 (label -1), of unit variance.

    Labels are the same at x and -x, so every rule sign(w.x) is right on just half of the points; with an offset the
    best is one cluster against three, right on 3/4.

    Axes: fresh points; `signal`; `flip`; `dimension`.

    Source: Xu et al. (2023, arXiv 2310.02541). Their means are any two orthogonal ones of equal norm;
    here they lie on the first two axes, which is no loss as the noise is the same in every direction.

    Attributes:
        dimension: p.
        samples: n, of the training set.
        signal: |mu|^2, the squared norm of the means; may be a traced value.
        flip: share of the training labels that are inverted: `round(flip * samples)` of them.

    Raises:
        UserError: if the dimension is below 2, there is no sample, `signal` is negative or `flip` is not a share.
    """

    dimension: int = 8_000
    samples: int = 150
    signal: Scalar = 400.0
    flip: float = 0.1

    def __post_init__(self) -> None:
        if self.dimension < 2:
            raise UserError(f"dimension takes a whole number from 2 on, got {self.dimension}.")
        if self.samples < 1:
            raise UserError(f"samples takes a whole number from 1 on, got {self.samples}.")
        if not isinstance(self.signal, jax.Array) and self.signal < 0:
            raise UserError(f"signal takes a number from 0 on, got {self.signal}.")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip takes a share from 0 to 1, got {self.flip}.")

    @property
    def strength(self) -> Scalar:
        """n |mu|^4 / p, what the exponent of the test error grows with once the clusters are learned."""
        return self.samples * self.signal**2 / self.dimension

    @property
    def bayes_error(self) -> Float[Array, ""]:
        """Share of clean labels that the best rule, |x_1| > |x_2|, gets wrong: 2 Phi(-s)(1 - Phi(-s)) with
        s = |mu|/sqrt(2), since x_1 - x_2 and x_1 + x_2 are independent."""
        below = jax.scipy.stats.norm.cdf(-jnp.sqrt(jnp.asarray(self.signal) / 2))
        return 2 * below * (1 - below)

    def draw(self, key: PRNGKeyArray, count: int) -> tuple[Float[Array, "count dimension"], Float[Array, " count"]]:
        """Points and their clean labels."""
        corner_key, noise_key = jax.random.split(key)
        corner = jax.random.randint(corner_key, (count,), 0, 4)
        on_first, positive = corner < 2, corner % 2 == 0
        place = jnp.sqrt(self.signal) * jnp.where(positive, 1.0, -1.0)
        noise = jax.random.normal(noise_key, (count, self.dimension))
        points = noise.at[:, 0].add(jnp.where(on_first, place, 0)).at[:, 1].add(jnp.where(on_first, 0, place))
        return points, jnp.where(on_first, 1.0, -1.0)

    def sample(self, key: PRNGKeyArray, test: int = 2_000) -> XorData:
        """A training set with its inverted labels, followed by clean test points."""
        key, train_key = jax.random.split(key)
        examples, labels = self.draw(train_key, self.samples)
        (fresh,), fresh_labels = self._fresh(key, test, lambda x: (x,))
        return self._dataset(key, (jnp.concatenate([examples, fresh]),), labels, fresh_labels)

    def sample_in_span(self, key: PRNGKeyArray, weights: Float[Array, "dimension width"], test: int = 2_000) -> XorData:
        """The same points as `sample` gives, as seen by a network whose first layer starts at `weights`.

        Gradient descent changes these weights within the span of the training points only. So each point comes as
        its coordinates in an orthonormal basis of that span (n numbers instead of p) and what the first weights
        answer to it. A first layer of shape (n, width) that starts at 0, on top of these answers, goes the same way
        at n/p of the cost.

        Returns:
            Inputs (coordinates, answers) of shapes (points, n) and (points, width).
        """
        key, train_key = jax.random.split(key)
        examples, labels = self.draw(train_key, self.samples)
        basis = span_basis(examples)

        def look(points: Float[Array, "count dimension"]) -> tuple[Array, Array]:
            return points @ basis, points @ weights

        seen, (fresh, fresh_labels) = look(examples), self._fresh(key, test, look)
        inputs = tuple(jnp.concatenate(pair) for pair in zip(seen, fresh, strict=True))
        return self._dataset(key, inputs, labels, fresh_labels)

    def _fresh(self, key: PRNGKeyArray, count: int, look: object) -> tuple[tuple[Array, ...], Float[Array, " count"]]:
        """What `look` sees of fresh points, and their labels, a chunk at a time."""
        keys = jax.random.split(jax.random.fold_in(key, 1), math.ceil(count / CHUNK))

        def chunk(key: PRNGKeyArray) -> tuple[tuple[Array, ...], Array]:
            points, labels = self.draw(key, CHUNK)
            return look(points), labels  # type: ignore[operator]

        seen, labels = jax.lax.map(chunk, keys)
        return tuple(x.reshape(-1, x.shape[-1])[:count] for x in seen), labels.reshape(-1)[:count]

    def _dataset(
        self, key: PRNGKeyArray, inputs: tuple[Array, ...], labels: Float[Array, " n"], fresh: Float[Array, " test"]
    ) -> XorData:
        inverted = jnp.arange(self.samples) < round(self.flip * self.samples)
        inverted = jax.random.permutation(jax.random.fold_in(key, 2), inverted)
        targets = jnp.concatenate([jnp.where(inverted, -labels, labels), fresh])
        train = jnp.concatenate([jnp.ones_like(labels), jnp.zeros_like(fresh)])
        return XorData(inputs, jnp.concatenate([labels, fresh]), targets, train, 1 - train)


def span_basis(points: Float[Array, "n dimension"]) -> Float[Array, "dimension n"]:
    """An orthonormal basis of the span of linearly independent points, by Cholesky's factor of their products."""
    factor = jnp.linalg.cholesky(points @ points.T)
    return jax.scipy.linalg.solve_triangular(factor, points, lower=True).T


@dataclasses.dataclass(frozen=True)
class BooleanXor:
    """Uniform strings of bits -1 and 1, labelled by the product of the first two.

    No rule sign(w.x) is right on more than half of the strings, in the mean over x and -x.

    Axes: unseen strings; `bits`, of which all but two are irrelevant.

    Source: Wen et al. (2023, arXiv 2307.11007); Wei et al. (2019, arXiv 1810.05369).

    Attributes:
        bits: d.
        samples: training strings, drawn independently.

    Raises:
        UserError: if there are fewer than two bits or no sample.
    """

    bits: int = 30
    samples: int = 100

    def __post_init__(self) -> None:
        if self.bits < 2:
            raise UserError(f"bits takes a whole number from 2 on, got {self.bits}.")
        if self.samples < 1:
            raise UserError(f"samples takes a whole number from 1 on, got {self.samples}.")

    def sample(self, key: PRNGKeyArray, test: int = 1_000) -> XorData:
        """Training strings followed by as many fresh ones as asked for; with few bits some may be the same."""
        strings = jax.random.rademacher(key, (self.samples + test, self.bits), jnp.float32)
        labels = strings[:, 0] * strings[:, 1]
        train = (jnp.arange(self.samples + test) < self.samples).astype(jnp.float32)
        return XorData((strings,), labels, labels, train, 1 - train)
