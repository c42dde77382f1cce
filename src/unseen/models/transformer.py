"""One small transformer, encoder or decoder, with switchable positions."""

from __future__ import annotations

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.lab import UserError

Positions = Literal["learned", "sinusoidal", "rotary", "none"]


class Trace(NamedTuple):
    """What a transformer did inside.

    Attributes:
        attention: weights of every layer and head, from queries to keys.
        residual: the residual stream before the first block and after each block.
    """

    attention: Float[Array, "layers *batch heads time time"]
    residual: Float[Array, "layers_and_one *batch time width"]


def sinusoids(position: Float[Array, " time"], width: int) -> Float[Array, "time width"]:
    """Sines, then cosines, of the positions at frequencies 10000^(-2i/width) (Vaswani et al., 2017, section 3.5)."""
    frequency = 10_000.0 ** (-jnp.arange(0, width, 2) / width)
    angle = position[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)[:, :width]


def rotate(
    x: Float[Array, "*batch heads time size"], position: Float[Array, " time"]
) -> Float[Array, "*batch heads time size"]:
    """Rotary positions (Su et al., 2021, equation 34): dimension i is turned against dimension i + size / 2."""
    wave = sinusoids(position, x.shape[-1])
    sine, cosine = jnp.split(wave, 2, axis=-1)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cosine - b * sine, a * sine + b * cosine], axis=-1)


def _linear(layer: eqx.nn.Linear, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
    """The layer on every vector, as one flat matrix product: on a CPU its gradient is more than twice as fast as
    that of a product with several batch axes."""
    flat = x.reshape(-1, x.shape[-1]) @ layer.weight.T
    if layer.bias is not None:
        flat = flat + layer.bias
    return flat.reshape(*x.shape[:-1], -1)


def _normalise(norm: eqx.nn.LayerNorm, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
    centred = x - x.mean(-1, keepdims=True)
    unit = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + norm.eps)
    return unit * norm.weight + norm.bias


class Attention(eqx.Module):
    """Multi-head attention.

    Attributes:
        project: queries, keys and values of all heads, in this order.
        out: mixes the heads.
    """

    project: eqx.nn.Linear
    out: eqx.nn.Linear
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, key: PRNGKeyArray):
        """`heads` heads of width / heads numbers each."""
        project, out = jax.random.split(key)
        self.project = eqx.nn.Linear(width, 3 * width, key=project)
        self.out = eqx.nn.Linear(width, width, key=out)
        self.heads = heads

    def __call__(
        self,
        x: Float[Array, "*batch time width"],
        allowed: Bool[Array, "*#batch #time time"],
        position: Float[Array, " time"] | None,
        sharpness: Float[Array, "*#batch #time"] | None,
    ) -> tuple[Float[Array, "*batch time width"], Float[Array, "*batch heads time time"]]:
        """New vectors and attention weights.

        Args:
            allowed: which keys a query may see.
            position: where the positions are rotary.
            sharpness: inverse softmax temperature of each query; None for 1.
        """
        projected = _linear(self.project, x).reshape(*x.shape[:-1], 3, self.heads, -1)
        query, key, value = jnp.moveaxis(jnp.moveaxis(projected, -3, 0), -3, -2)
        if position is not None:
            query, key = rotate(query, position), rotate(key, position)
        scores = jnp.einsum("...qd,...kd->...qk", query, key) / jnp.sqrt(query.shape[-1])
        if sharpness is not None:
            scores = scores * sharpness[..., None, :, None]
        weights = jax.nn.softmax(jnp.where(allowed[..., None, :, :], scores, jnp.finfo(scores.dtype).min), axis=-1)
        mixed = jnp.einsum("...hqk,...hkd->...qhd", weights, value).reshape(x.shape)
        return _linear(self.out, mixed), weights


class Block(eqx.Module):
    """Attention, then two layers with a GELU (tanh form) in between, each on the normalised stream."""

    norm1: eqx.nn.LayerNorm
    attention: Attention
    norm2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width: int, heads: int, *, key: PRNGKeyArray):
        """The hidden layer has 4 x width units."""
        attention, up, down = jax.random.split(key, 3)
        self.norm1 = eqx.nn.LayerNorm(width)
        self.attention = Attention(width, heads, key=attention)
        self.norm2 = eqx.nn.LayerNorm(width)
        self.up = eqx.nn.Linear(width, 4 * width, key=up)
        self.down = eqx.nn.Linear(4 * width, width, key=down)

    def __call__(
        self,
        x: Float[Array, "*batch time width"],
        allowed: Bool[Array, "*#batch #time time"],
        position: Float[Array, " time"] | None,
        sharpness: Float[Array, "*#batch #time"] | None,
    ) -> tuple[Float[Array, "*batch time width"], Float[Array, "*batch heads time time"]]:
        """The stream after the block, and the attention weights; arguments as for `Attention`."""
        mixed, weights = self.attention(_normalise(self.norm1, x), allowed, position, sharpness)
        x = x + mixed
        hidden = jax.nn.gelu(_linear(self.up, _normalise(self.norm2, x)), approximate=True)
        return x + _linear(self.down, hidden), weights


