"""What comes over the bridge is what JAX computes of the same network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.measures.per_example_gradients import PerExampleGradients, coherence, per_example_gradients
from unseen.measures.torch_bridge import torch_per_example_gradients

torch = pytest.importorskip("torch")


def twins():
    model = eqx.nn.MLP(5, 3, 7, 1, key=jax.random.key(0))
    network = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
    with torch.no_grad():
        for mine, other in zip((network[0], network[2]), model.layers, strict=True):
            mine.weight.copy_(torch.from_numpy(np.array(other.weight)))
            mine.bias.copy_(torch.from_numpy(np.array(other.bias)))
    return model, network


def loss(model, example):
    x, y = example
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y)


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_gradients_are_those_of_jax(micro_batch):
    model, network = twins()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(11, 5)).astype(np.float32), rng.integers(3, size=11)
    found = torch_per_example_gradients(
        network, torch.nn.functional.cross_entropy, torch.from_numpy(x), torch.from_numpy(y), micro_batch=micro_batch
    )
    assert list(found) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    examples = (jnp.asarray(x), jnp.asarray(y))
    matrix = np.concatenate([g.reshape(11, -1) for g in found.values()], 1)
    np.testing.assert_allclose(matrix, per_example_gradients(loss, model, examples), atol=1e-5)
    ours = PerExampleGradients.of(loss, model, examples)
    np.testing.assert_allclose(coherence(found), ours.coherence, rtol=1e-4)


def test_frozen_parameters_are_left_out():
    _, network = twins()
    network[0].requires_grad_(False)
    found = torch_per_example_gradients(
        network, torch.nn.functional.cross_entropy, torch.ones(2, 5), torch.zeros(2, dtype=torch.long)
    )
    assert list(found) == ["2.weight", "2.bias"]
