"""A recurrent network that reads all short strings at once, along the tree of their prefixes."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.models.recurrent import RNN
from unseen.worlds.algorithms.automata import StringTree


class StreamingRNN(RNN):
    """A rectified Elman network that starts from a vector of ones, as van Rossem and Saxe (2025) have it.

    All weights are drawn from Glorot's normal distribution times a gain, biases are zero.
    """

    def __init__(
        self, symbols: int, width: int, outputs: int, *, gain: float | Float[Array, ""] = 1.0, key: PRNGKeyArray
    ):
        """A network from `symbols` one-hot symbols to `outputs` numbers; `gain` may be traced."""
        shape_key, into, across, out = jax.random.split(key, 4)
        super().__init__(symbols, width, outputs, key=shape_key)

        def glorot(key: PRNGKeyArray, rows: int, columns: int) -> Float[Array, "rows columns"]:
            return gain * jnp.sqrt(2 / (rows + columns)) * jax.random.normal(key, (rows, columns))

        cell = jnp.concatenate([glorot(into, width, symbols), glorot(across, width, width)], axis=1)
        self.cell = eqx.tree_at(lambda c: (c.weight, c.bias), self.cell, (cell, jnp.zeros(width)))
        head = glorot(out, outputs, width)
        self.head = eqx.tree_at(lambda h: (h.weight, h.bias), self.head, (head, jnp.zeros(outputs)))

    def start(self, time: int, input_length: Int[Array, ""]) -> Float[Array, " width"]:
        """Ones."""
        return jnp.ones(self.cell.out_features)

    def tree(self, depth: int) -> Float[Array, "strings width"]:
        """Hidden vectors after every string of up to `depth` symbols, in the order of `StringTree`, the empty one
        first. Strings share the work of their prefixes."""
        symbols = self.cell.in_features - self.cell.out_features
        into, across = jnp.split(self.cell.weight, [symbols], axis=1)
        pushed = into.T + self.cell.bias
        levels = [jnp.ones((1, self.cell.out_features))]
        for _ in range(depth):
            hidden = jax.nn.relu((levels[-1] @ across.T)[:, None] + pushed)
            levels.append(hidden.reshape(-1, hidden.shape[-1]))
        return jnp.concatenate(levels)

    def answers(self, hidden: Float[Array, "strings width"]) -> Float[Array, "strings outputs"]:
        """What the network says at these hidden vectors."""
        return hidden @ self.head.weight.T + self.head.bias


class TreeReader(eqx.Module):
    """A network as a function of the numbers of strings in a `StringTree`.

    Attributes:
        rnn: the network.
        symbols: letters of the alphabet.
        depth: length of the longest strings.
    """

    rnn: StreamingRNN
    symbols: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)

    def __call__(self, numbers: Int[Array, " batch"]) -> Float[Array, "batch outputs"]:
        """Answers after the strings with these numbers."""
        return self.rnn.answers(self.hidden)[numbers]

    @property
    def hidden(self) -> Float[Array, "strings width"]:
        """Hidden vectors of all strings."""
        return self.rnn.tree(StringTree(self.symbols, self.depth).depth)
