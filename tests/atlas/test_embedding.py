"""The embedding model beside the package that it comes from, and what becomes of other files."""

import logging
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.atlas import catalogue, embedding
from unseen.lab.errors import UserError

where = embedding.folder()
pytestmark = pytest.mark.skipif(where is None, reason="needs the extra atlas")
TEXTS = [
    "reward models under shift",
    "naïve Ünï 漢字 don't stop... 🙂 C++ x_1 don’t",
    *(entry.summary for entry in list(catalogue.papers().values())[:20]),
    "word " * 400,
]


@pytest.fixture(scope="module")
def peer():
    """The package's own code; it sets up logging when it is imported, which is undone."""
    handlers, level = logging.root.handlers[:], logging.root.level
    inference = pytest.importorskip("wordllama.inference", reason="needs the extra atlas")
    logging.root.handlers[:], logging.root.level = handlers, level
    model = embedding.embedder()
    return inference.WordLlamaInference(np.array(model.table), type(model.tokens).from_str(model.tokens.to_str()))


def test_agrees_with_its_package(peer):
    np.testing.assert_allclose(embedding.embedder().encode(TEXTS), peer.embed(TEXTS, norm=True), atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1, max_size=60).filter(lambda said: "<" not in said))
def test_any_text_agrees_with_its_package(peer, said):
    np.testing.assert_allclose(embedding.embedder().encode([said]), peer.embed([said], norm=True), atol=1e-5)


def test_names_of_special_tokens_are_text():
    assert len(embedding.embedder().tokens.encode("</s><unk>", add_special_tokens=False).ids) > 2


def test_a_text_without_a_token_is_zero_and_others_have_unit_length():
    vectors = embedding.embedder().encode(["", "a", *TEXTS])
    assert not vectors[0].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[1:], axis=1), 1, atol=1e-5)


def test_a_paper_is_the_mean_direction_of_its_parts():
    model = embedding.embedder()
    title, body = model.encode(TEXTS[:2])
    found = model.papers([(TEXTS[0], "", TEXTS[1]), (TEXTS[0], " ", ""), ("", "", "")])
    np.testing.assert_allclose(found[0], (title + body) / np.linalg.norm(title + body), atol=1e-6)
    np.testing.assert_allclose(found[1], title, atol=1e-6)
    assert not found[2].any()


def test_words_are_told_from_slips():
    model = embedding.embedder()
    assert all(map(model.is_word, ("reward", "wisdom", "language")))
    assert not any(map(model.is_word, ("rewrad", "genralization", "grokkin", "")))


@pytest.mark.parametrize("file", embedding.SHA256)
def test_other_files_are_refused(tmp_path, file):
    for name in embedding.SHA256:
        (tmp_path / name).parent.mkdir()
        shutil.copy(where / name, tmp_path / name)
    embedding.Embedder.read(tmp_path)
    with (tmp_path / file).open("r+b") as opened:
        opened.seek(-3, 2)
        opened.write(b"x")
    with pytest.raises(UserError, match=f"{file} is not the file"):
        embedding.Embedder.read(tmp_path)
