import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.models.recurrent import GRU, LSTM, RNN, StackRNN, TapeRNN, update_stack, update_tape


def test_one_hot_actions_make_a_discrete_stack():
    rng = np.random.default_rng(0)
    stack, cells = jnp.zeros((12, 2)), []
    for step in range(60):
        action = int(rng.integers(3)) if len(cells) < 12 else 1
        pushed = jnp.array([step + 1.0, -step])
        stack = update_stack(stack, jnp.eye(3)[action], pushed)
        if action == 0:
            cells.insert(0, np.asarray(pushed))
        elif action == 1:
            cells = cells[1:]
        expected = np.zeros((12, 2))
        expected[: len(cells)] = np.array(cells).reshape(-1, 2)
        np.testing.assert_array_equal(stack, expected)


def test_a_mixture_of_actions_is_the_mixture_of_stacks():
    stack, pushed = jax.random.normal(jax.random.key(0), (5, 3)), jnp.ones(3)
    weights = jnp.array([0.2, 0.5, 0.3])
    pure = jnp.stack([update_stack(stack, a, pushed) for a in jnp.eye(3)])
    np.testing.assert_allclose(update_stack(stack, weights, pushed), jnp.einsum("a,adc->dc", weights, pure), atol=1e-6)


def test_one_hot_moves_make_a_turing_machines_tape():
    rng = np.random.default_rng(1)
    size, jump = 7, 3
    tape, cells, head = jnp.zeros((size, 1)), [0.0] * size, 0
    for step in range(60):
        action = int(rng.integers(5))
        tape = update_tape(tape, jnp.eye(5)[action], jnp.array([step + 1.0]), jnp.array(jump))
        cells[head] = step + 1.0
        head = (head + [0, 1, -1, jump, -jump][action]) % size
        np.testing.assert_array_equal(tape[:, 0], [cells[(head + i) % size] for i in range(size)])


@pytest.mark.parametrize("make", [RNN, LSTM, GRU, StackRNN, TapeRNN])
def test_batches_are_single_sequences_and_nothing_looks_ahead(make):
    net = make(3, 6, 2, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (4, 9, 3))
    whole = net(x, None, jnp.array([1, 2, 3, 4]))
    for i in range(4):
        np.testing.assert_allclose(whole[i], net(x[i], None, jnp.array(i + 1)), atol=1e-6)
    changed = net(x.at[:, 5:].set(7.0), None, jnp.array([1, 2, 3, 4]))
    np.testing.assert_allclose(changed[:, :5], whole[:, :5], atol=1e-6)
    assert np.abs(changed[:, 5:] - whole[:, 5:]).max() > 1e-3


def test_lstm_is_pytorchs():
    torch = pytest.importorskip("torch")
    net = LSTM(3, 5, 2, key=jax.random.key(0))
    peer = torch.nn.LSTM(3, 5, batch_first=True)
    with torch.no_grad():  # both keep the gates in the order i, f, g, o
        peer.weight_ih_l0.copy_(torch.tensor(np.asarray(net.cell.weight_ih)))
        peer.weight_hh_l0.copy_(torch.tensor(np.asarray(net.cell.weight_hh)))
        peer.bias_ih_l0.copy_(torch.tensor(np.asarray(net.cell.bias)))
        peer.bias_hh_l0.zero_()
        x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
        hidden = np.maximum(peer(torch.tensor(x))[0].numpy(), 0)
    expected = hidden @ np.asarray(net.head.weight).T + np.asarray(net.head.bias)
    np.testing.assert_allclose(net(jnp.asarray(x)), expected, atol=1e-5)