class Transformer(eqx.Module):
    """Pre-norm transformer over one sequence of tokens or a batch of them.

    With causal attention, learned positions and a tied head it is GPT-2 (Radford et al., 2019) to the last
    digit but rounding, which an optional test checks against the `transformers` package.

    Attributes:
        embedding: one row a token.
        position_table: one row a position where positions are learned, else None.
        blocks, norm: the layers, and the last normalisation.
        head: read-out, None if tied to the embedding.
        heads: attention heads a layer.
        positions: "learned" and "sinusoidal" are added to the embedding, "rotary" turns queries and keys.
        max_time: length of the table of learned positions, and the range of random offsets.
        causal: whether a position sees only itself and what comes before.
        trained_time: if set, scores are multiplied by log(visible keys) / log(trained_time) (Chiang and Cholak,
            2022, section 5.3): a softmax temperature that falls with length.
    """

    embedding: Float[Array, "tokens width"]
    position_table: Float[Array, "max_time width"] | None
    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear | None
    positions: Positions = eqx.field(static=True)
    max_time: int = eqx.field(static=True)
    causal: bool = eqx.field(static=True)
    trained_time: int | None = eqx.field(static=True)

    def __init__(
        self,
        tokens: int,
        width: int = 64,
        outputs: int | None = None,
        *,
        key: PRNGKeyArray,
        layers: int = 2,
        heads: int = 4,
        positions: Positions = "sinusoidal",
        max_time: int = 1024,
        causal: bool = True,
        trained_time: int | None = None,
    ):
        """A transformer over `tokens` tokens with `outputs` outputs a position; None ties the head to the
        embedding.

        The embedding starts with unit variance, or 1 / width where it is also the head.

        Raises:
            UserError: if the width is no multiple of the heads (of twice the heads with rotary positions).
        """
        unit = 2 * heads if positions == "rotary" else heads
        if width % unit:
            raise UserError(
                f"width takes a multiple of {unit} with {heads} heads and {positions} positions, got {width}."
            )
        embedding, table, head, *blocks = jax.random.split(key, 3 + layers)
        scale = 1.0 if outputs is not None else width**-0.5
        self.embedding = scale * jax.random.normal(embedding, (tokens, width))
        learned = positions == "learned"
        self.position_table = scale * jax.random.normal(table, (max_time, width)) if learned else None
        self.blocks = tuple(Block(width, heads, key=k) for k in blocks)
        self.norm = eqx.nn.LayerNorm(width)
        self.head = None if outputs is None else eqx.nn.Linear(width, outputs, key=head)
        self.positions = positions
        self.max_time = max_time
        self.causal = causal
        self.trained_time = trained_time

    def __call__(
        self,
        inputs: Int[Array, "*batch time"] | Float[Array, "*batch time tokens"],
        present: Bool[Array, "*batch time"] | None = None,
        input_length: Int[Array, "*batch"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*batch time outputs"]:
        """Outputs at every position.

        Args:
            inputs: token numbers, or one-hot rows (faster to differentiate on a CPU for small alphabets).
            present: False at padding, which no position sees.
            input_length: not read; the recurrent models of this package take it.
            key: if given, all positions are shifted by one random offset, so that the positions of long
                sequences come up in training (Ruoss et al., 2023, with consecutive positions).
        """
        return self.trace(inputs, present, key=key)[0]

    def trace(
        self,
        inputs: Int[Array, "*batch time"] | Float[Array, "*batch time tokens"],
        present: Bool[Array, "*batch time"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch time outputs"], Trace]:
        """Outputs together with attention weights and residual streams; arguments as for a call."""
        tokens = jnp.issubdtype(inputs.dtype, jnp.integer)
        time = inputs.shape[-1 if tokens else -2]
        if self.position_table is not None and time > self.max_time:
            raise UserError(f"max_time takes at least the sequence's length {time}, got {self.max_time}.")
        x = self.embedding[inputs] if tokens else inputs @ self.embedding
        offset = 0 if key is None else jax.random.randint(key, (), 0, max(self.max_time - time, 0) + 1)
        position = jnp.arange(time) + offset
        if self.position_table is not None:
            x = x + self.position_table[position]
        elif self.positions == "sinusoidal":
            x = x + sinusoids(position.astype(x.dtype), x.shape[-1])
        turned = position.astype(x.dtype) if self.positions == "rotary" else None

        allowed = jnp.ones((1, time), bool) if present is None else present[..., None, :]
        if self.causal:
            allowed = allowed & jnp.tril(jnp.ones((time, time), bool))
        sharpness = None
        if self.trained_time is not None:
            sharpness = jnp.log(jnp.maximum(allowed.sum(-1), 1)) / jnp.log(self.trained_time)

        residual, attention = [x], []
        for block in self.blocks:
            x, weights = block(x, allowed, turned, sharpness)
            residual.append(x)
            attention.append(weights)
        x = _normalise(self.norm, x)
        outputs = x @ self.embedding.T if self.head is None else _linear(self.head, x)
        return outputs, Trace(jnp.stack(attention), jnp.stack(residual))
