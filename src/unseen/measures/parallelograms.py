"""Parallelograms among the embeddings of numbers: what addition generalises by."""

from __future__ import annotations

import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float

from unseen.lab.statistics import EventTimes

Phase = Literal["comprehension", "grokking", "memorization", "confusion"]
PHASES: tuple[Phase, ...] = ("comprehension", "grokking", "memorization", "confusion")
TOLERANCE = 0.01  # mean squared deviation, in units of the embeddings' variance, of what counts as closed
LENGTH_ONE = 1e-12  # below this an embedding has no spread


@functools.cache
def addition_pairs(symbols: int) -> np.ndarray:
    """All unordered pairs (i, j), i <= j, in rows."""
    return np.argwhere(np.triu(np.ones((symbols, symbols), bool)))


@functools.cache
def addition_parallelograms(symbols: int) -> np.ndarray:
    """All pairs of different pairs with one sum, as rows (first, second) of indices into `addition_pairs`."""
    sums = addition_pairs(symbols).sum(1)
    return np.argwhere(np.triu(sums[:, None] == sums, 1))


def equations(symbols: int) -> Float[np.ndarray, "parallelograms symbols"]:
    """The linear equation of each parallelogram, E_i + E_j - E_m - E_n = 0, as coefficients."""
    one_hot = np.eye(symbols)[addition_pairs(symbols)].sum(1)
    first, second = addition_parallelograms(symbols).T
    return one_hot[first] - one_hot[second]


def normalised(embedding: Float[Array, "symbols dimension"]) -> Float[Array, "symbols dimension"]:
    """Embeddings with mean 0 and sample variance 1 in each dimension; 0 in a dimension without spread."""
    centred = embedding - embedding.mean(0)
    deviation = jnp.std(embedding, axis=0, ddof=1)
    return jnp.where(deviation > LENGTH_ONE, centred / jnp.where(deviation > LENGTH_ONE, deviation, 1), 0.0)


def closed(
    embedding: Float[Array, "symbols dimension"], tolerance: float = TOLERANCE
) -> Bool[Array, " parallelograms"]:
    """Which of the `addition_parallelograms` are closed: the mean over dimensions of the squared difference of
    the two sums of normalised embeddings is below the tolerance; none where all embeddings are the same."""
    sides = jnp.asarray(equations(embedding.shape[0]), embedding.dtype) @ normalised(embedding)
    spread = jnp.std(embedding, axis=0).max() > LENGTH_ONE
    return (jnp.square(sides).mean(-1) < tolerance) & spread


def closed_parallelograms(
    embedding: Float[Array, "symbols dimension"], tolerance: float = TOLERANCE
) -> Float[Array, ""]:
    """Share of the parallelograms that equal spacing would close which are closed: representation quality.

    Source: Liu et al. (2022, arXiv 2205.10343), section 3.1, equation of the representation quality index; what
    counts as closed (0.01 of the variance) as in the official code.
    """
    return closed(embedding, tolerance).mean()


def parallelogram_accuracy(
    embedding: Float[Array, "symbols dimension"],
    train: Float[Array, " pairs"],
    tolerance: float = TOLERANCE,
) -> Float[Array, ""]:
    """Test accuracy that the embeddings allow: the share of untrained pairs that close a parallelogram with a
    trained one, so that the decoder is asked what it has been told.

    Source: Liu et al. (2022, arXiv 2205.10343), section 3.1, restricted to test pairs as in the official code.

    Args:
        train: 1 for the `addition_pairs` that are trained on, 0 for the others.
    """
    return _answered(closed(embedding, tolerance), train)


def implied_accuracy(symbols: int, train: Float[Array, " pairs"]) -> Float[Array, ""]:
    """Test accuracy at the best: what the closed parallelograms among training pairs imply by linear algebra.

    Source: Liu et al. (2022, arXiv 2205.10343), section 3.1 (the ideal accuracy).
    """
    rows = jnp.asarray(equations(symbols), jnp.float32)
    null = _null_space(rows, _taught(symbols, train))
    return _answered(jnp.abs(rows @ null).max(1) < 1e-3, train)


def effective_energy(embedding: Float[Array, "symbols dimension"], train: Float[Array, " pairs"]) -> Float[Array, ""]:
    """The energy that embeddings descend: mean squared opening of the parallelograms among training pairs, over
    the embeddings' mean square.

    l = (1/|P0|) sum over P0(D) of |E_i + E_j - E_m - E_n|^2 / sum_k |E_k|^2.

    Source: Liu et al. (2022, arXiv 2205.10343), section 3.2. NaN if no two training pairs have one sum.
    """
    taught = _taught(embedding.shape[0], train)
    opening = jnp.square(jnp.asarray(equations(embedding.shape[0]), embedding.dtype) @ embedding).sum(-1)
    return jnp.sum(opening * taught) / jnp.sum(taught) / jnp.sum(jnp.square(embedding))


