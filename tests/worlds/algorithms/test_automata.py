import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.algorithms.automata import Automaton, RandomAutomata, StringTree


def test_parity_is_the_running_sum():
    bits = jax.random.bernoulli(jax.random.key(0), 0.5, (5, 40)).astype(jnp.int32)
    np.testing.assert_array_equal(Automaton.parity().read(bits), jnp.cumsum(bits, 1) % 2)


def test_unknown_transitions_are_not_guessed():
    machine = Automaton.of(jnp.array([[1, -1], [0, 1]]), jnp.array([5, 6]))
    assert not machine.complete and Automaton.parity().complete
    np.testing.assert_array_equal(machine.read(jnp.array([[0, 1, 0, 1, 0]])), [[6, 6, 5, -1, -1]])


@pytest.mark.parametrize(("symbols", "depth"), [(2, 4), (3, 2), (2, 0)])
def test_the_tree_has_every_string_once_in_order(symbols, depth):
    tree = StringTree(symbols, depth)
    wanted = [s for n in range(depth + 1) for s in itertools.product(range(symbols), repeat=n)]
    assert tree.strings() == wanted
    assert tree.size == len(wanted) == tree.up_to(depth)
    assert tree.lengths.tolist() == [len(s) for s in wanted]
    for string, children in zip(wanted, tree.children.tolist(), strict=True):
        continued = [wanted.index((*string, s)) if len(string) < depth else -1 for s in range(symbols)]
        assert children == continued


def test_outputs_along_the_tree_are_those_of_the_strings():
    machine = RandomAutomata(5, 3, 4).sample(jax.random.key(1))
    outputs = machine.tree_outputs(3)
    strings = StringTree(3, 3).strings()[1:]
    padded = machine.read(jnp.array([(*s, *[0] * (3 - len(s))) for s in strings]))
    wanted = [padded[i, len(s) - 1] for i, s in enumerate(strings)]
    np.testing.assert_array_equal(outputs, [machine.outputs[0], *wanted])


@pytest.mark.parametrize(("states", "symbols"), [(1, 2), (7, 2), (6, 3)])
def test_random_machines_reach_all_their_states(states, symbols):
    for machine in map(RandomAutomata(states, symbols).sample, jax.random.split(jax.random.key(0), 5)):
        edges = np.asarray(machine.transitions)
        assert machine.complete and edges.shape == (states, symbols)
        reached = {0}
        for _ in range(states):
            reached |= {int(t) for s in reached for t in edges[s]}
        assert reached == set(range(states))


def test_machines_differ_between_keys():
    drawn = [tuple(RandomAutomata(5).sample(jax.random.key(k)).transitions.ravel().tolist()) for k in range(5)]
    assert len(set(drawn)) == 5


def test_bad_sizes():
    with pytest.raises(UserError, match="states takes a whole number from 1"):
        RandomAutomata(0)
    with pytest.raises(UserError, match="symbols takes a whole number from 2"):
        RandomAutomata(3, 1)
    with pytest.raises(UserError, match="depth takes"):
        StringTree(2, -1)
