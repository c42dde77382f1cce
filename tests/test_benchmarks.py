"""The benchmarks run, and what they compare computes the same. No test here looks at a clock."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import atlas, clock, engine_side, matmul, overhead, population, report, retrieval, startup, tasks
from benchmarks.engine_side import own_home
from benchmarks.engine_side import population as by_engine

from unseen.learners.classifier import _rows

# The same bits from two programs: only as users compile them.
pytestmark = pytest.mark.optimized

TINY_STRINGS = dict(width=8, layers=1, batch=4, length=3, pool=16, steps=4, every=2, seeds=2)
TINY_DIGITS = dict(width=8, steps=4, every=2, seeds=2)


def engine(study):
    """Measures of all members, in the order of their seeds."""
    blocks = {}
    with own_home():
        by_engine(study, blocks)
    names = next(iter(blocks.values()))
    return {
        name.partition("/")[2]: np.concatenate([b[name] for b in blocks.values()])
        for name in names
        if name.startswith("series/") and not name.endswith("diverged")
    }


def test_engine_and_hand_compute_the_same_bits(monkeypatch):
    monkeypatch.setattr(engine_side, "CHECKPOINT_SECONDS", 0.0)  # one in every round
    study = overhead.the_study(tiny=True)
    ours, theirs, saves = {}, {}, []
    with own_home():
        lap = by_engine(study, ours, saves)
        overhead.by_hand(study, overhead.chunks_of(study), theirs)
    assert lap.seconds > 0 and lap.setup > 0
    assert len(saves) == len(ours) * study.steps // study.every  # before each round
    assert ours.keys() == theirs.keys() and len(ours) == 2
    for block, series in theirs.items():
        assert set(series) == {f"series/{s}_{m}" for s in ("train", "test") for m in ("loss", "accuracy")}
        for name, values in series.items():
            np.testing.assert_array_equal(values, ours[block][name])
            assert np.ptp(values) > 0


@pytest.mark.parametrize(
    "study", [tasks.SmallMLP(**TINY_DIGITS), tasks.SmallTransformer(**TINY_STRINGS)], ids=lambda s: type(s).__name__
)
def test_runs_one_after_the_other_are_the_population(study):
    together = engine(study)
    runner = population.OneByOne(study.learner(), jax.devices()[:1])
    for i in range(study.seeds):
        alone = runner.one(study.first_seed + i, runner.devices[0])
        for name, values in together.items():
            np.testing.assert_allclose(values[i], [h[name] for h in alone], rtol=2e-4, atol=1e-5)


def test_mlp_in_pytorch_is_the_same():
    study = tasks.SmallMLP(**TINY_DIGITS)
    learner, peer = study.learner(), tasks.TorchMLP(study)
    state, network = learner.init(jax.random.key(0)), peer.network()
    peer.load(network, state.model)
    keys, key = [], state.key
    for _ in range(study.steps):
        key, batch_key, _ = jax.random.split(key, 3)
        keys.append(batch_key)
    rows = np.array([_rows(k, tasks.Digits().train, study.batch) for k in keys]).reshape(-1, study.every, study.batch)
    chunks = iter(tasks.tensor(rows).long())
    assert_same(learner, state, peer.train(network, lambda: next(chunks)))


def test_transformer_in_pytorch_is_the_same():
    study = tasks.SmallTransformer(**TINY_STRINGS)
    learner, peer = study.learner(), tasks.TorchTransformer(study)
    state, network = learner.init(jax.random.key(0)), peer.network()
    peer.load(network, state.model)

    def rows(use, step):
        key = jax.random.fold_in(jax.random.fold_in(state.key, use), step)
        return np.asarray(jax.random.randint(key, (study.batch,), 0, study.pool))

    drawn = [np.stack([rows(1, 0)])]
    for step in range(0, study.steps, study.every):
        drawn.append(np.stack([rows(0, step + i) for i in range(study.every)]))
        drawn.append(np.stack([rows(1, step + study.every)]))
    chunks = iter([tasks.tensor(x).long() for x in drawn])
    assert_same(learner, state, peer.train(network, lambda: next(chunks)))


def assert_same(learner, state, theirs):
    advance, measure = jax.jit(learner.advance), jax.jit(learner.measure)
    ours = [measure(state)]
    for _ in range(learner.rounds):
        state = advance(state)
        ours.append(measure(state))
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert set(mine) == set(other)
        for name in mine:
            np.testing.assert_allclose(mine[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert abs(float(ours[0]["train_loss"]) - float(ours[-1]["train_loss"])) > 1e-3  # it was trained


def test_ppo_is_rejax():
    pytest.importorskip("rejax")
    study = population.CartPole(seeds=1, envs=4, rollout=8, epochs=1, minibatches=2, iterations=2)
    learner = study.learner()
    state = jax.jit(lambda seed: learner.advance(learner.init(jax.random.key(seed))))(np.uint32(3))
    theirs = jax.jit(population.rejax_train(study))(np.uint32(3))
    kernels = [np.asarray(x) for x in state if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    for parameter in theirs:
        assert any(k.shape == parameter.shape and np.allclose(k, parameter, atol=1e-6) for k in kernels)
    assert study.environment_steps == 64 and learner.steps == 2


def test_stable_baselines_does_as_many_steps():
    pytest.importorskip("stable_baselines3")
    study = population.CartPole(seeds=1, envs=4, rollout=8, epochs=1, minibatches=2, iterations=2)
    assert population.stable_baselines(study, 0).num_timesteps == study.environment_steps


def test_flops_are_counted_in_products_and_scans():
    def work(a, b):
        return jax.lax.scan(lambda c, _: (c @ b, None), a, None, length=5)[0] @ b

    a, b = np.ones((3, 4), np.float32), np.ones((4, 4), np.float32)
    assert matmul.product_flops(jax.make_jaxpr(work)(a, b).jaxpr) == 6 * 2 * 3 * 4 * 4
    batched = jax.make_jaxpr(jax.vmap(jax.jit(jax.numpy.matmul)))(np.ones((7, 3, 4)), np.ones((7, 4, 2)))
    assert matmul.product_flops(batched.jaxpr) == 7 * 2 * 3 * 4 * 2
    strings = tasks.SmallTransformer()
    counted, textbook = matmul.product_flops(matmul._update(strings)), matmul.textbook_flops(strings)
    assert 0.95 < counted / textbook < 1.02


def test_ratios_pair_neighbours():
    times = {"a": iter([1.0, 2.0]), "b": iter([3.0, 8.0])}
    order = []

    def side(name):
        order.append(name)
        return clock.Lap(next(times[name]))

    found = clock.interleave({name: lambda name=name: side(name) for name in times}, 2)
    assert order == ["a", "b", "a", "b"]
    assert found["b"].ratios(found["a"]) == [3.0, 4.0]
    assert clock.said([3.0, 4.0, 8.0]) == "4.00 (3.00 to 8.00)"


def test_tables_go_between_their_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("top\n<!-- x: begin -->\nold\n<!-- x: end -->\nbottom\n")
    result = report.Result("x", "X", ["a", "b"], [["1", "2"]], ["A note."])
    report.write("x", report.markdown(result), page)
    text = page.read_text()
    assert text.startswith("top\n<!-- x: begin -->\n| a | b |\n|---|---|\n| 1 | 2 |\n\nA note.") and "old" not in text
    assert text.endswith("<!-- x: end -->\nbottom\n")
    with pytest.raises(SystemExit, match="has no lines"):
        report.write("y", "", page)


def test_every_benchmark_has_its_place_on_the_page():
    text = report.PAGE.read_text()
    populations = (f"population-{case}" for case in ("mlp", "transformer", "ppo"))
    of_atlas = ("retrieval", *(f"atlas-{what}" for what in ("search", "million", "serve", "digest")))
    for name in ("startup", "overhead", *populations, "matmul", "family-dynamics", *of_atlas):
        assert f"<!-- {name}: begin -->" in text and f"<!-- {name}: end -->" in text


def test_startup_runs():
    result = startup.measure(tiny=True)
    assert [row[0] for row in result.rows][:3] == ["`python -c pass`", "`unseen --help`", "`unseen list`"]


def test_retrieval_runs():
    pytest.importorskip("onnxruntime", reason="needs the extra atlas")
    rows = retrieval.measure(tiny=True).rows
    assert len(rows) == 16 and [row[0].partition(",")[0] for row in rows[:4]] == [
        "hybrid",
        "BM25",
        "embeddings",
        "TF-IDF",
    ]


@pytest.mark.parametrize("what", atlas.MEASURES)
def test_atlas_runs(what):
    pytest.importorskip("onnxruntime", reason="needs the extra atlas")
    pytest.importorskip("uvicorn", reason="needs the extra atlas")
    result = atlas.MEASURES[what](True, None)
    assert all(len(row) == len(result.columns) for row in result.rows)
    if what == "serve":
        assert result.rows[0][1:3] == ["40", "0"]
    if what == "digest":
        assert result.rows[0][0] == "200" and int(result.rows[0][1]) > 100
