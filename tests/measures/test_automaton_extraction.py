import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.measures.automata import (
    AutomatonExtraction,
    count_states,
    equivalent_states,
    machine_size,
    merge_states,
    merger_pairs,
    minimised,
    state_spread,
)
from unseen.worlds.algorithms.automata import Automaton, RandomAutomata, StringTree

KEY = jax.random.key(0)


def embedded(machine: Automaton, depth: int, noise: float = 0.0):
    """Hidden vectors of all strings: one random vector a state of the machine, plus noise."""
    tree = StringTree(machine.transitions.shape[1], depth)
    padded = jnp.array([(*s, *[0] * (depth - len(s))) for s in tree.strings()])
    states = machine.states_of(padded)[jnp.arange(tree.size), tree.lengths - 1].at[0].set(machine.initial)
    vectors = jax.random.normal(KEY, (len(machine.outputs), 6))
    hidden = vectors[states] + noise * jax.random.normal(jax.random.key(1), (tree.size, 6))
    return hidden, machine.outputs[states], states


@pytest.mark.parametrize("seed", range(12))
def test_minimisation_agrees_with_automata_lib(seed):
    dfa = pytest.importorskip("automata.fa.dfa")
    machine = RandomAutomata(9, 2).sample(jax.random.key(seed))
    edges, outputs = np.asarray(machine.transitions), np.asarray(machine.outputs)
    peer = dfa.DFA(
        states=set(range(9)), input_symbols={"0", "1"}, initial_state=0,
        transitions={s: {str(a): int(edges[s, a]) for a in (0, 1)} for s in range(9)},
        final_states={s for s in range(9) if outputs[s]},
    )  # fmt: skip
    assert machine_size(minimised(machine)) == len(peer.minify().states)


@pytest.mark.parametrize("seed", range(4))
def test_equivalent_states_answer_all_strings_alike(seed):
    machine = RandomAutomata(6, 2).sample(jax.random.key(seed))
    strings = jnp.array([(*s, *[0] * (5 - len(s))) for n in range(1, 6) for s in itertools.product((0, 1), repeat=n)])
    answers = [
        np.append(np.ravel(Automaton.of(machine.transitions, machine.outputs, s).read(strings)), machine.outputs[s])
        for s in range(6)
    ]
    wanted = [[np.array_equal(a, b) for b in answers] for a in answers]
    np.testing.assert_array_equal(equivalent_states(machine), wanted)


def test_the_minimal_machine_reads_as_before():
    machine = RandomAutomata(9, 3).sample(KEY)
    small = minimised(machine)
    strings = jax.random.randint(KEY, (20, 30), 0, 3)
    np.testing.assert_array_equal(small.read(strings), machine.read(strings))
    assert machine_size(minimised(small)) == machine_size(small)


def test_a_missing_transition_tells_states_apart():
    outputs = jnp.zeros(3, jnp.int32)
    whole = Automaton.of(jnp.array([[1, 2], [0, 0], [0, 0]]), outputs)
    torn = Automaton.of(jnp.array([[1, 2], [0, 0], [0, -1]]), outputs)
    assert machine_size(minimised(whole)) == 1
    assert machine_size(minimised(torn)) == 3


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_a_machine_is_read_off_its_own_states(noise):
    machine = RandomAutomata(5, 2).sample(jax.random.key(3))
    hidden, outputs, states = embedded(machine, 7, noise)
    found = AutomatonExtraction(2, 7)(hidden, outputs)
    assert machine_size(found) == len(set(states.tolist())) == 5
    assert found.complete
    assert machine_size(minimised(found)) == machine_size(minimised(machine))
    strings = jax.random.randint(KEY, (20, 50), 0, 2)
    np.testing.assert_array_equal(found.read(strings), machine.read(strings))


def test_without_mergers_the_machine_is_the_tree():
    tree = StringTree(2, 4)
    hidden = jax.random.normal(KEY, (tree.size, 8))
    found = AutomatonExtraction(2, 4)(hidden, Automaton.parity().tree_outputs(4))
    assert machine_size(found) == count_states(hidden) == tree.size
    assert not found.complete
    np.testing.assert_array_equal(found.transitions, tree.children)


def test_strings_that_do_not_count():
    hidden, outputs, _ = embedded(Automaton.parity(), 5)
    tree = StringTree(2, 5)
    short = tree.lengths <= 3
    hidden = jnp.where(short[:, None], hidden, jnp.arange(tree.size)[:, None] * 100.0)  # far away, all different
    found = AutomatonExtraction(2, 5)(hidden, outputs, short)
    assert machine_size(found) == count_states(hidden, there=short) == 2
    assert (merge_states(hidden, there=short)[~short] == -1).all()
    np.testing.assert_allclose(state_spread(hidden, short), state_spread(hidden[short]), rtol=1e-5)


def test_states_are_counted_in_units_of_the_spread():
    points = jnp.array([[0.0], [0.6], [1.2], [100.0]])
    assert count_states(points, tolerance=0.01) == 4
    assert count_states(points, tolerance=0.02) == 3  # 1.2 is near 0.6, which founded nothing
    assert count_states(points, tolerance=0.1) == 2
    assert count_states(1_000 * points, tolerance=0.02) == 3


def test_pairs_that_merge():
    hidden, outputs, _ = embedded(Automaton.parity(), 4)
    assert [float(x) for x in merger_pairs(hidden, outputs)] == [1.0, 0.0]
    shuffled = jnp.arange(len(outputs)) % 2
    same, other = merger_pairs(hidden, shuffled)
    assert float(same) == pytest.approx(float(other), abs=0.1)
    none = merger_pairs(jax.random.normal(KEY, hidden.shape), outputs)
    assert [float(x) for x in none] == [0.0, 0.0]


def test_bad_use():
    with pytest.raises(UserError, match="tolerance takes"):
        count_states(jnp.zeros((2, 2)), tolerance=0.0)
    with pytest.raises(UserError, match="hidden takes a vector for each of the 7 strings, got 6"):
        AutomatonExtraction(2, 2)(jnp.zeros((6, 2)), jnp.zeros(6, jnp.int32))
