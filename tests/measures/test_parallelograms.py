import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from unseen.lab.statistics import EventTimes
from unseen.measures.parallelograms import (
    PHASES,
    addition_pairs,
    addition_parallelograms,
    closed_parallelograms,
    effective_descent,
    effective_energy,
    freedom,
    implied_accuracy,
    parallelogram_accuracy,
    phase_of_run,
)

P = 6
PAIRS = [(i, j) for i in range(P) for j in range(i, P)]
QUADS = [(a, b) for a, b in itertools.combinations(PAIRS, 2) if sum(a) == sum(b)]
LINE = jnp.arange(P, dtype=jnp.float32)[:, None]


def train_on(*pairs):
    return jnp.array([float(pair in pairs) for pair in PAIRS])


def split(seed, count):
    chosen = np.random.default_rng(seed).choice(len(PAIRS), count, replace=False)
    return train_on(*(PAIRS[i] for i in chosen))


def by_hand(embedding, train):
    """Accuracy from the definitions, with loops."""
    e = np.asarray(embedding, np.float64)
    e = (e - e.mean(0)) / e.std(0, ddof=1)
    real = [{a, b} for a, b in QUADS if np.mean((e[a[0]] + e[a[1]] - e[b[0]] - e[b[1]]) ** 2) < 0.01]
    taught = [pair for pair, is_in in zip(PAIRS, train, strict=True) if is_in]
    untaught = [pair for pair in PAIRS if pair not in taught]
    known = [pair for pair in untaught if any({pair, other} in real for other in taught)]
    return len(real) / len(QUADS), len(known) / len(untaught)


def test_pairs_and_parallelograms_are_enumerated():
    assert [tuple(pair) for pair in addition_pairs(P)] == PAIRS
    assert [(PAIRS[a], PAIRS[b]) for a, b in addition_parallelograms(P)] == QUADS


@pytest.mark.parametrize("seed", range(4))
def test_measures_agree_with_their_definitions(seed):
    key = jax.random.key(seed)
    train = split(seed, 12)
    for embedding in (LINE, LINE + 0.06 * jax.random.normal(key, (P, 1)), jax.random.normal(key, (P, 2))):
        share, known = by_hand(embedding, train)
        assert float(closed_parallelograms(embedding)) == pytest.approx(share)
        assert float(parallelogram_accuracy(embedding, train)) == pytest.approx(known)


def test_equal_spacing_closes_everything_and_no_spread_nothing():
    assert float(closed_parallelograms(3 - 2 * LINE)) == 1
    assert float(closed_parallelograms(jnp.ones((P, 1)))) == 0
    train = train_on((0, 3), (0, 4), (2, 5))  # sums 3, 4 and 7
    answered = [sum(pair) in (3, 4, 7) and not t for pair, t in zip(PAIRS, train, strict=True)]
    assert float(parallelogram_accuracy(LINE, train)) == pytest.approx(np.mean(answered) * len(PAIRS) / 18)


def test_energy_by_hand():
    embedding, train = jax.random.normal(jax.random.key(1), (P, 2)), split(0, 10)
    e = np.asarray(embedding)
    taught = [q for q in QUADS if all(train[PAIRS.index(pair)] for pair in q)]
    opening = [np.sum((e[a[0]] + e[a[1]] - e[b[0]] - e[b[1]]) ** 2) for a, b in taught]
    assert float(effective_energy(embedding, train)) == pytest.approx(np.mean(opening) / np.sum(e**2), rel=1e-5)
    assert float(effective_energy(LINE, train)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_flow_solves_its_differential_equation(seed):
    """Against small Euler steps down the gradient of the energy itself."""
    train = split(seed, 14)
    embedding = jax.random.uniform(jax.random.key(seed), (P, 1), minval=-0.5, maxval=0.5)
    walked, slope = embedding - embedding.mean(0), jax.jit(jax.grad(effective_energy))
    for _ in range(2000):
        walked = walked - 5e-4 * slope(walked, train)
    np.testing.assert_allclose(effective_descent(embedding, train, 1.0), walked, atol=2e-3)
    np.testing.assert_allclose(effective_descent(embedding, train, 0.0), embedding - embedding.mean(0), atol=1e-5)


def test_its_end_is_equal_spacing_where_nothing_else_is_possible():
    embedding = jax.random.uniform(jax.random.key(2), (P, 1))
    everything = jnp.ones(len(PAIRS))
    assert float(freedom(P, everything)) == 0
    end = effective_descent(embedding, everything, jnp.inf)
    assert float(closed_parallelograms(end)) == 1
    few = train_on((0, 1), (2, 5))  # no two with one sum
    assert float(freedom(P, few)) == P - 2
    np.testing.assert_allclose(effective_descent(embedding, few, jnp.inf), embedding - embedding.mean(0), atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_what_linear_algebra_implies(seed):
    """A parallelogram is implied if its equation does not raise the rank of the taught ones."""
    train = split(seed, 9)
    rows = {q: np.eye(P)[list(q[0])].sum(0) - np.eye(P)[list(q[1])].sum(0) for q in QUADS}
    taught = [rows[q] for q in QUADS if all(train[PAIRS.index(pair)] for pair in q)]
    rank = np.linalg.matrix_rank(np.array(taught)) if taught else 0
    implied = [{*q} for q in QUADS if np.linalg.matrix_rank(np.array([*taught, rows[q]])) == rank]
    untaught = [pair for pair, t in zip(PAIRS, train, strict=True) if not t]
    known = [p for p in untaught if any({p, o} in implied for o, t in zip(PAIRS, train, strict=True) if t)]
    assert float(implied_accuracy(P, train)) == pytest.approx(len(known) / len(untaught))
    assert float(freedom(P, train)) == P - rank - 2


def test_phases_of_the_official_rules():
    """Fit and generalise: soon, late; fit only; neither; not run."""

    def times(values):
        values = xr.DataArray(values, dims="run")
        return EventTimes(values.fillna(5_000).where(values.notnull() | (xr.DataArray(range(5), dims="run") < 4)),
                          values.notnull(), xr.full_like(values, 5_000.0))  # fmt: skip

    fit = times([100.0, 100.0, 100.0, np.nan, np.nan])
    generalise = times([1_100.0, 1_101.0, np.nan, np.nan, np.nan])
    phase = phase_of_run(fit, generalise)
    assert [PHASES[int(i)] for i in phase.values[:4]] == list(PHASES) and np.isnan(phase.values[4])
