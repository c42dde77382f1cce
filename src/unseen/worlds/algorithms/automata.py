"""Finite machines with an output in every state, and the strings that they read."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from unseen.lab import UserError


class Automaton(eqx.Module):
    """A deterministic finite machine with an output in every state (a Moore machine).

    Attributes:
        transitions: next state by state and symbol; -1 where it is not known.
        outputs: of each state.
        initial: state before the first symbol.
        there: which rows are states at all; the others are never reached.
    """

    transitions: Int[Array, "states symbols"]
    outputs: Int[Array, " states"]
    initial: Int[Array, ""]
    there: Bool[Array, " states"]

    @classmethod
    def of(
        cls, transitions: Int[Array, "states symbols"], outputs: Int[Array, " states"], initial: int = 0
    ) -> Automaton:
        """A machine in which every row is a state."""
        return cls(transitions, outputs, jnp.asarray(initial), jnp.ones(len(outputs), bool))

    @classmethod
    def parity(cls) -> Automaton:
        """Whether the number of ones is even (0) or odd (1), in two states."""
        return cls.of(jnp.array([[0, 1], [1, 0]]), jnp.array([0, 1]))

    @property
    def complete(self) -> Bool[Array, ""]:
        """Whether every state knows where each symbol leads."""
        return jnp.all((self.transitions >= 0) | ~self.there[:, None])

    def states_of(self, strings: Int[Array, "*batch time"]) -> Int[Array, "*batch time"]:
        """The state after each symbol of each string; -1 from the first unknown transition on."""

        def step(state: Int[Array, "*batch"], symbol: Int[Array, "*batch"]) -> tuple[Array, Array]:
            state = jnp.where(state < 0, -1, self.transitions[state, symbol])
            return state, state

        start = jnp.broadcast_to(self.initial, strings.shape[:-1]).astype(self.transitions.dtype)
        _, states = jax.lax.scan(step, start, jnp.moveaxis(strings, -1, 0))
        return jnp.moveaxis(states, 0, -1)

    def read(self, strings: Int[Array, "*batch time"]) -> Int[Array, "*batch time"]:
        """The output after each symbol of each string; -1 from the first unknown transition on."""
        states = self.states_of(strings)
        return jnp.where(states < 0, -1, self.outputs[states])

    def tree_outputs(self, depth: int) -> Int[Array, " strings"]:
        """Output after every string of up to `depth` symbols, the empty one first, in the order of `StringTree`."""
        tree = StringTree(self.transitions.shape[1], depth)
        state = self.initial[None]
        levels = [state]
        for _ in range(depth):
            state = self.transitions[state].reshape(-1)
            levels.append(state)
        return self.outputs[jnp.concatenate(levels)].reshape(tree.size)


@dataclasses.dataclass(frozen=True)
class StringTree:
    """All strings of up to `depth` symbols in the order of a heap: by length, then alphabetically.

    The string with number i is continued by symbol s to the string with number symbols * i + 1 + s; number 0 is the
    empty string.

    Attributes:
        symbols: letters of the alphabet.
        depth: longest length.
    """

    symbols: int
    depth: int

    def __post_init__(self) -> None:
        if self.symbols < 2:
            raise UserError(f"symbols takes a whole number from 2 on, got {self.symbols}.")
        if self.depth < 0:
            raise UserError(f"depth takes a whole number from 0 on, got {self.depth}.")

    def up_to(self, length: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """Number of strings of up to `length` symbols, the empty one included; may be traced."""
        return (self.symbols ** (length + 1) - 1) // (self.symbols - 1)

    @property
    def size(self) -> int:
        """Number of strings, the empty one included."""
        return (self.symbols ** (self.depth + 1) - 1) // (self.symbols - 1)

    @property
    def lengths(self) -> Int[Array, " strings"]:
        """Length of every string."""
        return jnp.concatenate([jnp.full(self.symbols**n, n) for n in range(self.depth + 1)])

    @property
    def children(self) -> Int[Array, "strings symbols"]:
        """Number of the string that continues each by each symbol; -1 for the longest."""
        child = self.symbols * jnp.arange(self.size)[:, None] + 1 + jnp.arange(self.symbols)
        return jnp.where(child < self.size, child, -1)

    def strings(self) -> list[tuple[int, ...]]:
        """The strings themselves."""
        found: list[tuple[int, ...]] = [()]
        for i in range((self.size - 1) // self.symbols):
            found += [(*found[i], s) for s in range(self.symbols)]
        return found


@dataclasses.dataclass(frozen=True)
class RandomAutomata:
    """Random machines whose states are all reached from the first: labels with a finite rule behind them, other than
    parity.

    Axes: length of the string; number of states and symbols of the machine.

    Attributes:
        states, symbols, outputs: how many of each.

    Source: van Rossem and Saxe (2025, arXiv 2507.09897), random tasks. Their generator grows a machine until no state
    is left without transitions, so its size is random; this one draws all transitions uniformly, given a random tree
    that reaches all states, so that the size is what was asked for (before minimisation).
    """

    states: int = 7
    symbols: int = 2
    outputs: int = 2

    def __post_init__(self) -> None:
        for name in ("states", "symbols", "outputs"):
            low = 1 if name == "states" else 2
            if getattr(self, name) < low:
                raise UserError(f"{name} takes a whole number from {low} on, got {getattr(self, name)}.")

    def sample(self, key: PRNGKeyArray) -> Automaton:
        """One machine; its first state is the initial one."""
        edge_key, tree_key, output_key = jax.random.split(key, 3)
        transitions = jax.random.randint(edge_key, (self.states, self.symbols), 0, self.states)
        free = jnp.ones((self.states, self.symbols), bool)
        # State i hangs below an earlier state, on an edge that no other state hangs on.
        for i, tree in enumerate(jax.random.split(tree_key, self.states)[1:], start=1):
            score = jnp.where(free[:i], jax.random.uniform(tree, (i, self.symbols)), -1.0)
            parent, symbol = jnp.unravel_index(jnp.argmax(score), score.shape)
            transitions = transitions.at[parent, symbol].set(i)
            free = free.at[parent, symbol].set(False)
        return Automaton.of(transitions, jax.random.randint(output_key, (self.states,), 0, self.outputs))
