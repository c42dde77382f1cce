import itertools

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.methods.cognitive_graph import (
    BehaviorSearch,
    CognitiveGraph,
    HarmonicCode,
    HebbianEdges,
    momentum_walk,
)
from unseen.worlds.control.continuous_maze import ContinuousMaze

START, GOAL = jnp.array([0.6, 0.7]), jnp.array([3.35, 2.9])


def lattice(similarity=None):
    return CognitiveGraph.lattice(START, GOAL, 4.0, 8, similarity)


def as_networkx(graph):
    known = networkx.DiGraph()
    for i, (row, costs) in enumerate(zip(graph.neighbours, graph.costs(), strict=True)):
        known.add_weighted_edges_from((i, int(j), float(c)) for j, c in zip(row, costs, strict=True) if np.isfinite(c))
    return known


def test_harmonic_codes_have_length_one_and_know_only_the_displacement():
    code = HarmonicCode.random(jax.random.key(0), 64, (0.5, 2.0))
    a, b, shift = jnp.array([0.3, 1.0]), jnp.array([2.0, 0.4]), jnp.array([5.0, -3.0])
    assert code(a).shape == (64,) and float(code(a) @ code(a)) == pytest.approx(1, abs=1e-5)
    assert float(code(a) @ code(b)) == pytest.approx(float(code(a + shift) @ code(b + shift)), abs=1e-4)
    assert float(code(a) @ code(b)) == pytest.approx(float(jnp.cos(code.waves @ (a - b)).mean()), abs=1e-5)
    lengths = 2 * jnp.pi / jnp.linalg.norm(code.waves, axis=-1)
    assert float(lengths.min()) >= 0.5 - 1e-4 and float(lengths.max()) <= 2.0 + 1e-4


def test_far_places_look_less_alike_the_more_waves_there_are():
    def spread(dim):
        places = 10.0 * jax.random.uniform(jax.random.key(1), (60, 2))
        alike = HarmonicCode.random(jax.random.key(0), dim, (0.5, 2.0)).similarity(places)
        return float(jnp.std(alike[np.triu_indices(60, 1)]))

    # Means of dim / 2 cosines of about uniform phases.
    for dim in (16, 256):
        assert spread(dim) == pytest.approx((1 / dim) ** 0.5, rel=0.3)


def test_fewer_waves_may_be_traced():
    whole = HarmonicCode.random(jax.random.key(0), 64, (0.5, 2.0))
    some = jax.jit(lambda used: HarmonicCode.random(jax.random.key(0), 64, (0.5, 2.0), used=used))(16)
    assert np.allclose(some.waves[:8], whole.waves[:8]) and float(jnp.square(some.amplitude).sum()) == pytest.approx(1)
    assert np.allclose(some.amplitude[:8], 8**-0.5) and not some.amplitude[8:].any()


def test_hebbian_edges_read_by_the_products_of_codes():
    # Whole wave numbers at the sixteenths of a line are the discrete Fourier basis: orthonormal codes.
    waves = 2 * jnp.pi * jnp.arange(1, 8)[:, None] / 16.0
    code = HarmonicCode(waves, jnp.full(7, 7**-0.5))
    assert float(code(jnp.array([3.0])) @ code(jnp.array([5.0]))) == pytest.approx(
        np.cos(2 * np.pi * np.arange(1, 8) * 2 / 16).mean(), abs=1e-5
    )
    edges = HebbianEdges.empty(code).store(jnp.array([3.0]), jnp.array([4.0]), -2.0)
    assert float(edges.read(jnp.array([3.0]), jnp.array([4.0]))) == pytest.approx(-2, abs=1e-4)
    alike = float(code(jnp.array([3.0])) @ code(jnp.array([5.0])))
    assert float(edges.read(jnp.array([5.0]), jnp.array([4.0]))) == pytest.approx(-2 * alike, abs=1e-4)


def test_the_graph_reads_what_the_hebbian_matrix_says():
    code = HarmonicCode.random(jax.random.key(2), 32, (0.4, 3.0))
    graph, edges = lattice(code.similarity), HebbianEdges.empty(code)
    for source, target, amount in ((0, 1, -3.0), (9, 17, -3.0), (0, 1, 2.0), (10, 9, -1.0)):
        before = graph.read(jnp.array(source), jnp.array(target))
        graph = graph.edit(source, target, amount)
        assert float(graph.read(jnp.array(source), jnp.array(target)) - before) == pytest.approx(amount, abs=1e-4)
        a, b = graph.vertices[source], graph.vertices[target]
        part = amount / (1 + (code(a) @ code(b)) ** 2)
        edges = edges.store(a, b, part).store(b, a, part)
    for i, k in itertools.product(range(0, 64, 7), range(4)):
        read = edges.read(graph.vertices[i], graph.vertices[graph.neighbours[i, k]])
        assert float(graph.strength[i, k]) == pytest.approx(float(read), abs=1e-4)


def test_simplest_paths_against_networkx():
    graph = lattice()
    assert len(graph.vertices) == 65 and np.allclose(graph.vertices[9], START, atol=1e-6)
    for source, target in ((9, 10), (9, 17), (27, 28), (36, 28)):
        graph = graph.edit(source, target, -1.5)
    known = as_networkx(graph)
    assert known.out_degree(0) == 2 and known.out_degree(9) == 4 and known.in_degree(64) == 4
    truth = networkx.single_source_dijkstra_path_length(known.reverse(), 64)
    assert np.allclose(graph.to_goal(), [truth[i] for i in range(65)], rtol=1e-5)


