import jax
import jax.numpy as jnp
import numpy as np

from unseen.models.string_tree import StreamingRNN, TreeReader
from unseen.worlds.algorithms.automata import StringTree


def test_the_tree_is_the_network_on_each_string():
    tree = StringTree(3, 3)
    net = StreamingRNN(3, 8, 2, gain=0.7, key=jax.random.key(0))
    net = jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), net)  # biases, too
    answers = TreeReader(net, 3, 3)(jnp.arange(tree.size))
    for number, string in enumerate(tree.strings()):
        if string:
            outputs = net(jax.nn.one_hot(jnp.array(string), 3))
            np.testing.assert_allclose(answers[number], outputs[-1], atol=1e-5)
    np.testing.assert_array_equal(net.tree(3)[0], 1)


def test_weights_have_glorots_deviation_times_the_gain():
    net = StreamingRNN(2, 400, 2, gain=0.5, key=jax.random.key(0))
    across = np.asarray(net.cell.weight[:, 2:])
    into, head = np.asarray(net.cell.weight[:, :2]), np.asarray(net.head.weight)
    np.testing.assert_allclose(across.std(), 0.5 * np.sqrt(2 / 800), rtol=0.02)
    np.testing.assert_allclose([into.std(), head.std()], 0.5 * np.sqrt(2 / 402), rtol=0.1)
    assert not net.cell.bias.any() and not net.head.bias.any()
