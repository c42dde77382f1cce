"""Recurrent networks, plain and with a memory, that read a sequence and answer at every position.

All are called as `model(inputs, present, input_length)` on one sequence or a batch of them. `present` is not read
by them, since what comes after the last output cannot change it; they take it so that they can stand where a
`Transformer` stands.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Recurrent(eqx.Module):
    """A cell run along a sequence, with a linear read-out of its rectified hidden vector at every position.

    Attributes:
        head: the read-out.
    """

    head: eqx.AbstractVar[eqx.nn.Linear]

    @abc.abstractmethod
    def start(self, time: int, input_length: Int[Array, ""]) -> Any:
        """State before the first of `time` positions."""

    @abc.abstractmethod
    def step(self, state: Any, x: Float[Array, " inputs"]) -> tuple[Any, Float[Array, " width"]]:
        """State and hidden vector after one more position."""

    def __call__(
        self,
        inputs: Float[Array, "*batch time inputs"],
        present: Bool[Array, "*batch time"] | None = None,
        input_length: Int[Array, "*batch"] | None = None,
    ) -> Float[Array, "*batch time outputs"]:
        """Outputs at every position.

        Args:
            inputs: the sequences, one vector a position.
            present: not read.
            input_length: positions of the input proper, by default all; the length of the jumps of a `TapeRNN`.
        """
        *batch, time, _ = inputs.shape
        if input_length is None:
            input_length = jnp.full(batch, time)

        def run(inputs: Float[Array, "time inputs"], input_length: Int[Array, ""]) -> Float[Array, "time width"]:
            # A lambda, since a bound method of a module with traced arrays has no hash.
            return lax.scan(lambda state, x: self.step(state, x), self.start(time, input_length), inputs)[1]

        for _ in batch:
            run = jax.vmap(run)
        hidden = jax.nn.relu(run(inputs, input_length))
        return (hidden.reshape(-1, hidden.shape[-1]) @ self.head.weight.T + self.head.bias).reshape(*batch, time, -1)


class RNN(Recurrent):
    """Elman network: h' = relu(W x + U h + b).

    The rectified form is the one that Deletang et al. (2022) use for their RNN and as the controller of their
    memory machines.
    """

    cell: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, inputs: int, width: int, outputs: int, *, key: PRNGKeyArray):
        """A network of `width` hidden units from `inputs` to `outputs` numbers a position."""
        cell, head = jax.random.split(key)
        self.cell = eqx.nn.Linear(inputs + width, width, key=cell)
        self.head = eqx.nn.Linear(width, outputs, key=head)

    def start(self, time: int, input_length: Int[Array, ""]) -> Float[Array, " width"]:
        """Zeros."""
        return jnp.zeros(self.cell.out_features)

    def step(
        self, state: Float[Array, " width"], x: Float[Array, " inputs"]
    ) -> tuple[Float[Array, " width"], Float[Array, " width"]]:
        """One position."""
        hidden = jax.nn.relu(self.cell(jnp.concatenate([x, state])))
        return hidden, hidden


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), its forget gate biased towards keeping by 1
    (Jozefowicz et al., 2015)."""

    cell: eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __init__(self, inputs: int, width: int, outputs: int, *, key: PRNGKeyArray):
        """A network of `width` hidden units from `inputs` to `outputs` numbers a position."""
        cell_key, head = jax.random.split(key)
        cell = eqx.nn.LSTMCell(inputs, width, key=cell_key)
        forget = slice(width, 2 * width)  # equinox keeps the gates in the order i, f, g, o
        self.cell = eqx.tree_at(lambda c: c.bias, cell, cell.bias.at[forget].add(1.0))
        self.head = eqx.nn.Linear(width, outputs, key=head)

    def start(self, time: int, input_length: Int[Array, ""]) -> tuple[Float[Array, " width"], Float[Array, " width"]]:
        """Zeros."""
        zeros = jnp.zeros(self.cell.hidden_size)
        return zeros, zeros

    def step(self, state: tuple[Array, Array], x: Float[Array, " inputs"]) -> tuple[Any, Float[Array, " width"]]:
        """One position."""
        state = self.cell(x, state)
        return state, state[0]


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al., 2014)."""

    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self, inputs: int, width: int, outputs: int, *, key: PRNGKeyArray):
        """A network of `width` hidden units from `inputs` to `outputs` numbers a position."""
        cell, head = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(inputs, width, key=cell)
        self.head = eqx.nn.Linear(width, outputs, key=head)

    def start(self, time: int, input_length: Int[Array, ""]) -> Float[Array, " width"]:
        """Zeros."""
        return jnp.zeros(self.cell.hidden_size)

    def step(
        self, state: Float[Array, " width"], x: Float[Array, " inputs"]
    ) -> tuple[Float[Array, " width"], Float[Array, " width"]]:
        """One position."""
        hidden = self.cell(x, state)
        return hidden, hidden


def update_stack(
    stack: Float[Array, "depth cell"], actions: Float[Array, "actions=3"], pushed: Float[Array, " cell"]
) -> Float[Array, "depth cell"]:
    """The stack after a mixture of actions; what is pushed out at the bottom is lost, zeros come in there.

    Args:
        stack: the top is row 0.
        actions: probabilities of push, pop and no-op.
        pushed: the new top if the action is push.

    Source: Joulin and Mikolov (2015), equations 5 and 6, with the no-op of their section 3.1.
    """
    push, pop, keep = actions
    below = jnp.concatenate([pushed[None], stack[:-1]])
    above = jnp.concatenate([stack[1:], jnp.zeros_like(stack[:1])])
    return push * below + pop * above + keep * stack


class StackRNN(Recurrent):
    """An Elman network that reads the top of a differentiable stack and pushes, pops or waits.

    Source: Joulin and Mikolov (2015); Deletang et al. (2022), with a linear push value of 8 numbers.

    Attributes:
        controller: the network that reads input and stack top.
        push: hidden vector -> value to push.
        act: hidden vector -> logits of push, pop and no-op.
        cell: numbers in one stack cell.
        depth: cells of the stack; None: as many as the sequence has positions, so that it never overflows.
    """

    controller: RNN
    push: eqx.nn.Linear
    act: eqx.nn.Linear
    cell: int = eqx.field(static=True)
    depth: int | None = eqx.field(static=True)

    def __init__(
        self, inputs: int, width: int, outputs: int, *, key: PRNGKeyArray, cell: int = 8, depth: int | None = None
    ):
        """A network of `width` hidden units from `inputs` to `outputs` numbers a position."""
        controller, push, act = jax.random.split(key, 3)
        self.controller = RNN(inputs + cell, width, outputs, key=controller)
        self.push = eqx.nn.Linear(width, cell, key=push)
        self.act = eqx.nn.Linear(width, 3, key=act)
        self.cell = cell
        self.depth = depth

    @property
    def head(self) -> eqx.nn.Linear:
        """The controller's read-out."""
        return self.controller.head

    def start(self, time: int, input_length: Int[Array, ""]) -> tuple[Array, Float[Array, "depth cell"]]:
        """Zeros and an empty stack."""
        return self.controller.start(time, input_length), jnp.zeros((self.depth or time, self.cell))

    def step(self, state: tuple[Array, Array], x: Float[Array, " inputs"]) -> tuple[Any, Float[Array, " width"]]:
        """One position: read, then act."""
        hidden, stack = state
        hidden, _ = self.controller.step(hidden, jnp.concatenate([x, stack[0]]))
        stack = update_stack(stack, jax.nn.softmax(self.act(hidden)), self.push(hidden))
        return (hidden, stack), hidden


