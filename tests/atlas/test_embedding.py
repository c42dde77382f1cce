"""The embedding model beside its peer, and its tokenizer beside the published one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.atlas import catalogue, embedding, index
from unseen.lab.errors import UserError

where = embedding.folder()
pytestmark = pytest.mark.skipif(where is None, reason="needs the extra atlas")
TEXTS = [
    "reward models under shift",
    "naïve Ünï 漢字 don't stop... 🙂 C++ x_1 don’t",
    *(entry.summary for entry in list(catalogue.papers().values())[:3]),
    "word " * 400,
]


@pytest.fixture(scope="module")
def peer():
    transformers = pytest.importorskip("transformers")
    return transformers.BertTokenizerFast.from_pretrained(str(where)), transformers.BertModel.from_pretrained(
        str(where)
    ).eval()


def test_agrees_with_transformers(peer):
    torch = pytest.importorskip("torch")
    tokenizer, model = peer
    mine = embedding.embedder().encode(TEXTS)
    for text, vector in zip(TEXTS, mine, strict=True):
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=embedding.MOST_TOKENS)
        with torch.no_grad():
            pooled = model(**batch).last_hidden_state.mean(1)
        assert np.allclose(torch.nn.functional.normalize(pooled)[0].numpy(), vector, atol=2e-6)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60).filter(lambda s: "[" not in s))
def test_tokens_are_those_of_the_published_tokenizer(peer, text):
    text = "".join(c for c in text if c.isprintable())
    assert embedding.embedder().tokens(text) == peer[0](text)["input_ids"]


def test_names_of_special_tokens_are_text():
    tokens = embedding.embedder().tokens
    assert len(tokens("[SEP] [MASK]")) > 6


def test_vectors_have_unit_length_and_batches_agree():
    model = embedding.embedder()
    together = model.encode(TEXTS)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together[1], model.encode(TEXTS[1:2])[0], atol=1e-6)
    assert model.encode([""]).shape == (1, embedding.WIDTH)


def test_packed_embeddings_are_those_of_the_catalogue():
    known = index.packed()
    entries = list(catalogue.papers().values())
    said = [index.entry_document(entry).embedded for entry in entries]
    current = [s for s in said if index.vector_digest(s) in known]
    assert len(current) > 0.8 * len(entries)  # entries that were amended since are computed when indexed
    for text in current[::70]:
        assert known[index.vector_digest(text)] @ embedding.embedder().encode([text])[0] > 0.999


def test_other_weights_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "vocab.txt").write_text("[UNK]\n")
    with pytest.raises(UserError, match="pip install"):
        embedding.Embedder.read(tmp_path)
    with pytest.raises(UserError, match="not all-MiniLM"):
        embedding.check(tmp_path)
