import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sympy.combinatorics import Permutation

from unseen.lab import UserError
from unseen.worlds.algorithms import OPERATIONS, ModularArithmetic

KEY = jax.random.key(0)


def table(operation, p=7):
    return np.asarray(ModularArithmetic(p, operation).labels())


@pytest.mark.parametrize("operation", ["add", "multiply"])
def test_group_laws(operation):
    t = table(operation)
    e = 0 if operation == "add" else 1
    x = np.arange(7)
    assert (t == t.T).all()
    assert (t[e] == x).all()
    assert (t[t[x[:, None, None], x[:, None]], x] == t[x[:, None, None], t[x[:, None], x]]).all()
    units = x if operation == "add" else x[1:]
    assert ((t == e).sum(1)[units] == 1).all()  # every element has one inverse


def test_subtraction_and_division_undo_addition_and_multiplication():
    x, y = np.meshgrid(np.arange(7), np.arange(7), indexing="ij")
    assert (table("subtract")[table("add"), y] == x).all()
    divide, odd = table("divide"), table("divide_odd")
    assert (divide[table("multiply"), y] == x)[:, 1:].all()
    assert (odd == np.where(y % 2 == 1, divide, table("subtract"))).all()
    defined = ModularArithmetic(7, "divide").defined
    assert not defined[:, 0].any() and defined[:, 1:].all()
    assert ModularArithmetic(7, "divide_odd").defined.all()


@pytest.mark.parametrize(
    "operation, f",
    [
        ("x^2+y^2", lambda x, y: x * x + y * y),
        ("x^2+xy+y^2", lambda x, y: x * x + x * y + y * y),
        ("x^2+xy+y^2+x", lambda x, y: x * x + x * y + y * y + x),
        ("x^3+xy", lambda x, y: x * x * x + x * y),
        ("x^3+xy^2+y", lambda x, y: x * x * x + x * y * y + y),
    ],
)
def test_polynomials_in_python_integers(operation, f):
    t = table(operation, 97)
    pairs = list(itertools.product(range(97), repeat=2))
    assert [t[x, y] for x, y in pairs] == [f(x, y) % 97 for x, y in pairs]


@pytest.mark.parametrize(
    "operation, word",
    [("s5", lambda x, y: x * y), ("s5_conjugate", lambda x, y: x * y * ~x), ("s5_xyx", lambda x, y: x * y * x)],
)
def test_s5_against_sympy(operation, word):
    letters = list(itertools.permutations(range(5)))
    t = table(operation)
    assert t.shape == (120, 120)
    for a, b in np.random.default_rng(0).integers(0, 120, (400, 2)):
        assert letters[t[a, b]] == tuple(word(Permutation(letters[a]), Permutation(letters[b])).array_form)


def test_s5_is_associative_and_not_commutative():
    t = table("s5")
    a, b, c = np.random.default_rng(0).integers(0, 120, (3, 5000))
    assert (t[t[a, b], c] == t[a, t[b, c]]).all()
    assert (t != t.T).mean() > 0.9


def test_random_table_has_no_law():
    t = np.asarray(ModularArithmetic(31, "random").labels(KEY))
    a, b, c = np.random.default_rng(0).integers(0, 31, (3, 5000))
    for agreement in ((t[t[a, b], c] == t[a, t[b, c]]), t[a, b] == t[b, a]):
        assert agreement.mean() < 3 / 31 + 0.03
    assert (np.bincount(t.ravel(), minlength=31) > 10).all()
    assert (t != np.asarray(ModularArithmetic(31, "random").labels(jax.random.key(1)))).any()


def test_there_are_the_twelve_operations_of_the_paper_and_multiplication():
    assert len(OPERATIONS) == 13


@pytest.mark.parametrize("operation", ["add", "divide", "random"])
@pytest.mark.parametrize("fraction", [0.1, 0.45, 0.9])
def test_split_is_exact_under_a_traced_fraction(operation, fraction):
    world = ModularArithmetic(31, operation)
    split = jax.jit(lambda f: world.split(KEY, f))(fraction)
    train, test = np.asarray(split.train), np.asarray(split.test)
    assert train.sum() == round(fraction * world.defined.sum())
    assert ((train + test) == world.defined).all() and set(np.unique(train)) == {0.0, 1.0}
    assert (np.asarray(split.targets) == np.asarray(split.labels)).all()


def test_smaller_fractions_are_nested_in_larger_ones():
    world = ModularArithmetic(31)
    small, large = world.split(KEY, 0.3), world.split(KEY, 0.6)
    assert (np.asarray(small.train) <= np.asarray(large.train)).all()


def test_split_is_uniform_over_pairs():
    world = ModularArithmetic(5)
    share = jax.vmap(lambda k: world.split(k, 0.4).train)(jax.random.split(KEY, 2000)).mean(0)
    assert np.abs(np.asarray(share) - 0.4).max() < 5 * np.sqrt(0.24 / 2000)


def test_duplicates_can_be_kept_together():
    world = ModularArithmetic(31)
    for seed in range(20):
        train = np.asarray(world.split(jax.random.key(seed), 0.45, duplicates_together=True).train)
        assert (train == train.T).all()
        assert 0 <= round(0.45 * 961) - train.sum() <= 1


def test_corruption_changes_the_stated_share_of_training_targets_only():
    split = ModularArithmetic(31).split(KEY, 0.5, corrupted=0.2)
    wrong = np.asarray(split.targets != split.labels)
    train = np.asarray(split.train, bool)
    assert wrong.sum() == round(0.2 * train.sum()) and not wrong[~train].any()
    assert split.targets.min() >= 0 and split.targets.max() < 31


def test_inputs_spell_out_the_grid():
    split = ModularArithmetic(5, "subtract").split(KEY, 0.5)
    left, right = jnp.broadcast_arrays(*split.inputs)
    x, y = left.argmax(-1), right.argmax(-1)
    assert ((x - y) % 5 == split.labels).all()
    listed = split.listed()
    x, y = (side.argmax(-1) for side in listed.inputs)
    assert ((x - y) % 5 == listed.labels).all()
    assert listed.train.sum() == split.train.sum()


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"operation": "plus"}, "operation takes one of add"),
        ({"modulus": 1}, "modulus takes a whole number from 2"),
        ({"modulus": 9, "operation": "divide"}, "prime"),
    ],
)
def test_bad_settings(settings, said):
    with pytest.raises(UserError, match=said):
        ModularArithmetic(**settings)
    with pytest.raises(UserError, match="key"):
        ModularArithmetic(7, "random").labels()
