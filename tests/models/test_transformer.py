import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.models.transformer import Transformer


def test_with_copied_weights_it_is_gpt2():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=37, n_positions=32, n_embd=48, n_layer=3, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    peer = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    t = peer.transformer

    def ours(net):
        leaves = [net.embedding, net.position_table, net.norm.weight, net.norm.bias]
        for b in net.blocks:
            leaves += [b.norm1.weight, b.norm1.bias, b.norm2.weight, b.norm2.bias]
            for layer in (b.attention.project, b.attention.out, b.up, b.down):
                leaves += [layer.weight, layer.bias]
        return leaves

    theirs = [t.wte.weight, t.wpe.weight, t.ln_f.weight, t.ln_f.bias]
    for h in t.h:
        theirs += [h.ln_1.weight, h.ln_1.bias, h.ln_2.weight, h.ln_2.bias]
        for layer in (h.attn.c_attn, h.attn.c_proj, h.mlp.c_fc, h.mlp.c_proj):
            theirs += [layer.weight.T, layer.bias]
    net = Transformer(37, 48, layers=3, heads=4, positions="learned", max_time=32, key=jax.random.key(0))
    net = eqx.tree_at(ours, net, [jnp.asarray(p.detach().numpy()) for p in theirs])
    tokens = np.random.default_rng(0).integers(0, 37, (5, 20))
    with torch.no_grad():
        expected = peer(torch.tensor(tokens)).logits.numpy()
    assert np.abs(net(jnp.asarray(tokens)) - expected).max() < 1e-4


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary", "none"])
def test_padding_is_not_seen_and_one_hot_rows_are_tokens(positions):
    net = Transformer(5, 16, 3, positions=positions, causal=False, max_time=12, key=jax.random.key(0))
    tokens = jnp.array([[1, 2, 3, 4], [4, 3, 0, 0]])
    padded = jnp.pad(tokens, ((0, 0), (0, 3)))
    present = jnp.arange(7) < 4
    expected = net(tokens)
    np.testing.assert_allclose(net(padded, jnp.tile(present, (2, 1)))[:, :4], expected, atol=1e-5)
    np.testing.assert_allclose(net(jax.nn.one_hot(tokens, 5)), expected, atol=1e-5)
    np.testing.assert_allclose(net(tokens[1]), expected[1], atol=1e-5)


def test_causal_attention_does_not_look_ahead():
    net = Transformer(5, 16, 3, key=jax.random.key(0))
    a, b = net(jnp.array([1, 2, 3, 4])), net(jnp.array([1, 2, 0, 0]))
    np.testing.assert_allclose(a[:2], b[:2], atol=1e-6)
    assert np.abs(a[2:] - b[2:]).max() > 1e-3


def test_rotary_positions_are_relative_and_the_others_are_not():
    tokens = jnp.array([1, 2, 3, 4])
    for positions, moves in (("rotary", False), ("none", False), ("sinusoidal", True), ("learned", True)):
        net = Transformer(5, 16, 3, positions=positions, max_time=64, key=jax.random.key(0))
        change = np.abs(net(tokens, key=jax.random.key(3)) - net(tokens)).max()
        assert (change > 1e-3) == moves, positions


def test_without_positions_an_encoder_reads_a_set():
    net = Transformer(5, 16, 3, positions="none", causal=False, key=jax.random.key(0))
    order = jnp.array([2, 0, 3, 1])
    tokens = jnp.array([1, 2, 3, 4])
    np.testing.assert_allclose(net(tokens[order]), net(tokens)[order], atol=1e-5)


def test_trace_and_length_scaled_temperature():
    plain = Transformer(5, 16, 3, causal=False, key=jax.random.key(0))
    scaled = Transformer(5, 16, 3, causal=False, trained_time=4, key=jax.random.key(0))
    four, eight = jnp.array([1, 2, 3, 4]), jnp.array([1, 2, 3, 4, 1, 2, 3, 4])
    np.testing.assert_allclose(plain(four), scaled(four), atol=1e-5)  # log 4 / log 4
    outputs, trace = plain.trace(eight)
    assert trace.attention.shape == (2, 4, 8, 8) and trace.residual.shape == (3, 8, 16) and outputs.shape == (8, 3)
    np.testing.assert_allclose(trace.attention.sum(-1), 1, atol=1e-5)
    first, sharper = trace.attention[0], scaled.trace(eight)[1].attention[0]
    expected = first**1.5 / (first**1.5).sum(-1, keepdims=True)  # log 8 / log 4 = 1.5
    np.testing.assert_allclose(sharper, expected, atol=1e-5)


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="width takes a multiple of 8"):
        Transformer(5, 12, 3, positions="rotary", key=jax.random.key(0))
    with pytest.raises(UserError, match="max_time takes"):
        Transformer(5, 16, 3, positions="learned", max_time=3, key=jax.random.key(0))(jnp.zeros(4, int))
