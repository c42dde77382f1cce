"""Boolean functions of a few bits, and noisy samples of them."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab.errors import UserError


def bit_strings(bits: int) -> Float[np.ndarray, "strings bits"]:
    """All strings of -1 and 1, the first bit changing slowest."""
    numbers = np.arange(2**bits)[:, None] >> np.arange(bits - 1, -1, -1)
    return (2.0 * (numbers % 2) - 1).astype(np.float32)


def boolean_functions(bits: int) -> Float[np.ndarray, "functions strings"]:
    """Values of all Boolean functions of up to 4 bits (65,536): function i is 1 at string j where bit j of i is set,
    else -1.

    Raises:
        UserError: beyond 4 bits, where they cannot be enumerated.
    """
    if not 1 <= bits <= 4:
        raise UserError(f"bits takes a whole number from 1 to 4, got {bits}.")
    strings = 2**bits
    return (2.0 * (np.arange(2**strings)[:, None] >> np.arange(strings) & 1) - 1).astype(np.float32)


class NoisyBits(eqx.Module):
    """A Boolean function's noisy training set and all its strings, as the classifier takes them.

    Attributes:
        inputs: one array: the training strings, then every string once.
        labels: -1 or 1, the function's values.
        targets: what is trained on: labels, some of them inverted.
        train, test: weights of the points, 0 or 1.
    """

    inputs: tuple[Float[Array, "points bits"]]
    labels: Float[Array, " points"]
    targets: Float[Array, " points"]
    train: Float[Array, " points"]
    test: Float[Array, " points"]


@dataclasses.dataclass(frozen=True)
class BooleanTruth:
    """Uniform strings of bits, labelled by a Boolean function, each label inverted with a probability.

    Axes: the function; `samples`; `flip`.

    Attributes:
        bits: of a string.
        flip: probability with which a label is inverted.

    Raises:
        UserError: if there is no bit or `flip` is not between 0 and 1/2.
    """

    bits: int = 4
    flip: float = 0.05

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise UserError(f"bits takes a whole number from 1 on, got {self.bits}.")
        if not 0 < self.flip < 0.5:
            raise UserError(f"flip takes a probability between 0 and 1/2, got {self.flip}.")

    def stream(
        self, key: PRNGKeyArray, values: Float[Array, " strings"], samples: int
    ) -> tuple[Float[Array, "samples strings"], Float[Array, " samples"]]:
        """Strings, one-hot over all of them, and their noisy labels, one after the other."""
        string_key, flip_key = jax.random.split(key)
        which = jax.random.randint(string_key, (samples,), 0, 2**self.bits)
        seen = jax.nn.one_hot(which, 2**self.bits)
        inverted = jax.random.bernoulli(flip_key, self.flip, (samples,))
        return seen, seen @ values * jnp.where(inverted, -1, 1)

    def sample(self, key: PRNGKeyArray, values: Float[Array, " strings"], samples: int) -> NoisyBits:
        """A noisy training set and all strings with their right labels."""
        strings = jnp.asarray(bit_strings(self.bits))
        seen, noisy = self.stream(key, values, samples)
        train = (jnp.arange(samples + len(strings)) < samples).astype(jnp.float32)
        labels = jnp.concatenate([seen @ values, values])
        targets = jnp.concatenate([noisy, values])
        return NoisyBits((jnp.concatenate([seen @ strings, strings]),), labels, targets, train, 1 - train)
