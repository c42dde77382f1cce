"""Tables of binary operations in which some operand pairs are held out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.lab.errors import UserError

Scalar = float | Float[Array, ""]
Table = tuple[np.ndarray, np.ndarray]  # results and where they are defined, both of shape (n, n)


class PairSplit(eqx.Module):
    """All n x n operand pairs of a table, divided by 0/1 weights instead of by lists of indices.

    The arrays keep one shape whatever the training fraction is, so the fraction may be a traced value, and
    a model that reads `inputs` needs no gather.

    Attributes:
        labels: the true result of every pair; 0 where the operation is not defined.
        targets: the result a learner is given: `labels`, but for the corrupted training pairs.
        train: 1 on the training pairs, else 0.
        test: 1 on the held-out pairs, else 0. Where the operation is not defined both are 0.
    """

    labels: Int[Array, "n n"]
    targets: Int[Array, "n n"]
    train: Float[Array, "n n"]
    test: Float[Array, "n n"]

    @property
    def inputs(self) -> tuple[Float[Array, "n 1 n"], Float[Array, "1 n n"]]:
        """Left and right operands as one-hot vectors, in shapes that broadcast to the grid of all pairs."""
        one_hot = jnp.eye(self.labels.shape[0])
        return one_hot[:, None, :], one_hot[None, :, :]

    def listed(self) -> PairList:
        """The same pairs along one axis, for minibatches and for models that take a list of examples."""
        n = self.labels.shape[0]
        flat = (x.reshape(n * n) for x in (self.labels, self.targets, self.train, self.test))
        return PairList(n, *flat)


class PairList(eqx.Module):
    """The pairs of a `PairSplit` in one axis, row by row of the table; attributes as there."""

    size: int = eqx.field(static=True)
    labels: Int[Array, " pairs"]
    targets: Int[Array, " pairs"]
    train: Float[Array, " pairs"]
    test: Float[Array, " pairs"]

    @property
    def inputs(self) -> tuple[Float[Array, "pairs n"], Float[Array, "pairs n"]]:
        """Left and right operands as one-hot vectors."""
        one_hot = jnp.eye(self.size)
        return jnp.repeat(one_hot, self.size, axis=0), jnp.tile(one_hot, (self.size, 1))


@dataclasses.dataclass(frozen=True)
class ModularArithmetic:
    """Binary operations on a finite set; train on some operand pairs, test on the others.

    Source: Power et al. (2022, arXiv 2201.02177), appendix A.1.1 (the twelve operations).

    Axes: held-out operand pairs (`split`), the training fraction, the operation.

    Attributes:
        modulus: p; the operands are 0..p-1. The three operations of S5 are on its 120 permutations, in
            lexicographic order, whatever p is.
        operation: a key of `OPERATIONS`, or "random": a table without structure, drawn anew for each key.

    Raises:
        UserError: on an unknown operation, a modulus below 2, or division by a modulus that is not prime.
    """

    modulus: int = 97
    operation: str = "add"

    def __post_init__(self) -> None:
        if self.operation != "random" and self.operation not in OPERATIONS:
            known = ", ".join([*OPERATIONS, "random"])
            raise UserError(f"operation takes one of {known}, got {self.operation!r}.")
        if self.modulus < 2:
            raise UserError(f"modulus takes a whole number from 2 on, got {self.modulus}.")
        if self.operation in ("divide", "divide_odd") and not _is_prime(self.modulus):
            raise UserError(f"modulus takes a prime for {self.operation}, got {self.modulus}.")

    @property
    def size(self) -> int:
        """Number of operands, which is also the number of classes n; chance is 1/n."""
        return 120 if self.operation.startswith("s5") else self.modulus

    def labels(self, key: PRNGKeyArray | None = None) -> Int[Array, "n n"]:
        """Results of all pairs, row by left operand; 0 where not defined. Only "random" needs a key."""
        if self.operation != "random":
            return jnp.asarray(OPERATIONS[self.operation](self.modulus)[0])
        if key is None:
            raise UserError("labels of a random table take a key, got none.")
        return jax.random.randint(key, (self.size, self.size), 0, self.size)

    @property
    def defined(self) -> Bool[np.ndarray, "n n"]:
        """Where the operation is defined: everywhere, but for division by 0."""
        if self.operation == "random":
            return np.ones((self.size, self.size), bool)
        return OPERATIONS[self.operation](self.modulus)[1]

    def split(
        self,
        key: PRNGKeyArray,
        fraction: Scalar,
        *,
        duplicates_together: bool = False,
        corrupted: Scalar = 0.0,
    ) -> PairSplit:
        """Hold out operand pairs.

        With one key, the training pairs of a smaller fraction are among those of a larger one.

        Args:
            key: of the split, of the random table, and of the corruption.
            fraction: share of the defined pairs that are trained on; rounded to a whole number of pairs.
            duplicates_together: keep (x, y) and (y, x) on one side, so that a commutative operation cannot
                be answered from the mirrored pair. The training set may then be one pair short.
            corrupted: share of the training pairs whose target is replaced by a uniformly drawn wrong one.
        """
        keys = jax.random.split(key, 4)
        labels, defined = self.labels(keys[0]), jnp.asarray(self.defined)
        order = jax.random.uniform(keys[1], labels.shape)
        if duplicates_together:
            order = jnp.triu(order) + jnp.triu(order, 1).T
        rank = _ranks(jnp.where(defined, order, jnp.inf))
        if duplicates_together:
            rank = jnp.maximum(rank, rank.T)  # a pair enters when its mirror image does
        train = defined & (rank < jnp.round(fraction * defined.sum()))

        wrong_rank = _ranks(jnp.where(train, jax.random.uniform(keys[2], labels.shape), jnp.inf))
        wrong = train & (wrong_rank < jnp.round(corrupted * train.sum()))
        shift = jax.random.randint(keys[3], labels.shape, 1, self.size)
        targets = jnp.where(wrong, (labels + shift) % self.size, labels)
        return PairSplit(labels, targets, train.astype(jnp.float32), (defined & ~train).astype(jnp.float32))


def _ranks(values: Float[Array, "n n"]) -> Int[Array, "n n"]:
    """Position of each entry in the sorted order of all; ties by position."""
    order = jnp.argsort(values.reshape(-1), stable=True)
    return jnp.argsort(order).reshape(values.shape)


def _is_prime(p: int) -> bool:
    return p > 1 and all(p % d for d in range(2, int(p**0.5) + 1))


def _operands(p: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(p)[:, None], np.arange(p)[None, :]


def _polynomial(f: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[int], Table]:
    def table(p: int) -> Table:
        x, y = _operands(p)
        return (f(x, y) % p * np.ones((p, p), int)).astype(np.int32), np.ones((p, p), bool)

    return table


def _divide(p: int) -> Table:
    x, y = _operands(p)
    inverse = np.array([pow(int(v), p - 2, p) for v in range(p)])  # Fermat; 0 for 0
    return (x * inverse[y] % p).astype(np.int32), (y != 0) & (x == x)


def _divide_odd(p: int) -> Table:
    x, y = _operands(p)
    return np.where(y % 2 == 1, _divide(p)[0], (x - y) % p).astype(np.int32), np.ones((p, p), bool)


def _permutations(word: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[int], Table]:
    """Table of a word in two permutations of five letters; `word` maps (x, y) of shapes (.., 5) to one."""

    def table(_: int) -> Table:
        letters = np.array(list(itertools.permutations(range(5))))
        x, y = np.broadcast_arrays(letters[:, None], letters[None, :])
        place = 5 ** np.arange(4, -1, -1)
        code = letters @ place  # increasing, as the order is lexicographic
        return np.searchsorted(code, word(x, y) @ place).astype(np.int32), np.ones((120, 120), bool)

    return table


def _then(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The permutation that applies x first and y second."""
    return np.take_along_axis(y, x, axis=-1)


OPERATIONS: dict[str, Callable[[int], Table]] = {
    "add": _polynomial(lambda x, y: x + y),
    "subtract": _polynomial(lambda x, y: x - y),
    "multiply": _polynomial(lambda x, y: x * y),
    "divide": _divide,
    "divide_odd": _divide_odd,  # x/y if y is odd, else x - y
    "x^2+y^2": _polynomial(lambda x, y: x**2 + y**2),
    "x^2+xy+y^2": _polynomial(lambda x, y: x**2 + x * y + y**2),
    "x^2+xy+y^2+x": _polynomial(lambda x, y: x**2 + x * y + y**2 + x),
    "x^3+xy": _polynomial(lambda x, y: x**3 + x * y),
    "x^3+xy^2+y": _polynomial(lambda x, y: x**3 + x * y**2 + y),
    "s5": _permutations(_then),  # x then y
    "s5_conjugate": _permutations(lambda x, y: _then(_then(x, y), np.argsort(x, axis=-1))),  # x y x^-1
    "s5_xyx": _permutations(lambda x, y: _then(_then(x, y), x)),
}
"""The twelve operations of the paper and multiplication: modulus -> (results, where they are defined)."""
