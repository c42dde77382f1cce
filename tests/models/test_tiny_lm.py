"""TinyLM is a Llama."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.models import TinyLM


def model(size="nano", tokens=97, **kwargs):
    return TinyLM(tokens, **TinyLM.SIZES[size], key=jax.random.key(0), **kwargs)


def test_named_sizes_have_their_weights():
    counts = {size: TinyLM.count(512, **settings) for size, settings in TinyLM.SIZES.items()}
    for size, millions in dict(nano=0.08, micro=0.18, small=0.86, base=4.9).items():
        assert abs(counts[size] / 1e6 / millions - 1) < 0.03
    leaves = jax.tree.leaves(eqx.filter(model(tokens=512), eqx.is_inexact_array))
    assert sum(x.size for x in leaves) == counts["nano"]


@pytest.mark.parametrize("size", ["nano", "micro"])
def test_logits_and_hidden_states_are_those_of_transformers(size):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    mine = model(size)
    mine = eqx.tree_at(lambda m: m.norm, mine, mine.norm * jnp.linspace(0.5, 2, mine.norm.size))
    settings = TinyLM.SIZES[size]
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=settings["width"],
        intermediate_size=mine.layers[0].gate.shape[0],
        num_hidden_layers=settings["layers"],
        num_attention_heads=settings["heads"],
        rms_norm_eps=mine.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    weights = {name: torch.from_numpy(np.array(x)) for name, x in mine.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected and missing in ([], ["lm_head.weight"])
    theirs.tie_weights()
    tokens = np.random.default_rng(0).integers(97, size=(3, 40))
    with torch.no_grad():
        found = theirs(torch.from_numpy(tokens), output_hidden_states=True)
    np.testing.assert_allclose(mine(jnp.asarray(tokens)), found.logits, atol=1e-4)
    for ours, other in zip(mine.streams(jnp.asarray(tokens)), found.hidden_states, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-4)
    back = TinyLM.from_state_dict(
        {k: v.numpy() for k, v in theirs.state_dict().items()}, settings["heads"], mine.epsilon
    )
    np.testing.assert_array_equal(back(jnp.asarray(tokens)), mine(jnp.asarray(tokens)))


def test_later_tokens_are_not_seen():
    lm, tokens = model(), jax.random.randint(jax.random.key(1), (20,), 0, 97)
    changed = tokens.at[12].set((tokens[12] + 1) % 97)
    before, after = lm(tokens), lm(changed)
    np.testing.assert_array_equal(before[:12], after[:12])
    assert (before[12:] != after[12:]).any(-1).all()


def test_nll_is_minus_the_log_probability():
    lm, windows = model(), jax.random.randint(jax.random.key(1), (4, 9), 0, 97)
    log_p = jax.nn.log_softmax(lm(windows[:, :-1]))
    expected = -jnp.take_along_axis(log_p, windows[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(lm.nll(windows), expected, rtol=1e-5)


def test_batches_are_sequences_side_by_side():
    lm, tokens = model(), jax.random.randint(jax.random.key(1), (2, 3, 7), 0, 97)
    np.testing.assert_allclose(lm(tokens)[1, 2], lm(tokens[1, 2]), atol=1e-5)


@pytest.mark.parametrize("bad, named", [(dict(width=10, heads=2), "width"), (dict(layers=0), "layers")])
def test_bad_sizes_are_named(bad, named):
    with pytest.raises(UserError, match=named):
        TinyLM(10, **bad, key=jax.random.key(0))


def test_a_missing_weight_is_named():
    weights = model().state_dict()
    del weights["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj"):
        TinyLM.from_state_dict(weights, 2)
    with pytest.raises(UserError, match="embed_tokens"):
        TinyLM.from_state_dict({}, 2)
