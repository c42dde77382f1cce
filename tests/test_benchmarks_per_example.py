"""Per-example measures and the grokking population compute the same as their peers in PyTorch."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import grokking, per_example
from benchmarks.engine_side import own_home, population
from benchmarks.tasks import MLP


def test_coherence_and_products_are_those_of_torch_func():
    model = MLP(8, key=jax.random.key(1))
    ours, theirs = per_example.Ours(model, 30, 10), per_example.Torch(model, 8, 30, 10)
    np.testing.assert_allclose(ours.coherence(), theirs.coherence(), rtol=1e-4, atol=1e-5)
    vector = np.random.default_rng(0).normal(size=64 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10).astype(np.float32)
    mine, other = ours.product(vector), theirs.product(theirs.shaped(model, vector))
    np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-5)
    assert np.ptp(ours.coherence()) > 0.1 and np.ptp(mine) > 0.1


def test_grokking_in_pytorch_is_the_same():
    study = grokking.the_study(tiny=True)
    peer, learner = grokking.TorchGrokking(study), study.learner("add", grokking.FRACTION, 1.0)
    state = learner.init(jax.random.key(0))
    network = grokking.TorchQuadratic(study.modulus, study.width)
    network.load(state.model)
    theirs = peer.run(0, 1.0, network)
    for i, other in enumerate(theirs):
        mine = learner.measure(state)
        for name, value in other.items():
            np.testing.assert_allclose(mine[name], value, rtol=1e-3, atol=1e-5, err_msg=f"{name} {i}")
        state = learner.advance(state)
    assert theirs[0]["train_loss"] - theirs[-1]["train_loss"] > 1e-3


def test_accuracies_of_the_population_come_with_their_decay():
    study, blocks = grokking.the_study(tiny=True), {}
    with own_home():
        population(study, blocks)
    found = grokking.of_evidence(study, blocks)
    assert {decay: len(v) for decay, v in found.items()} == {0.0: 2, 1.0: 2}
    learner = study.learner("add", grokking.FRACTION, 1.0)
    state = learner.init(jax.random.key(1))
    for _ in range(learner.rounds):
        state = learner.advance(state)
    assert found[1.0][1] == pytest.approx(float(learner.measure(state)["test_accuracy"]), abs=1e-5)
