"""Finite machines in a recurrent network: states that have merged, and the machine that they form."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from unseen.lab import UserError
from unseen.worlds.algorithms.automata import Automaton, StringTree


def state_spread(
    hidden: Float[Array, "strings width"], there: Bool[Array, " strings"] | None = None
) -> Float[Array, ""]:
    """Root of the summed variances of all units over the strings: the length that distances are compared with."""
    weights = jnp.ones(len(hidden)) if there is None else there.astype(hidden.dtype)
    share = weights / weights.sum()
    return jnp.sqrt(jnp.sum(share @ jnp.square(hidden - share @ hidden)))


def merge_states(
    hidden: Float[Array, "strings width"],
    *,
    tolerance: float = 0.01,
    there: Bool[Array, " strings"] | None = None,
) -> Int[Array, " strings"]:
    """For every string the first string of its state; -1 for those that are not `there`.

    In their order, strings join the first state whose first string has a hidden vector closer than `tolerance` times
    the spread, or found a new one.

    Source: van Rossem and Saxe (2025, arXiv 2507.09897) and their official code (group_activations).

    Raises:
        UserError: if the tolerance is not above 0.
    """
    if tolerance <= 0:
        raise UserError(f"tolerance takes a number above 0, got {tolerance}.")
    valid = jnp.ones(len(hidden), bool) if there is None else there
    limit = tolerance * state_spread(hidden, valid)
    number = jnp.arange(len(hidden))

    def join(founders: Bool[Array, " strings"], row: tuple[Array, Array]) -> tuple[Array, Array]:
        i, alive = row
        distance = jnp.sqrt(jnp.sum(jnp.square(hidden - hidden[i]), -1))
        near = founders & (distance < limit)
        own = jnp.where(near.any(), jnp.argmax(near), i)
        return founders | ((number == own) & alive), jnp.where(alive, own, -1)

    _, states = jax.lax.scan(join, jnp.zeros(len(hidden), bool), (number, valid))
    return states


def count_states(
    hidden: Float[Array, "strings width"],
    *,
    tolerance: float = 0.01,
    there: Bool[Array, " strings"] | None = None,
) -> Int[Array, ""]:
    """Number of states that hidden vectors form; arguments as in `merge_states`."""
    return jnp.sum(merge_states(hidden, tolerance=tolerance, there=there) == jnp.arange(len(hidden)))


def merger_pairs(
    hidden: Float[Array, "strings width"],
    classes: Int[Array, " strings"],
    *,
    tolerance: float = 0.01,
    there: Bool[Array, " strings"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Share of the pairs of strings whose hidden vectors have merged: of pairs of one class, of pairs of two.

    Args:
        hidden: one vector a string.
        classes: equal for strings that no continuation tells apart; for parity, the parity.
        tolerance: distance below which a pair has merged, in units of the spread.
        there: strings that count; by default all.

    Source: van Rossem and Saxe (2025, arXiv 2507.09897), section 4: the theory has pairs of one class merge, and no
    others.
    """
    valid = jnp.ones(len(hidden), bool) if there is None else there
    squares = jnp.sum(jnp.square(hidden[:, None] - hidden[None]), -1)
    merged = squares < jnp.square(tolerance * state_spread(hidden, valid))
    pair = valid[:, None] & valid[None] & ~jnp.eye(len(hidden), dtype=bool)
    same = classes[:, None] == classes[None]

    def share(which: Bool[Array, "strings strings"]) -> Float[Array, ""]:
        return jnp.sum(merged & which) / jnp.sum(which)

    return share(pair & same), share(pair & ~same)


@dataclasses.dataclass(frozen=True)
class AutomatonExtraction:
    """Reads a finite machine off the hidden vectors of all strings up to a length.

    Attributes:
        symbols: letters of the alphabet.
        depth: length of the longest strings.
        tolerance: of `merge_states`.

    Source: van Rossem and Saxe (2025, arXiv 2507.09897) and their official code (to_automaton_history): a state is
    a group of strings; it goes where the continuations of its strings go, and where those disagree, where that of the
    last goes. What only strings of full length have entered has no transitions.
    """

    symbols: int
    depth: int
    tolerance: float = 0.01

    def __call__(
        self,
        hidden: Float[Array, "strings width"],
        outputs: Int[Array, " strings"],
        there: Bool[Array, " strings"] | None = None,
    ) -> Automaton:
        """The machine; its states have the numbers of their first strings.

        Args:
            hidden: vectors in the order of `StringTree(symbols, depth)`, the empty string first.
            outputs: class that the network says after each string. What it says after the empty string counts; give
                that of the target where the network was never asked.
            there: strings that count; by default all. Those shorter than one that counts must count, too.

        Raises:
            UserError: if the number of vectors is not that of the tree's strings.
        """
        tree = StringTree(self.symbols, self.depth)
        if len(hidden) != tree.size:
            raise UserError(f"hidden takes a vector for each of the {tree.size} strings, got {len(hidden)}.")
        states = merge_states(hidden, tolerance=self.tolerance, there=there)
        children = tree.children
        goes = jnp.where(children < 0, -1, states[children])  # by string
        number = jnp.arange(tree.size)
        # The last string of a state that has a continuation by the symbol decides.
        knows = (states[:, None] == number[None])[..., None] & (goes >= 0)[:, None]  # string, state, symbol
        last = jnp.max(jnp.where(knows, number[:, None, None], -1), axis=0)
        transitions = jnp.where(last < 0, -1, jnp.take_along_axis(goes, jnp.maximum(last, 0), axis=0))
        return Automaton(transitions, outputs, states[0], states == number)


def equivalent_states(machine: Automaton) -> Bool[Array, "states states"]:
    """Which pairs of states no string tells apart, by Moore's table filling.

    A state that lacks a transition is told apart from one that has it.
    """

    def refine(same: Bool[Array, "states states"]) -> Bool[Array, "states states"]:
        for symbol in range(machine.transitions.shape[1]):
            goes = machine.transitions[:, symbol]
            known = goes >= 0
            both = known[:, None] & known[None] & same[jnp.ix_(goes, goes)]
            same = same & (both | (~known[:, None] & ~known[None]))
        return same

    def unsettled(pair: tuple[Array, Array]) -> Bool[Array, ""]:
        return jnp.any(pair[0] != pair[1])

    start = (machine.outputs[:, None] == machine.outputs[None]) & machine.there[:, None] & machine.there[None]
    _, same = jax.lax.while_loop(unsettled, lambda pair: (pair[1], refine(pair[1])), (start, refine(start)))
    return same


def minimised(machine: Automaton) -> Automaton:
    """The machine with every class of equivalent states merged into its first state; the numbers stay."""
    same = equivalent_states(machine)
    first = jnp.where(machine.there, jnp.argmax(same, axis=1), -1)
    transitions = jnp.where(machine.transitions < 0, -1, first[machine.transitions])
    return Automaton(transitions, machine.outputs, first[machine.initial], first == jnp.arange(len(first)))


def machine_size(machine: Automaton) -> Int[Array, ""]:
    """Number of states."""
    return jnp.sum(machine.there)
