"""What can be read off frozen features with labels: nearest centre, linear probe, nearest neighbours."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unseen.measures.hypersphere import class_centres


class NearestCentre(eqx.Module):
    """Assigns a feature vector to the class whose mean is nearest.

    Source: the downstream classifier of Huang et al. (2021, arXiv 2111.00743), section 2.

    Attributes:
        centres: one mean vector a class.
    """

    centres: Float[Array, "classes width"]

    @classmethod
    def fit(cls, features: Float[Array, "n width"], labels: Int[Array, " n"], classes: int) -> NearestCentre:
        """The class means of labelled features."""
        return cls(class_centres(features, labels, classes))

    def scores(self, features: Float[Array, "*batch width"]) -> Float[Array, "*batch classes"]:
        """Minus half the squared distance to each centre, up to what all classes share."""
        return features @ self.centres.T - jnp.square(self.centres).sum(-1) / 2

    def __call__(self, features: Float[Array, "*batch width"]) -> Int[Array, "*batch"]:
        """The class of the nearest centre."""
        return self.scores(features).argmax(-1)

    def error(self, features: Float[Array, "*batch width"], labels: Int[Array, "*batch"]) -> Float[Array, ""]:
        """Share of wrong answers."""
        return (self(features) != labels).mean()


class LinearProbe(eqx.Module):
    """Multinomial logistic regression on standardised features."""

    mean: Float[Array, " width"]
    scale: Float[Array, " width"]
    weights: Float[Array, "width classes"]
    bias: Float[Array, " classes"]

    def __call__(self, features: Float[Array, "*batch width"]) -> Float[Array, "*batch classes"]:
        """Logits."""
        return (features - self.mean) * self.scale @ self.weights + self.bias

    def error(self, features: Float[Array, "*batch width"], labels: Int[Array, "*batch"]) -> Float[Array, ""]:
        """Share of wrong answers."""
        return (self(features).argmax(-1) != labels).mean()


def linear_probe(
    features: Float[Array, "n width"],
    labels: Int[Array, " n"],
    classes: int,
    *,
    decay: float = 1e-2,
    steps: int = 300,
) -> LinearProbe:
    """The regularised maximum-likelihood probe, by accelerated gradient descent: deterministic, may be vmapped.

    Minimises mean cross-entropy + decay / 2 |weights|^2 on features standardised by the training set's mean and
    deviation; scikit-learn's `LogisticRegression(C=1 / (n decay))` on the same features is its peer.

    Args:
        features, labels: of the training set.
        decay: of the weights, not of the bias.
        steps: Nesterov updates at the step size that the features' largest curvature allows.
    """
    mean, deviation = features.mean(0), features.std(0)
    scale = jnp.where(deviation > 1e-6 * (1 + jnp.abs(mean)), 1 / jnp.maximum(deviation, 1e-12), 0.0)
    x = (features - mean) * scale
    targets = jax.nn.one_hot(labels, classes)

    def sharpen(_: int | Int[Array, ""], v: Float[Array, " width"]) -> Float[Array, " width"]:
        product = x.T @ (x @ v)
        return product / jnp.maximum(jnp.linalg.norm(product), 1e-12)

    # Cross-entropy curves at most half as much as the squared error; 1 covers the bias, 1.1 the power iteration.
    direction = jax.lax.fori_loop(0, 30, sharpen, jnp.ones(x.shape[1]) / jnp.sqrt(x.shape[1]))
    largest = jnp.maximum(jnp.square(x @ direction).sum() / x.shape[0], 1.0)
    rate = 1 / (0.55 * largest + decay)

    def step(k: int | Int[Array, ""], carried: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        w, b, last_w, last_b = carried
        momentum = k / (k + 3.0)
        ahead_w, ahead_b = w + momentum * (w - last_w), b + momentum * (b - last_b)
        wrong = (jax.nn.softmax(x @ ahead_w + ahead_b) - targets) / x.shape[0]
        return ahead_w - rate * (x.T @ wrong + decay * ahead_w), ahead_b - rate * wrong.sum(0), w, b

    zero = (jnp.zeros((x.shape[1], classes)), jnp.zeros(classes))
    weights, bias, _, _ = jax.lax.fori_loop(0, steps, step, (*zero, *zero))
    return LinearProbe(mean, scale, weights, bias)


def nearest_neighbours(
    features: Float[Array, "n width"],
    labels: Int[Array, " n"],
    queries: Float[Array, "m width"],
    classes: int,
    *,
    k: int = 5,
) -> Int[Array, " m"]:
    """Majority class among the k nearest training vectors (Euclidean); ties go to the lower class."""
    nearness = queries @ features.T - jnp.square(features).sum(-1) / 2
    if k == 1:
        return labels[nearness.argmax(-1)]
    _, nearest = jax.lax.top_k(nearness, k)
    return jax.nn.one_hot(labels[nearest], classes).sum(1).argmax(-1)
