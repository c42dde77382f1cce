"""A Hugging Face checkpoint on disk, made here, read by `checkpoint_report` and `unseen collapse`."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen import cli
from unseen.lab import UserError
from unseen.measures import StreamingClassMoments, collapse_report, decisions_agree
from unseen.measures.checkpoint import checkpoint_report
from unseen.measures.spectra import stable_rank
from unseen.models import TinyLM

torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
WORDS = ["<unk>", *(f"w{i}" for i in range(30))]
LM = TinyLM(len(WORDS), 16, 2, 2, key=jax.random.key(0))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    import tokenizers

    folder = tmp_path_factory.mktemp("checkpoint")
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=LM.layers[0].gate.shape[0],
        num_hidden_layers=2,
        num_attention_heads=2,
        rms_norm_eps=LM.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        max_position_embeddings=32,
    )
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in LM.state_dict().items()}, strict=False)
    model.tie_weights()
    model.save_pretrained(folder)
    words = tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    tokens = np.random.default_rng(0).choice(np.arange(1, 31), size=3_300, p=np.arange(1, 31) / 465)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(WORDS[t] for t in tokens))
    return path, tokens


def test_report_is_our_own_model_measured_by_hand(checkpoint, text):
    path, tokens = text
    found = checkpoint_report(checkpoint, path)
    windows = jnp.asarray(tokens.reshape(100, 33))
    features = LM.hidden(windows[:, :-1])
    seen = StreamingClassMoments.empty(31, 16).update(features[:80].reshape(-1, 16), windows[:80, 1:].reshape(-1))
    expected = collapse_report(seen, LM.embedding, minimum=20)
    for name in expected._fields:
        np.testing.assert_allclose(getattr(found.text.report, name), getattr(expected, name), rtol=2e-3, err_msg=name)
    kept = seen.count >= 20
    mine = kept[windows[80:, 1:]]
    agree = decisions_agree(features[80:], seen.mean, LM.embedding, kept)
    assert found.text.agreement == pytest.approx(float((mine & agree).sum() / mine.sum()), abs=2e-3)
    assert found.text.loss == pytest.approx(float(LM.nll(windows[80:]).mean()), rel=1e-4)
    assert found.text.tokens == 3_200 and found.kind == "llama"


def test_every_matrix_comes_once(checkpoint):
    found = checkpoint_report(checkpoint)
    assert found.text is None
    assert found.parameters == TinyLM.count(31, 16, 2, 2)
    ours = {k: v for k, v in LM.state_dict().items() if v.ndim == 2}
    assert {m.name for m in found.matrices} == set(ours)
    for matrix in found.matrices:
        assert matrix.shape == ours[matrix.name].shape
        assert matrix.stable_rank == pytest.approx(stable_rank(ours[matrix.name]), rel=1e-4)


def test_command_prints_the_same_as_a_table_and_as_json(checkpoint, text, capsys):
    path, _ = text
    assert cli.main(["collapse", str(checkpoint), "--text", str(path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = checkpoint_report(checkpoint, path)
    assert printed["text"]["report"]["variability"] == pytest.approx(float(found.text.report.variability))
    assert printed["matrices"][0]["stable_rank"] == pytest.approx(found.matrices[0].stable_rank)
    assert cli.main(["collapse", str(checkpoint), "--text", str(path)]) == 0
    table = capsys.readouterr().out
    assert f"{found.text.agreement:.3g}" in table and "down_proj" in table


def refuse(capsys, *argv):
    assert cli.main(["collapse", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_mistakes_get_one_sentence(checkpoint, text, tmp_path, capsys, monkeypatch):
    _ = text
    assert "config.json" in refuse(capsys, tmp_path)
    assert "config.json" in refuse(capsys, tmp_path / "nowhere")
    assert "a checkpoint" in refuse(capsys)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "safetensors" in refuse(capsys, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    assert "causal language model" in refuse(capsys, tmp_path)
    assert "text takes" in refuse(capsys, checkpoint, "--text", tmp_path / "missing.txt")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00\x80")
    assert "UTF-8" in refuse(capsys, checkpoint, "--text", tmp_path / "bytes")
    (tmp_path / "short").write_text("w1 w2")
    assert "at least" in refuse(capsys, checkpoint, "--text", tmp_path / "short")
    (tmp_path / "varied").write_text(" ".join(f"w{i % 30}" for i in range(170)))
    assert "occur 20 times" in refuse(capsys, checkpoint, "--text", tmp_path / "varied")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert "pip install 'unseen[hf]'" in refuse(capsys, checkpoint)


def test_without_a_tokenizer_spectra_remain(checkpoint, text, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    assert checkpoint_report(tmp_path).matrices
    with pytest.raises(UserError, match="tokenizer"):
        checkpoint_report(tmp_path, text[0])


def test_a_matrix_too_small_for_a_law_has_none(checkpoint):
    laws = [m.law.alpha for m in checkpoint_report(checkpoint).matrices]
    assert any(math.isfinite(a) for a in laws)
