"""Sentence embeddings: WordLlama's table of token vectors, averaged, with weights that a package carries.

The model (Miller, WordLlama, 2024: token embeddings of language models, trained further with a contrastive loss so
that their mean stands for a sentence) costs some ten microseconds a sentence and needs no deep-learning framework.
On the tuning half of `benchmarks.retrieval` search with it is as good as with all-MiniLM-L6-v2, which costs a thousand
times as much (docs/atlas.md has the comparison). Nothing is downloaded: the files come with the extra `unseen[atlas]`,
are found without importing that package, and are used only if they are, byte for byte, those that were examined.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unseen.lab.errors import UserError

NAME = "wordllama-l2-supercat-256"
WIDTH = 256
PACKAGE = "wordllama"
TABLE = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
SHA256 = {  # of wordllama 0.4.0.post1
    TABLE: "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
    TOKENIZER: "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
}
EXTRA = "pip install 'unseen[atlas]'"


def folder() -> Path | None:
    """Where the weights are, None if they or the package `tokenizers` are not installed."""
    found = importlib.util.find_spec(PACKAGE)  # of a top-level package: this does not import it
    if found is None or importlib.util.find_spec("tokenizers") is None:
        return None
    places = (Path(place) for place in found.submodule_search_locations or ())
    return next((place for place in places if all((place / file).is_file() for file in SHA256)), None)


@functools.lru_cache(maxsize=1)
def embedder() -> Embedder | None:
    """The model, read and checked once a process; None if it is not installed.

    Raises:
        UserError: if a file is not the one that was examined.
    """
    found = folder()
    return None if found is None else Embedder.read(found)


@dataclasses.dataclass(frozen=True)
class Embedder:
    """The model.

    Attributes:
        tokens: text to token ids, a `tokenizers.Tokenizer`.
        table: a vector for each token, `[32000, 256]` float16, mapped from the file.
    """

    tokens: Any
    table: np.ndarray

    @classmethod
    def read(cls, where: Path) -> Embedder:
        """The model from the folder of its package.

        Raises:
            UserError: if a file is not the one that was examined.
        """
        for file, expected in SHA256.items():
            with (where / file).open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() != expected:
                    raise UserError(f"{where / file} is not the file of {NAME} that was examined: {EXTRA}.")
        from tokenizers import Tokenizer

        tokens = Tokenizer.from_file(str(where / TOKENIZER))
        tokens.no_padding()
        tokens.no_truncation()
        tokens.encode_special_tokens = True  # "</s>" in a text is text
        return cls(tokens, _table(where / TABLE))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of unit length, `[texts, 256]` float32; zero for a text without a token."""
        found = np.zeros((len(texts), WIDTH), np.float32)
        for row, text in zip(found, texts, strict=True):
            ids = self.tokens.encode(text, add_special_tokens=False).ids
            if ids:
                row[:] = self.table[ids].mean(0, dtype=np.float32)
        return _unit(found)

    def is_word(self, word: str) -> bool:
        """Whether the vocabulary has this word whole, so that it is unlikely to be a slip of the keyboard."""
        return bool(word) and self.tokens.token_to_id(f"\u2581{word}") is not None

    def papers(self, papers: Sequence[Sequence[str]]) -> np.ndarray:
        """Embeddings of papers, `[papers, 256]` float32: each the mean direction of its parts that are not empty.

        So a title weighs as much as a summary of ten times its length: that finds better than the mean over all words
        (`benchmarks.retrieval`).
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


def _table(file: Path) -> np.ndarray:
    """The one array of a safetensors file, mapped: a header in JSON, then the numbers."""
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    size = int.from_bytes(mapped[:8], "little")
    (entry,) = (value for name, value in json.loads(mapped[8 : 8 + size]).items() if name != "__metadata__")
    start, end = entry["data_offsets"]
    return np.frombuffer(mapped, np.float16, (end - start) // 2, 8 + size + start).reshape(entry["shape"])
