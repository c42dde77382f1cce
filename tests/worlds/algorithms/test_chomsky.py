import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.algorithms.chomsky import CHOMSKY_TASKS

SIZE = 13


def little(bits):
    return sum(int(b) << i for i, b in enumerate(bits))


def bits_of(number):
    return [int(b) for b in f"{number:b}"]


def arithmetic(tokens, symbols):
    """Python's own arithmetic on the written expression."""
    return eval("".join(symbols[t] for t in tokens)) % 5


def two_numbers(x):
    cut = x.index(2)
    return little(x[:cut]), little(x[cut + 1 :])


def ends(number, n):
    row = [*bits_of(number)[::-1], 2]
    return row + [0] * (n - len(row))


def stack(x):
    cells = []
    for t in x:
        if t == 2:
            cells = cells[:-1]
        else:
            cells.append({0: 0, 1: 1, 3: 0, 4: 1}[t])
    return [*cells[::-1], 2] + [0] * (len(x) - len(cells))


def equation(x):
    text = "".join("01234+-()x="[t] for t in x)
    left, right = text.split("=")
    return [next(d for d in range(5) if eval(left.replace("x", str(d))) % 5 == int(right))]


def missing(x):
    half = len(x) // 2
    at = x.index(2)
    return [x[at + half] if at < half else x[at - half]]


SOLVERS = {
    "even_pairs": lambda x: [sum(a != b for a, b in itertools.pairwise(x)) % 2],
    "modular_arithmetic": lambda x: [arithmetic(x, "01234+-*")],
    "parity_check": lambda x: [x.count(1) % 2],
    "cycle_navigation": lambda x: [(x.count(2) - x.count(0)) % 5],
    "modular_arithmetic_brackets": lambda x: [arithmetic(x, "01234+-*()")],
    "reverse_string": lambda x: x[::-1],
    "stack_manipulation": stack,
    "solve_equation": lambda x: [0] if len(x) < 3 else equation(x),
    "missing_duplicate_string": lambda x: [1] if len(x) == 1 else missing(x),
    "compute_sqrt": lambda x: bits_of((1 << math.ceil(len(x) / 2)) + math.isqrt(little(x[::-1])))[1:],
    "duplicate_string": lambda x: x + x,
    "binary_addition": lambda x: ends(little(x) if len(x) < 3 else sum(two_numbers(x)), len(x) + 1),
    "binary_multiplication": lambda x: (
        [0] * (len(x) - 1) + [2] if len(x) < 3 else ends(math.prod(two_numbers(x)), len(x))
    ),
    "odds_first": lambda x: x[1::2] + x[::2],
    "bucket_sort": sorted,
}
# Output lengths, alphabets and levels as the published generators have them.
PUBLISHED = {
    "even_pairs": (lambda n: 1, 2, 2, "regular"),
    "modular_arithmetic": (lambda n: 1, 9, 5, "regular"),
    "parity_check": (lambda n: 1, 2, 2, "regular"),
    "cycle_navigation": (lambda n: 1, 3, 5, "regular"),
    "modular_arithmetic_brackets": (lambda n: 1, 11, 5, "deterministic context-free"),
    "reverse_string": (lambda n: n, 2, 2, "deterministic context-free"),
    "stack_manipulation": (lambda n: n + 1, 5, 3, "deterministic context-free"),
    "solve_equation": (lambda n: 1, 11, 5, "deterministic context-free"),
    "missing_duplicate_string": (lambda n: 1, 4, 2, "context-sensitive"),
    "compute_sqrt": (lambda n: math.ceil(n / 2), 2, 2, "context-sensitive"),
    "duplicate_string": (lambda n: 2 * n, 2, 2, "context-sensitive"),
    "binary_addition": (lambda n: n + 1, 3, 3, "context-sensitive"),
    "binary_multiplication": (lambda n: n, 3, 3, "context-sensitive"),
    "odds_first": (lambda n: n, 2, 2, "context-sensitive"),
    "bucket_sort": (lambda n: n, 5, 5, "context-sensitive"),
}
TERMINATED = ("stack_manipulation", "binary_addition", "binary_multiplication")


