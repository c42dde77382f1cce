"""Addition of whole numbers as a table of unordered pairs, with random vectors for answers."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab.errors import UserError

Scalar = float | Float[Array, ""]


class SumPairs(eqx.Module):
    """Unordered pairs (i, j), i <= j, row by row, divided by 0/1 weights.

    Attributes:
        size: number of symbols.
        labels, targets: i + j.
        train, test: 1 for the pairs of the side, 0 for the others.
        answers: the vector that stands for each sum.
    """

    size: int = eqx.field(static=True)
    labels: Int[Array, " pairs"]
    targets: Int[Array, " pairs"]
    train: Float[Array, " pairs"]
    test: Float[Array, " pairs"]
    answers: Float[Array, "sums width"]

    @property
    def inputs(self) -> tuple[Float[Array, "pairs symbols"], Float[Array, "pairs symbols"], Float[Array, "sums width"]]:
        """Both symbols as one-hot vectors, and all answers that there are."""
        one_hot = np.eye(self.size, dtype=np.float32)
        left, right = np.argwhere(np.triu(np.ones((self.size, self.size), bool))).T
        return jnp.asarray(one_hot[left]), jnp.asarray(one_hot[right]), self.answers


@dataclasses.dataclass(frozen=True)
class PlainAddition:
    """i + j for symbols 0 to p - 1, without any modulus; each sum has a fixed Gaussian vector as its answer.

    Axes: held-out pairs (`split`), the training fraction.

    Source: Liu et al. (2022, arXiv 2205.10343), section 3 (the toy model's task).

    Attributes:
        symbols: p.
        width: of the answers.

    Raises:
        UserError: with fewer than three symbols or no width.
    """

    symbols: int = 10
    width: int = 30

    def __post_init__(self) -> None:
        if self.symbols < 3:
            raise UserError(f"symbols takes a whole number from 3 on, got {self.symbols}.")
        if self.width < 1:
            raise UserError(f"width takes a whole number from 1 on, got {self.width}.")

    @property
    def pairs(self) -> int:
        """Number of unordered pairs, p (p + 1) / 2."""
        return self.symbols * (self.symbols + 1) // 2

    def split(self, key: PRNGKeyArray, fraction: Scalar) -> SumPairs:
        """Hold out pairs; the fraction is rounded to a whole number of pairs.

        With one key, the training pairs of a smaller fraction are among those of a larger one, and the answers are
        the same.
        """
        order_key, answer_key = jax.random.split(key)
        rank = jnp.argsort(jax.random.permutation(order_key, self.pairs))
        train = (rank < jnp.round(fraction * self.pairs)).astype(jnp.float32)
        sums = jnp.asarray(np.argwhere(np.triu(np.ones((self.symbols, self.symbols), bool))).sum(1), jnp.int32)
        answers = jax.random.normal(answer_key, (2 * self.symbols - 1, self.width))
        return SumPairs(self.symbols, sums, sums, train, 1 - train, answers)