def effective_descent(
    embedding: Float[Array, "symbols dimension"], train: Float[Array, " pairs"], time: float | Float[Array, ""]
) -> Float[Array, "symbols dimension"]:
    """Embeddings after gradient flow of the effective energy, from their mean on, for a time (`jnp.inf` allowed).

    The flow keeps the length Z of the centred embeddings and is linear up to that length:
    E(t) = exp(-2 H t / Z) E(0), rescaled to Z, with H = A'A / |P0| and A the training set's equations. Components
    in the null space of A stay: at the end there is nothing else.

    Source: Liu et al. (2022, arXiv 2205.10343), section 3.2, solved in the eigenbasis of H.
    """
    centred = embedding - embedding.mean(0)
    length = jnp.sum(jnp.square(centred))
    values, basis = jnp.linalg.eigh(_energy_matrix(embedding.shape[0], train))
    values = jnp.where(values < EIGENVALUE_ZERO, 0.0, values)
    # Relative to the smallest rate that the embeddings have any part in, so that long times do not underflow.
    rate = jnp.where(values > 0, values, 0.0)
    kept = jnp.where(rate > 0, jnp.exp(-2 * rate * time / length), 1.0)
    moved = basis @ (kept[:, None] * (basis.T @ centred))
    return moved * jnp.sqrt(length / jnp.sum(jnp.square(moved)))


def freedom(symbols: int, train: Float[Array, " pairs"]) -> Float[Array, ""]:
    """Dimensions of the embeddings that the training set's equations leave free, beside shift and scale: 0 where
    equal spacing is the only solution.

    Source: Liu et al. (2022, arXiv 2205.10343), section 3.2 (number of zero eigenvalues of H, less two).
    """
    values = jnp.linalg.eigvalsh(_energy_matrix(symbols, train))
    return jnp.sum(values < EIGENVALUE_ZERO) - 2.0


def phase_of_run(fit: EventTimes, generalise: EventTimes, delay: float = 1_000.0) -> xr.DataArray:
    """The learning phase of every run, an index into `PHASES`; NaN where nothing was run.

    Comprehension: it generalises within `delay` updates of fitting; grokking: later; memorization: it fits and
    does not generalise by the horizon; confusion: it does not even fit.

    Source: Liu et al. (2022, arXiv 2205.10343), table 1 (accuracies of 0.9, 1,000 updates), and the official code.

    Args:
        fit, generalise: updates to the train and the test accuracy.
        delay: updates.
    """
    late = generalise.time - fit.time > delay
    phase = xr.where(~fit.reached, 3.0, xr.where(~generalise.reached, 2.0, xr.where(late, 1.0, 0.0)))
    return phase.where(fit.time.notnull())


EIGENVALUE_ZERO = 1e-5  # H has eigenvalues of order 1 / |P0| times small whole numbers, or 0


def _taught(symbols: int, train: Float[Array, " pairs"]) -> Float[Array, " parallelograms"]:
    """1 for the parallelograms both of whose pairs are trained on."""
    first, second = addition_parallelograms(symbols).T
    return train[first] * train[second]


def _energy_matrix(symbols: int, train: Float[Array, " pairs"]) -> Float[Array, "symbols symbols"]:
    rows, taught = jnp.asarray(equations(symbols), jnp.float32), _taught(symbols, train)
    return (rows.T * taught) @ rows / jnp.maximum(jnp.sum(taught), 1.0)


def _null_space(
    rows: Float[Array, "parallelograms symbols"], taught: Float[Array, " parallelograms"]
) -> Float[Array, "symbols symbols"]:
    """An orthonormal basis of the embeddings that close the taught parallelograms, padded with zero columns."""
    matrix = (rows.T * taught) @ rows / jnp.maximum(jnp.sum(taught), 1.0)
    values, basis = jnp.linalg.eigh(matrix)
    return jnp.where(values < EIGENVALUE_ZERO, basis, 0.0)


def _answered(closed: Bool[Array, " parallelograms"], train: Float[Array, " pairs"]) -> Float[Array, ""]:
    """Share of untrained pairs that share a closed parallelogram with a trained pair."""
    symbols = int((np.sqrt(8 * train.shape[0] + 1) - 1) / 2)
    first, second = addition_parallelograms(symbols).T
    open_ = closed.astype(train.dtype)
    helped = jnp.zeros_like(train).at[first].max(open_ * train[second]).at[second].max(open_ * train[first])
    return jnp.sum(helped * (1 - train)) / jnp.sum(1 - train)
