"""How much must be known of a task beyond its data before anyone can generalise on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from scipy import special
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]
from scipy.spatial.distance import cdist

from unseen.lab import UserError
from unseen.measures.hypothesis_sampler import ChiSquareTail, HypothesisSampler

Number = float | int | np.number
Data = Float[np.ndarray, "examples features"]


def inductive_bias_complexity(
    error: Number,
    *,
    examples: Number,
    dimension: Number,
    radius: Number,
    resolution: Number,
    classes: int,
    outputs: int | None = None,
    bound: Number = 1.0,
) -> float:
    """Information (bits) that a task demands beyond its training data, by the practical formula.

    All functions on a sphere of the data's radius and dimension whose frequencies stay below `2 pi radius /
    resolution` are hypotheses. The number of coefficients that the examples leave free, times the logarithm of
    the precision with which each must be known for the target error. An upper bound by construction, far above any
    practical information content: it is for comparing tasks. Negative where the examples outnumber the coefficients.

    Args:
        error: target error (relative to the Lipschitz constant of the loss).
        examples: training examples.
        dimension: intrinsic dimension of the inputs.
        radius: largest norm of an input.
        resolution: smallest distance between inputs of different classes.
        classes: number of classes, or of combinations of discrete features.
        outputs: dimension of the output, by default classes - 1.
        bound: on the values of the outputs.

    Source: Boopathy et al. (2023, arXiv 2305.01034), the approximation for classification; agrees with
    `difficulty` of its code (FieteLab/inductive-bias-complexity) digit by digit.
    """
    outputs = classes - 1 if outputs is None else outputs
    degree, functions = band_limited_functions(dimension, 2 * math.pi * radius / resolution)
    free = 2 * outputs * classes * functions - examples * outputs
    # Expected distance of a test point from the nearest training point, in logarithms.
    half = (dimension + 1) / 2
    gap = 0.5 * math.log(dimension / 6) + math.log(radius) - math.log(examples) / dimension
    gap += (math.log(2) + half * math.log(math.pi) + math.log(classes) - float(special.gammaln(half))) / dimension
    lipschitz = degree * math.sqrt(outputs) / radius
    precision = bound * math.sqrt(outputs * classes) * lipschitz / error
    return float(free * (math.log2(precision) + gap / math.log(2)))


def band_limited_functions(dimension: Number, frequency: Number) -> tuple[float, float]:
    """Highest degree and number of spherical harmonics in `dimension` dimensions up to a frequency, continued to
    real numbers: degree K with K (K + dimension - 1) = frequency^2."""
    degree = (math.sqrt((dimension - 1) ** 2 + 4 * frequency**2) - (dimension - 1)) / 2
    count = special.binom(dimension + degree, dimension) + special.binom(dimension + degree - 1, dimension)
    return degree, float(count)


def pomdp_difficulty(
    error: Number,
    *,
    observed: int,
    frames: int = 1,
    actions: int = 1,
    examples: Number = 10_000,
    resolution: Number = 1e-3,
) -> float:
    """Information (bits) that a control task demands whose agent sees `frames` observations of `observed` numbers.

    The dimension of what a policy reads grows with the number of frames that it needs to make up for what
    one observation does not show. The formula for large frequencies, with inputs in a unit ball.

    Args:
        error: wanted distance from the best action.
        observed: numbers in one observation.
        frames: consecutive observations.
        actions: dimension of the action.
        examples: time steps of training data.
        resolution: of an observation.

    Source: Boopathy et al. (2023), control tasks; agrees digit by digit with the code's cart-pole (two numbers a
    frame) and MuJoCo formulas (one frame).
    """
    m = observed * frames
    log_functions = math.log(2) + m * math.log(2 * math.pi / resolution) + m / 2 * math.log(math.pi)
    free = math.exp(log_functions - math.lgamma(m / 2 + 1)) - examples
    precision = math.log2(4 * math.pi**2 / math.sqrt(6)) + math.log2(actions) + 0.5 * math.log2(m)
    precision -= math.log2(resolution) + math.log2(examples) / m + math.log2(error)
    return actions * free * precision


def intrinsic_dimension(inputs: Data, neighbours: int = 5) -> float:
    """Maximum-likelihood dimension of the manifold that inputs lie on, from distances to nearest neighbours.

    The inverse of the mean of `log(r_k / r_j)` over points and j < k, r_j being the distance to the j-th of k
    neighbours (Levina and Bickel, 2005; averaged as by MacKay and Ghahramani). Repeated points count once.

    Source: as used by Boopathy et al. (2023) with k = 5; the same numbers as `intrinsic_dim` of its code.

    Raises:
        UserError: with fewer than two neighbours, or no more different points than neighbours.
    """
    points = np.unique(np.asarray(inputs, float), axis=0)
    if neighbours < 2 or len(points) <= neighbours:
        raise UserError(f"neighbours takes 2 or more and fewer than the {len(points)} points, got {neighbours}.")
    if points.shape[1] <= 12:
        distances, _ = cKDTree(points).query(points, neighbours + 1)
    else:
        distances = np.partition(cdist(points, points), np.arange(neighbours + 1), axis=1)[:, : neighbours + 1]
    near = np.log(distances[:, 1:])
    return float(1 / np.mean(near[:, -1:] - near[:, :-1]))


def class_resolution(
    inputs: Data, labels: Int[np.ndarray, " examples"], tail: float = 5e-4, pairs: Number | None = None
) -> float:
    """Smallest distance between points of different classes, by an extreme-value fit to the nearest pairs.

    Inverse distances of the closest pairs follow a generalised Pareto law (moment estimator of Dekkers, Einmahl
    and de Haan, 1989), from which the value exceeded by one pair in all is read; never more than the
    smallest distance seen. Pairs at distance 0 make it 0.

    Args:
        inputs, labels: the sample; all its pairs of different classes are used.
        tail: share of the pairs that enter the fit.
        pairs: number of pairs in the population for whose closest pair the fit is read; by default those of the sample.

    Source: Boopathy et al. (2023); the same estimator as `evt_delta` of its code, which draws its pairs at random
    and reads the fit for all ordered pairs of the data.

    Raises:
        UserError: if there are not enough pairs.
    """
    distances = np.sort(_across(np.asarray(inputs, float), np.asarray(labels)))
    count = max(10, round(tail * distances.size))
    if distances.size <= count:
        raise UserError(f"class_resolution takes more than {count} pairs of different classes, got {distances.size}.")
    if distances[0] == 0:
        return 0.0
    inverse = 1 / distances[: count + 1]
    logs = np.log(inverse[:count]) - np.log(inverse[count])
    first, second = logs.mean(), (logs**2).mean()
    if second == 0:
        return float(distances[0])
    index = first + 1 - 0.5 / (1 - first**2 / second) if first**2 < second else first
    beyond = count * (1 if pairs is None else pairs / distances.size)
    growth = math.log(beyond) if abs(index) < 1e-12 else (beyond**index - 1) / index
    return float(min(1 / (growth * inverse[count] * first + inverse[count]), distances[0]))


def _across(inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Distances of all pairs with different labels, each pair once."""
    found = []
    for one in np.unique(labels)[:-1]:
        found.append(cdist(inputs[labels == one], inputs[labels > one]).ravel())
    if not found:
        raise UserError("class_resolution takes two classes or more, got one.")
    return np.concatenate(found)


def inductive_bias_kernel(
    covariance: Callable[[Array, Array], Array],
    train: tuple[Float[Array, "train features"], Float[Array, "train outputs"]],
    test: tuple[Float[Array, "test features"], Float[Array, "test outputs"]],
    *,
    noise: float = 1e-4,
) -> HypothesisSampler:
    """Functions of a Gaussian process that fit the training data, by their mean squared error on test data.

    Args:
        covariance: (inputs, other inputs) -> prior covariance of one output; outputs are independent.
        train, test: inputs and targets.
        noise: variance of the training targets about the function; small for functions that interpolate.

    Example:
        >>> sampler = inductive_bias_kernel(rbf(3.0), (x, y), (new_x, new_y))
        >>> sampler.extrapolated(key, 0.05, draws=10_000)  # nats

    Source: Boopathy et al. (2024, arXiv 2406.15941), kernel hypothesis space; the posterior by linear algebra,
    where its code trains the same coefficients by gradient descent.
    """
    (x, y), (z, targets) = train, test
    gram = covariance(x, x) + noise * jnp.eye(len(x))
    across = covariance(x, z)
    # One solve for mean and covariance; symmetric positive definite by the noise.
    factor = jnp.linalg.cholesky(gram)
    half = jnp.linalg.solve(factor, across)
    mean = half.T @ jnp.linalg.solve(factor, y)
    return HypothesisSampler.gaussian(mean, covariance(z, z) - half.T @ half, targets)


def rbf(length: float | Float[Array, ""]) -> Callable[[Array, Array], Array]:
    """The kernel exp(-|x - z|^2 / (2 length^2))."""

    return lambda x, z: jnp.exp(-_squared_distances(x, z) / (2 * length**2))


def median_distance(x: Float[Array, "examples features"]) -> Float[Array, ""]:
    """Median Euclidean distance of two different examples: a length scale for `rbf`."""
    return jnp.median(jnp.sqrt(_squared_distances(x, x))[jnp.triu_indices(len(x), 1)])


def _squared_distances(
    x: Float[Array, "examples features"], z: Float[Array, "others features"]
) -> Float[Array, "examples others"]:
    # Squared differences themselves: as |x|^2 + |z|^2 - 2 x z close inputs would lose all digits.
    return jnp.square(x[:, None] - z[None]).sum(-1)


def linear(weight: float | Float[Array, ""] = 1.0, offset: float = 1.0) -> Callable[[Array, Array], Array]:
    """The kernel of linear functions: weight variance times <x, z>, plus the variance of the offset."""
    return lambda x, z: weight * x @ z.T + offset


def inductive_bias_network(
    losses: Shaped[np.ndarray, " members"] | Float[Array, " members"], target: float, family: Any = ChiSquareTail
) -> float:
    """Information (nats) that a class of networks still needs to reach a target loss.

    Args:
        losses: test losses of networks that were trained alike from different random starts; for training them
            here see `HypothesisSampler.trained`, or give those of your own runs.
        target: the loss to reach.
        family: law that is fitted to the losses, `ChiSquareTail` or `LogNormalTail`.

    Source: Boopathy et al. (2024, arXiv 2406.15941), neural hypothesis space.
    """
    return -family.fit(np.asarray(losses)).log_probability(float(target))
