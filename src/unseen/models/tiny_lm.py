"""A small decoder-only language model in the Llama layout."""

from __future__ import annotations

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import UserError
from unseen.models.transformer import rotate


class DecoderLayer(eqx.Module):
    """Weights of one layer; a matrix maps the last axis of what it reads and has the shape (out, in)."""

    attention_norm: Float[Array, " width"]
    query: Float[Array, "width width"]
    key: Float[Array, "width width"]
    value: Float[Array, "width width"]
    output: Float[Array, "width width"]
    mlp_norm: Float[Array, " width"]
    gate: Float[Array, "hidden width"]
    up: Float[Array, "hidden width"]
    down: Float[Array, "width hidden"]


class TinyLM(eqx.Module):
    """Llama (Touvron et al., 2023, section 2.2) in small: RMSNorm before attention and before the MLP, rotary
    positions with base 10,000, SwiGLU, the head tied to the embedding, no biases.

    The same numbers come out as from `transformers.LlamaForCausalLM` with the same weights, which a test checks;
    `state_dict` and `from_state_dict` speak its names. Named sizes: `TinyLM.SIZES`.

    Attributes:
        embedding: one row a token, also the classifier's.
        layers, norm: decoder layers and the last norm's weights.
        heads: attention heads a layer.
        epsilon: added to the mean square in every norm.
    """

    embedding: Float[Array, "tokens width"]
    layers: tuple[DecoderLayer, ...]
    norm: Float[Array, " width"]
    heads: int = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)

    def __init__(
        self,
        tokens: int,
        width: int = 48,
        layers: int = 2,
        heads: int = 2,
        *,
        hidden: int | None = None,
        epsilon: float = 1e-5,
        key: PRNGKeyArray,
    ):
        """Matrices start normal with variance 1 / inputs, those that write into the stream divided by twice the
        number of layers, the embedding with variance 1 / width.

        Args:
            hidden: units of the MLP; by default 8/3 of the width, rounded up to a multiple of 8.

        Raises:
            UserError: if the width is no multiple of twice the heads.
        """
        if width < 1 or heads < 1 or width % (2 * heads):
            raise UserError(f"width takes a multiple of {2 * heads} with {heads} heads, got {width}.")
        if layers < 1:
            raise UserError(f"layers takes a whole number from 1 on, got {layers}.")
        hidden = 8 * -(-width // 3) if hidden is None else hidden
        embedding, *keys = jax.random.split(key, 1 + layers)
        self.embedding = jax.random.normal(embedding, (tokens, width)) * width**-0.5
        self.layers = tuple(_layer(k, width, hidden, layers) for k in keys)
        self.norm = jnp.ones(width)
        self.heads = heads
        self.epsilon = epsilon

    SIZES = {
        "nano": dict(width=48, layers=2, heads=2),
        "micro": dict(width=64, layers=3, heads=4),
        "small": dict(width=128, layers=4, heads=4),
        "base": dict(width=256, layers=6, heads=8),
    }

    @classmethod
    def count(cls, tokens: int, width: int, layers: int, heads: int = 2) -> int:
        """Number of weights of a model of this size, without making it."""
        shape = jax.eval_shape(lambda key: cls(tokens, width, layers, heads, key=key), jax.random.key(0))
        return sum(x.size for x in jax.tree.leaves(shape))

    def hidden(self, tokens: Int[Array, "*batch time"]) -> Float[Array, "*batch time width"]:
        """Normalised last hidden states: what the classifier reads."""
        return self.streams(tokens)[-1]

    def streams(self, tokens: Int[Array, "*batch time"]) -> list[Float[Array, "*batch time width"]]:
        """The embeddings, the residual stream after each layer but the last, and the normalised last hidden
        states, as `output_hidden_states` of `transformers`."""
        x = self.embedding[tokens]
        position = jnp.arange(tokens.shape[-1], dtype=x.dtype)
        found = [x]
        for layer in self.layers:
            x = x + self._attend(layer, _rms(x, layer.attention_norm, self.epsilon), position)
            h = _rms(x, layer.mlp_norm, self.epsilon)
            x = x + _map(layer.down, jax.nn.silu(_map(layer.gate, h)) * _map(layer.up, h))
            found.append(x)
        return [*found[:-1], _rms(x, self.norm, self.epsilon)]

    def logits(self, hidden: Float[Array, "*batch width"]) -> Float[Array, "*batch tokens"]:
        """Scores of the next token from last hidden states."""
        return _map(self.embedding, hidden)

    def __call__(self, tokens: Int[Array, "*batch time"]) -> Float[Array, "*batch time tokens"]:
        """Scores of the next token at every position."""
        return self.logits(self.hidden(tokens))

    def loss(self, hidden: Float[Array, "*batch width"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
        """-log p of the targets, in nats, at last hidden states."""
        logits = self.logits(hidden)
        # A product instead of a gather: faster to differentiate on a CPU.
        chosen = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
        return jax.nn.logsumexp(logits, -1) - jnp.sum(logits * chosen, -1)

    def nll(self, windows: Int[Array, "*batch window"]) -> Float[Array, "*batch next"]:
        """-log p of every token of the windows but the first, given those before it, in nats."""
        return self.loss(self.hidden(windows[..., :-1]), windows[..., 1:])

    def _attend(
        self, layer: DecoderLayer, x: Float[Array, "*batch time width"], position: Float[Array, " time"]
    ) -> Float[Array, "*batch time width"]:
        time = x.shape[-2]
        heads = (*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        query, key, value = (
            jnp.moveaxis(_map(matrix, x).reshape(heads), -2, -3) for matrix in (layer.query, layer.key, layer.value)
        )
        query, key = rotate(query, position), rotate(key, position)
        scores = jnp.einsum("...qd,...kd->...qk", query, key) * query.shape[-1] ** -0.5
        seen = jnp.tril(jnp.ones((time, time), bool))
        weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(scores.dtype).min), axis=-1)
        mixed = jnp.moveaxis(jnp.einsum("...qk,...kd->...qd", weights, value), -3, -2)
        return _map(layer.output, mixed.reshape(x.shape))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Weights under the names of `transformers.LlamaForCausalLM` (tied head, so without `lm_head`)."""
        found = {"model.embed_tokens.weight": np.asarray(self.embedding), "model.norm.weight": np.asarray(self.norm)}
        for i, layer in enumerate(self.layers):
            found |= {f"model.layers.{i}.{theirs}.weight": np.asarray(getattr(layer, ours)) for ours, theirs in NAMES}
        return found

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, np.ndarray], heads: int, epsilon: float = 1e-5) -> TinyLM:
        """The model with the weights of a Llama whose head is tied and whose attention has no groups.

        Raises:
            UserError: if a weight is missing.
        """
        layers = max(1, len({name.split(".")[2] for name in weights if name.startswith("model.layers.")}))
        wanted = ["model.embed_tokens.weight", "model.norm.weight"]
        wanted += [f"model.layers.{i}.{theirs}.weight" for i in range(layers) for _, theirs in NAMES]
        missing = [name for name in wanted if name not in weights]
        if missing:
            raise UserError(f"A TinyLM takes the weights of a Llama; {missing[0]} is not among them.")
        width = weights["model.norm.weight"].shape[0]
        shape = jax.eval_shape(lambda key: cls(2, width, layers, heads, epsilon=epsilon, key=key), jax.random.key(0))
        of = [
            DecoderLayer(**{ours: jnp.asarray(weights[f"model.layers.{i}.{theirs}.weight"]) for ours, theirs in NAMES})
            for i in range(layers)
        ]
        return eqx.tree_at(
            lambda m: (m.embedding, m.layers, m.norm),
            shape,
            (jnp.asarray(weights[wanted[0]]), tuple(of), jnp.asarray(weights[wanted[1]])),
        )


NAMES = (
    ("attention_norm", "input_layernorm"),
    ("query", "self_attn.q_proj"),
    ("key", "self_attn.k_proj"),
    ("value", "self_attn.v_proj"),
    ("output", "self_attn.o_proj"),
    ("mlp_norm", "post_attention_layernorm"),
    ("gate", "mlp.gate_proj"),
    ("up", "mlp.up_proj"),
    ("down", "mlp.down_proj"),
)


def _layer(key: PRNGKeyArray, width: int, hidden: int, layers: int) -> DecoderLayer:
    shapes = [(width, width)] * 4 + [(hidden, width), (hidden, width), (width, hidden)]
    matrices = [
        jax.random.normal(k, shape) * shape[1] ** -0.5
        for k, shape in zip(jax.random.split(key, len(shapes)), shapes, strict=True)
    ]
    query, key_, value, output, gate, up, down = matrices
    small = (2 * layers) ** -0.5
    ones = jnp.ones(width)
    return DecoderLayer(ones, query, key_, value, small * output, ones, gate, up, small * down)


def _rms(x: Float[Array, "*batch width"], weight: Float[Array, " width"], epsilon: float) -> Float[Array, "*batch d"]:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + epsilon) * weight


def _map(matrix: Float[Array, "out inputs"], x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch out"]:
    """The matrix on every vector, as one flat product: faster to differentiate on a CPU than several batch axes."""
    return (x.reshape(-1, x.shape[-1]) @ matrix.T).reshape(*x.shape[:-1], matrix.shape[0])