def test_a_table_forgets_nothing_else_and_strengthening_never_beats_the_new_graph():
    graph = lattice()
    edited = graph.edit(9, 10, -3.0)
    changed = np.argwhere(np.asarray(edited.strength != graph.strength))
    assert {(int(i), int(graph.neighbours[i, k])) for i, k in changed} == {(9, 10), (10, 9)}
    ratio = edited.costs()[9] / graph.costs()[9]
    assert float(jnp.nanmax(ratio)) == pytest.approx(np.exp(3), rel=1e-5)
    assert np.allclose(graph.edit(9, 10, 5.0).costs(), graph.costs())


def run(search, closed, key=None, budget=1_500, similarity=None, graph=None):
    """A search in an open room of 4 x 4 cells with some walls."""
    world = ContinuousMaze(cells=4, loops=1.0, apart=0.0)
    level = world.level(jax.random.key(0))
    for row, column in closed:
        level = world.close(level, row, column)
    graph = lattice(similarity) if graph is None else graph
    return search.run(
        jax.random.key(0) if key is None else key, graph, lambda p, a: world.move(level, p, a), START,
        lambda p: world.reached(p, GOAL), budget,
    )  # fmt: skip


def many(search, closed, **more):
    """Eight searches that differ in how ties are broken."""
    return jax.jit(jax.vmap(lambda key: run(search, closed, key, **more)))(jax.random.split(jax.random.key(0), 8))


# A wall along the line x = 2 from y = 0 up to a gap in the last cell.
WALL = [(1, 4), (3, 4), (5, 4)]


def test_an_open_room_is_crossed_on_the_simplest_path_without_failure():
    result = run(BehaviorSearch(), [])
    manhattan = float(jnp.abs(GOAL - START).sum())
    assert bool(result.solved) and int(result.failures) == 0 and not result.graph.strength.any()
    assert manhattan / 0.1 - 6 <= int(result.steps) <= manhattan / 0.1 + 10
    assert np.allclose(result.path[0], START) and float(jnp.linalg.norm(result.path[-1] - GOAL)) <= 0.3


def test_failures_edit_the_graph_until_the_way_round_is_the_simplest():
    first = many(BehaviorSearch(), WALL)
    assert bool(first.solved.all()) and int(first.failures.min()) > 0
    result = jax.tree.map(lambda leaf: leaf[first.failures.argmax()], first)
    # Only edges across the wall (or to a vertex too near to it) were weakened.
    graph = result.graph
    weak = [(i, int(graph.neighbours[i, k])) for i, k in np.argwhere(np.asarray(graph.strength < -1))]
    assert weak
    for i, j in weak:
        x = sorted((float(graph.vertices[i, 0]), float(graph.vertices[j, 0])))
        assert x[0] < 2.2 and x[1] > 1.8
    # Once more with the graph that was learned: fewer failures, a shorter way.
    again = many(BehaviorSearch(), WALL, graph=graph)
    assert bool(again.solved.all()) and float(again.failures.mean()) < float(first.failures.mean()) / 2
    assert float(again.steps.mean()) < float(first.steps.mean())


def test_without_edits_the_planner_stays_stuck():
    # No path through the gap is among the simplest: it leads past the goal and back.
    results = many(BehaviorSearch(weaken=0.0, strengthen=0.0), WALL)
    assert not results.solved.any() and int(results.failures.min()) > 50 and bool((results.steps == 1_500).all())
    assert not results.graph.strength.any()
    assert many(BehaviorSearch(), WALL).solved.all()


def test_a_wall_that_is_taken_away_is_found_out():
    weak = lattice()
    for i, (row, lengths) in enumerate(zip(weak.neighbours, weak.lengths, strict=True)):
        for j, length in zip(row, lengths, strict=True):
            if np.isfinite(length) and int(j) > i:
                weak = weak.edit(i, int(j), -3.0)
    result = run(BehaviorSearch(), [], graph=weak)
    assert bool(result.solved) and int((result.graph.strength == 0).sum()) > int((weak.strength == 0).sum())


def test_the_block_changes_nothing_but_speed_and_hebbian_memory_solves_too():
    similarity = HarmonicCode.random(jax.random.key(1), 512, (0.5, 2.0)).similarity
    first, second = (run(BehaviorSearch(block=n, tie_break=0.0), WALL, similarity=similarity) for n in (32, 7))
    assert bool(first.solved) and int(first.steps) == int(second.steps)
    assert np.allclose(first.path, second.path, atol=1e-4)


def test_momentum_walk():
    world = ContinuousMaze(cells=4, loops=1.0, apart=0.0)
    level = world.level(jax.random.key(0))

    def walk(key, budget):
        return momentum_walk(key, lambda p, a: world.move(level, p, a), START, lambda p: world.reached(p, GOAL), budget)

    solved, steps, path = walk(jax.random.key(0), 3_000)
    assert bool(solved) and path.shape == (600, 2)
    assert float(jnp.linalg.norm(path[-1] - GOAL)) <= 0.3 and float(jnp.abs(jnp.diff(path, axis=0)).max()) <= 0.5 + 1e-5
    short, cut, _ = walk(jax.random.key(0), int(steps) - 1)
    assert not bool(short) and int(cut) == int(steps) - 1


def test_bad_settings_are_named():
    for name, value in dict(patience=0, block=0, speed=0.0).items():
        with pytest.raises(UserError, match=name):
            BehaviorSearch(**{name: value})
    for name, arguments in dict(dim=(5, (1.0, 2.0)), wavelengths=(4, (2.0, 1.0))).items():
        with pytest.raises(UserError, match=name):
            HarmonicCode.random(jax.random.key(0), *arguments)
