"""A dual encoder of images and captions, small enough to pretrain on a laptop."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import artifact
from unseen.models.feature_net import Dense, FeatureNet, PatchEmbedding
from unseen.models.transformer import Transformer
from unseen.worlds.clusters.shapes import CAPTION_LENGTH, VOCABULARY, Factors, ShapeScenes


class TinyCLIP(eqx.Module):
    """Images and captions as unit vectors of one space (Radford et al., 2021), for `ShapeScenes`.

    The image encoder embeds the 16 patches of a picture alike and mixes them by two dense layers (as a transformer
    over patches it would cost ten times as much and learn shapes later); the text encoder is a two-layer
    transformer whose outputs are averaged over the words. About 0.2 million parameters.

    Example:
        >>> model = TinyCLIP.pretrained(seed=0)
        >>> classes = model.zero_shot(scenes.prompts(key, "shape", 20))
        >>> model.encode_image(images) @ classes.T  # cosine of every image with every class

    Attributes:
        image: encoder of one image, with the embedding as its head.
        text: encoder of token sequences.
        log_scale: logarithm of the inverse temperature of the contrastive loss.
    """

    image: FeatureNet
    text: Transformer
    log_scale: Float[Array, ""]

    def __init__(
        self,
        *,
        key: PRNGKeyArray,
        resolution: int = 16,
        width: int = 64,
        embedding: int = 64,
        text_layers: int = 2,
        tokens: int = len(VOCABULARY),
    ):
        """Random weights; patches are a quarter of the picture's side.

        Raises:
            UserError: if the width is no multiple of 4 (attention heads).
        """
        a, b, c, d, e = jax.random.split(key, 5)
        patches = 16 * (width // 2)
        trunk = (
            PatchEmbedding(resolution, 3, resolution // 4, width // 2, key=a),
            Dense(patches, 2 * width, flatten=True, key=b),
            Dense(2 * width, 2 * width, key=c),
        )
        self.image = FeatureNet(trunk, (eqx.nn.Linear(2 * width, embedding, key=d),))
        self.text = Transformer(
            tokens,
            width,
            embedding,
            layers=text_layers,
            positions="learned",
            max_time=CAPTION_LENGTH,
            causal=False,
            key=e,
        )
        self.log_scale = jnp.log(jnp.asarray(10.0))

    def encode_image(self, images: Float[Array, "n height width 3"]) -> Float[Array, "n embedding"]:
        """Unit vectors of images in [0, 1]."""
        return _unit(jax.vmap(self.image)(images))

    def features(self, images: Float[Array, "n height width 3"]) -> Float[Array, "n width"]:
        """What the image encoder's last layer reads: the usual input of a supervised probe."""
        return jax.vmap(lambda x: self.image(x, collect=True)[1]["heads.0"])(images)

    def encode_text(self, words: Int[Array, "n words"] | Float[Array, "n words tokens"]) -> Float[Array, "n embedding"]:
        """Unit vectors of captions.

        Args:
            words: tokens, 0 for padding; or one row a word over all tokens: one-hot rows mean the same as tokens, and
                rows of free real numbers are soft prompts, which can be trained.
        """
        hard = jnp.issubdtype(words.dtype, jnp.integer)
        present = words != 0 if hard else jnp.abs(words[..., 1:]).sum(-1) > 0
        rows = jax.nn.one_hot(words, self.text.embedding.shape[0]) if hard else words
        out = self.text(rows, present)
        weight = present[..., None].astype(out.dtype)
        return _unit((out * weight).sum(-2) / jnp.maximum(weight.sum(-2), 1))

    def zero_shot(self, prompts: Int[Array, "classes prompts words"]) -> Float[Array, "classes embedding"]:
        """One unit vector a class: the mean of its prompts' embeddings."""
        return _unit(jax.vmap(self.encode_text)(prompts).mean(1))

    def predict(
        self, images: Float[Array, "n height width 3"], prompts: Int[Array, "classes prompts words"]
    ) -> Int[Array, " n"]:
        """The class whose prompts are nearest, without any labelled image."""
        return jnp.argmax(self.encode_image(images) @ self.zero_shot(prompts).T, axis=1)

    def loss(self, images: Float[Array, "n height width 3"], words: Int[Array, "n words"]) -> Float[Array, ""]:
        """Symmetric contrastive loss of pairs, in nats (Radford et al., 2021, section 2.3)."""
        logits = jnp.exp(self.log_scale) * self.encode_image(images) @ self.encode_text(words).T
        own = jnp.diagonal(logits)
        return jnp.mean((jax.nn.logsumexp(logits, 0) + jax.nn.logsumexp(logits, 1)) / 2 - own)

    @classmethod
    def pretrained(
        cls,
        seed: int = 0,
        *,
        steps: int = 1_500,
        batch: int = 128,
        learning_rate: float = 2e-3,
        width: int = 64,
        mention: Mapping[str, float] | None = None,
        factors: Factors | None = None,
        held_out: tuple[Mapping[str, tuple[str, ...]], ...] = (),
        shuffled: bool = False,
    ) -> TinyCLIP:
        """Trained once on this machine on captioned scenes, then read from the store of artifacts.

        Args:
            seed: of weights and scenes.
            steps, batch, learning_rate: of Adam with a cosine schedule and 50 updates of warm-up; every batch is new.
            mention: attribute -> probability that captions mention it; 0.5 where not named.
            factors: attribute -> the values that occur in pretraining; all where not named.
            held_out: combinations of attributes that pretraining does not show; see `ShapeScenes`.
            shuffled: captions of other scenes, as a control.
        """
        settings = {
            "seed": seed,
            "steps": steps,
            "batch": batch,
            "learning_rate": learning_rate,
            "width": width,
            "mention": dict(mention or {}),
            "factors": {name: list(values) for name, values in (factors or {}).items()},
            "held_out": [{name: list(values) for name, values in rule.items()} for rule in held_out],
            "shuffled": shuffled,
        }
        kept = artifact(pretrain, settings)
        like = eqx.filter_eval_shape(cls, width=width, key=jax.random.key(0))
        shapes, rest = eqx.partition(like, lambda x: isinstance(x, jax.ShapeDtypeStruct))
        arrays = [jnp.asarray(kept[f"leaf_{i}"]) for i in range(len(kept))]
        return eqx.combine(jax.tree.unflatten(jax.tree.structure(shapes), arrays), rest)