def update_tape(
    tape: Float[Array, "size cell"],
    actions: Float[Array, "actions=5"],
    written: Float[Array, " cell"],
    jump: int | Int[Array, ""],
) -> Float[Array, "size cell"]:
    """The circular tape after the head's cell (row 0) is overwritten and the head moves by a mixture of moves.

    The tape moves, not the head: row i becomes row i + shift (modulo size).

    Args:
        tape: the cell under the head is row 0.
        actions: probabilities of stay, left (row 1 comes under the head), right, and left and right by `jump`.
        written: the new content of the cell under the head.
        jump: cells.

    Source: Deletang et al. (2022), appendix A (Tape-RNN); row order as in their published code.
    """
    tape = tape.at[0].set(written)
    shifts = (0, -1, 1, -jump, jump)
    return sum(p * jnp.roll(tape, shift, axis=0) for p, shift in zip(actions, shifts, strict=True))


class TapeRNN(Recurrent):
    """An Elman network with a read/write head on a circular differentiable tape; the head may also jump by the
    length of the input.

    Source: Deletang et al. (2022), section 3 and appendix A.

    Attributes:
        controller: the network that reads input and the cell under the head.
        write: hidden vector -> new content of the cell, two rectified layers of 64.
        act: hidden vector -> logits of the five moves.
        cell: numbers in one tape cell.
        size: cells of the tape; None: as many as the sequence has positions.
    """

    controller: RNN
    write: eqx.nn.MLP
    act: eqx.nn.Linear
    cell: int = eqx.field(static=True)
    size: int | None = eqx.field(static=True)

    def __init__(
        self, inputs: int, width: int, outputs: int, *, key: PRNGKeyArray, cell: int = 8, size: int | None = None
    ):
        """A network of `width` hidden units from `inputs` to `outputs` numbers a position."""
        controller, write, act = jax.random.split(key, 3)
        self.controller = RNN(inputs + cell, width, outputs, key=controller)
        self.write = eqx.nn.MLP(width, cell, width_size=64, depth=2, key=write)
        self.act = eqx.nn.Linear(width, 5, key=act)
        self.cell = cell
        self.size = size

    @property
    def head(self) -> eqx.nn.Linear:
        """The controller's read-out."""
        return self.controller.head

    def start(self, time: int, input_length: Int[Array, ""]) -> tuple[Array, Array, Int[Array, ""]]:
        """Zeros, an empty tape, and the length of a jump."""
        return self.controller.start(time, input_length), jnp.zeros((self.size or time, self.cell)), input_length

    def step(self, state: tuple[Array, Array, Array], x: Float[Array, " inputs"]) -> tuple[Any, Float[Array, " width"]]:
        """One position: read, write, then move."""
        hidden, tape, jump = state
        hidden, _ = self.controller.step(hidden, jnp.concatenate([x, tape[0]]))
        tape = update_tape(tape, jax.nn.softmax(self.act(hidden)), self.write(hidden), jump)
        return (hidden, tape, jump), hidden
