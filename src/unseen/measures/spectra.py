"""Shape of a weight matrix's spectrum, as predictors of generalization that need no data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unseen.lab import UserError


class PowerLaw(NamedTuple):
    """A power law p(x) ~ x^-alpha for the values from `start` on.

    Attributes:
        alpha: exponent.
        start: smallest value in the tail.
        distance: largest distance between the tail's distribution function and the law's (Kolmogorov-Smirnov).
        tail: number of values in the tail.
    """

    alpha: float
    start: float
    distance: float
    tail: int


def power_law(values: Float[np.ndarray, " values"], *, smallest_tail: int = 10) -> PowerLaw:
    """Maximum-likelihood exponent over the tail whose law fits best.

    Clauset, Shalizi and Newman (2009, arXiv 0706.1062), equations 3.1 and 3.9, for continuous values: every value is
    tried as the start of the tail, and the one with the smallest Kolmogorov-Smirnov distance is taken.

    Args:
        values: positive numbers; zeros are left out.
        smallest_tail: number of values that a tail must have. With fewer values alpha is NaN.
    """
    x = np.sort(np.asarray(values, float))
    x = x[x > 0]
    n = len(x)
    if n < smallest_tail or x[0] == x[-1]:
        return PowerLaw(float("nan"), float("nan"), float("nan"), n)
    logs = np.log(x)
    best = PowerLaw(float("nan"), float("nan"), float("inf"), 0)
    for i in range(n - smallest_tail + 1):
        excess = (logs[i:] - logs[i]).sum()
        if excess <= 0 or (i and x[i] == x[i - 1]):
            continue
        tail = n - i
        alpha = 1 + tail / excess
        law = 1 - np.exp((1 - alpha) * (logs[i:] - logs[i]))
        steps = np.arange(tail + 1) / tail
        distance = max(np.abs(law - steps[1:]).max(), np.abs(law - steps[:-1]).max())
        if distance < best.distance:
            best = PowerLaw(float(alpha), float(x[i]), float(distance), tail)
    return best


def squared_singular_values(matrix: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " smaller"]:
    """Eigenvalues of the smaller Gram matrix, in double precision, largest first."""
    wide = np.asarray(matrix, float)
    wide = wide if wide.shape[0] <= wide.shape[1] else wide.T
    return np.maximum(np.linalg.eigvalsh(wide @ wide.T)[::-1], 0)


def stable_rank(matrix: Float[np.ndarray, "rows columns"]) -> float:
    """Squared Frobenius norm over squared spectral norm: at most the rank, and steady under small changes.

    Raises:
        UserError: if the matrix is zero.
    """
    squares = squared_singular_values(matrix)
    if not squares[0] > 0:
        raise UserError("stable_rank takes a matrix that is not zero.")
    return float(squares.sum() / squares[0])


def spectral_alpha(matrix: Float[np.ndarray, "rows columns"]) -> PowerLaw:
    """Power law of the squared singular values' tail; trained networks that generalise well are said to have
    exponents of 2 to 6 (Martin, Peng and Mahoney, 2021, arXiv 2002.06716)."""
    return power_law(squared_singular_values(matrix))