@pytest.mark.parametrize("name", CHOMSKY_TASKS)
def test_targets_and_layout_against_plain_python_at_every_length_of_one_program(name):
    task = CHOMSKY_TASKS[name]()
    output_length, input_size, output_size, level = PUBLISHED[name]
    assert (task.input_size, task.output_size, task.level) == (input_size, output_size, level)
    lengths = np.repeat(np.arange(1, SIZE + 1), 8)
    batch = jax.jit(lambda key, n: task.sample(key, n, len(lengths), SIZE))(jax.random.key(1), jnp.asarray(lengths))
    assert batch.inputs.shape == (len(lengths), SIZE + task.output_length(SIZE), input_size + 1)
    for row, n in enumerate(lengths):
        n = int(n)
        begin = n - 1 + n % 2 if name == "modular_arithmetic" else n
        end = begin + output_length(n)
        tokens = np.asarray(batch.inputs[row]).argmax(-1)
        assert np.asarray(batch.inputs[row]).sum(-1).tolist() == [1] * end + [0] * (len(tokens) - end)
        assert (tokens[begin:end] == input_size).all() and (tokens[:begin] < input_size).all()
        expected = [int(t) for t in SOLVERS[name](tokens[:begin].tolist())]
        assert np.asarray(batch.targets[row])[begin:end].tolist() == expected
        places = [begin <= t < end for t in range(len(tokens))]
        assert np.asarray(batch.outputs[row]).tolist() == places
        scored = expected.index(2) + 1 if name in TERMINATED else end - begin
        assert np.flatnonzero(np.asarray(batch.scored[row])).tolist() == list(range(begin, begin + scored))
        assert np.asarray(batch.present[row]).sum() == end and batch.input_length[row] == begin


@pytest.mark.parametrize("name", ["binary_addition", "binary_multiplication", "compute_sqrt"])
def test_numbers_beyond_any_machine_word_are_exact(name):
    task = CHOMSKY_TASKS[name]()
    batch = task.sample(jax.random.key(2), 161, 4)
    for inputs, targets in zip(np.asarray(batch.inputs).argmax(-1), np.asarray(batch.targets), strict=True):
        assert targets[161:].tolist() == SOLVERS[name](inputs[:161].tolist())


def test_numbers_are_uniform_over_the_positive_ones():
    draws = jax.vmap(lambda key: CHOMSKY_TASKS["compute_sqrt"]().draw(key, 3, 5))(
        jax.random.split(jax.random.key(0), 7000)
    )
    counts = np.bincount(np.asarray(draws)[:, :3] @ [4, 2, 1], minlength=8)
    assert counts[0] == 0
    assert np.sum((counts[1:] - 1000) ** 2 / 1000) < 22.5  # chi-square with 6 degrees of freedom, p = 0.001


def test_bracketed_expressions_split_uniformly():
    # Of length 8 the parts have lengths 1..4 and 4..1; both have one token where the operator is second.
    task = CHOMSKY_TASKS["modular_arithmetic_brackets"]()
    draws = jax.vmap(lambda key: task.draw(key, 8, 8))(jax.random.split(jax.random.key(0), 4000))
    texts = ["".join("01234+-*()"[t] for t in row) for row in np.asarray(draws)]
    operand = r"(?:\d|-\d|\(\d\)|\(-\d\))"
    matches = [re.fullmatch(rf"\(({operand})[+*-]({operand})\)", text) for text in texts]
    assert all(matches)
    counts = np.bincount([len(m[1]) for m in matches], minlength=5)[1:]
    assert counts.sum() == 4000 and np.sum((counts - 1000) ** 2 / 1000) < 16.3  # 3 degrees of freedom, p = 0.001


def test_one_length_for_the_batch_is_the_same_as_the_length_for_each_string():
    task = CHOMSKY_TASKS["reverse_string"]()
    one = task.sample(jax.random.key(0), jnp.array(4), 3, 6)
    each = task.sample(jax.random.key(0), jnp.full(3, 4), 3, 6)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, each)))


@pytest.mark.parametrize(("length", "size"), [(0, 4), (5, 4)])
def test_a_length_without_room_is_refused(length, size):
    with pytest.raises(UserError, match="length takes"):
        CHOMSKY_TASKS["parity_check"]().sample(jax.random.key(0), length, 2, size)