def pretrain(
    seed: int,
    steps: int,
    batch: int,
    learning_rate: float,
    width: int,
    mention: Mapping[str, float],
    factors: Mapping[str, list[str]],
    held_out: list[Mapping[str, list[str]]],
    shuffled: bool,
) -> dict[str, np.ndarray]:
    """Trains one `TinyCLIP`; its arrays in the order of its leaves. See `TinyCLIP.pretrained`."""
    scene = {"factors": factors, "held_out": list(held_out)}
    run = _trainer(steps, batch, learning_rate, width, shuffled, json.dumps(scene))
    leaves = run(jax.random.key(seed), {name: jnp.asarray(rate, jnp.float32) for name, rate in mention.items()})
    return {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}


@functools.cache
def _trainer(
    steps: int, batch: int, learning_rate: float, width: int, shuffled: bool, scene: str
) -> Callable[[PRNGKeyArray, Mapping[str, Array]], list[Array]]:
    """The compiled training run, which all seeds and rates of mention share."""
    known = json.loads(scene)
    world = ShapeScenes(held_out=tuple(known["held_out"]))
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(50, steps // 2), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    @jax.jit
    def run(key: PRNGKeyArray, mention: Mapping[str, Array]) -> list[Array]:
        start, key = jax.random.split(key)
        arrays, rest = eqx.partition(TinyCLIP(width=width, key=start), eqx.is_array)

        def step(carry: Any, i: Array) -> tuple[Any, None]:
            arrays, state = carry
            draw, mix = jax.random.split(jax.random.fold_in(key, i))
            images, words, _ = world.sample(draw, batch, known["factors"], mention=mention)
            words = jax.random.permutation(mix, words) if shuffled else words
            gradient = jax.grad(lambda a: eqx.combine(a, rest).loss(images, words))(arrays)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(arrays, updates), state), None

        (arrays, _), _ = jax.lax.scan(step, (arrays, optimizer.init(arrays)), jnp.arange(steps))
        return jax.tree.leaves(arrays)

    return run


def _unit(x: Float[Array, "*batch embedding"]) -> Float[Array, "*batch embedding"]:
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
