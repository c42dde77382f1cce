import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unseen.models import ToyAdditionNet
from unseen.models.toy_addition import NearestAnswer

NET = ToyAdditionNet(6, 5, key=jax.random.key(0), dimension=2, widths=(8, 7))


def test_forward_by_hand():
    e, (a, b, c), (x, y, z) = NET.embedding, NET.weights, NET.biases
    expected = np.tanh(np.tanh((e[1] + e[4]) @ a + x) @ b + y) @ c + z
    eye = jnp.eye(6)
    np.testing.assert_allclose(NET(eye[1], eye[4]), expected, rtol=1e-5, atol=1e-6)
    assert NET(eye[:, None], eye[None]).shape == (6, 6, 5)


def test_pairs_with_one_sum_of_embeddings_have_one_answer():
    line = jnp.linspace(-1, 1, 6)[:, None] * jnp.ones(2)
    net = eqx.tree_at(lambda n: n.embedding, NET, line)
    eye = jnp.eye(6)
    np.testing.assert_allclose(net(eye[0], eye[5]), net(eye[2], eye[3]), atol=1e-6)


def test_first_values():
    wide = ToyAdditionNet(10, 3, key=jax.random.key(1), widths=(400, 400))
    assert float(jnp.abs(wide.embedding).max()) <= 0.5
    assert float(jnp.abs(wide.weights[1]).max()) <= 1 / 20
    assert np.isclose(float(wide.weights[1].std()), 1 / 20 / np.sqrt(3), rtol=0.02)


def test_distances_to_answers_by_hand():
    answers = jax.random.normal(jax.random.key(2), (11, 5))
    eye = jnp.eye(6)
    out = NET(eye[2], eye[5])
    expected = [-np.mean((np.asarray(out) - np.asarray(a)) ** 2) for a in answers]
    np.testing.assert_allclose(NearestAnswer(NET)(eye[2], eye[5], answers), expected, rtol=1e-5)
