"""The embedding model beside what is published of it, and what becomes of other files."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.lab import UserError
from unseen.worlds import sentence_embedding as embedding

where = embedding.folder()
pytestmark = pytest.mark.skipif(where is None, reason="needs the extra atlas")
TEXTS = [
    "reward models under shift",
    "naïve Ünï 漢字 don't stop... 🙂 C++ x_1 don’t",
    "It asks for `grokking`: the weights' norm (L2), 3 x 10^-4; p < 0.05 -- and what (else) remains to be said?",
    "word " * 400,
]


@pytest.fixture(scope="module")
def model():
    return embedding.embedder()


def test_words_are_cut_as_transformers_cuts_them(model):
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    peer = transformers.BertTokenizer(str(embedding.WORD_PIECES))
    for text in TEXTS:
        assert model.tokens.encode(text).ids == peer(text, add_special_tokens=False)["input_ids"]


def test_similarities_are_those_that_are_published(model):
    # The example on the model's card at sentence-transformers, whose similarities are printed to four digits.
    said = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    found = model.encode(said)
    expected = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(found @ found.T, expected, atol=0.03)  # eight bits


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_a_vector_that_does_not_depend_on_its_neighbours(said):
    model = embedding.embedder()
    alone = model.encode([said])[0]
    assert np.isclose(np.linalg.norm(alone), 1, atol=1e-5) or not alone.any()
    np.testing.assert_array_equal(model.encode(["another", said])[1], alone)


def test_names_of_special_tokens_are_text(model):
    assert len(model.tokens.encode("[SEP][CLS]").ids) > 2


def test_a_text_without_a_word_is_zero_and_what_is_beyond_the_longest_is_not_read(model):
    assert not model.encode([""])[0].any()
    long, longer = model.encode(["word " * 400, "word " * 400 + "another ending"])
    np.testing.assert_array_equal(long, longer)


def test_a_paper_is_the_mean_direction_of_its_parts(model):
    title, body = model.encode(TEXTS[:2])
    found = model.papers([(TEXTS[0], "", TEXTS[1]), (TEXTS[0], " ", ""), ("", "", "")])
    np.testing.assert_allclose(found[0], (title + body) / np.linalg.norm(title + body), atol=1e-6)
    np.testing.assert_allclose(found[1], title, atol=1e-6)
    assert not found[2].any()


def test_words_are_told_from_slips(model):
    assert all(map(model.is_word, ("reward", "wisdom", "language")))
    assert not any(map(model.is_word, ("rewrad", "genralization", "grokkin", "")))


def test_another_file_is_refused(tmp_path):
    shutil.copy(where / embedding.MODEL, tmp_path / embedding.MODEL)
    with (tmp_path / embedding.MODEL).open("r+b") as opened:
        opened.seek(-3, 2)
        opened.write(b"x")
    with pytest.raises(UserError, match="is not the file"):
        embedding.Embedder.read(tmp_path)
