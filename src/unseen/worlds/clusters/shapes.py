"""Procedural scenes of one shape, with attributes and captions."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import UserError

Attributes = dict[str, Array]  # name -> one value a scene
Factors = Mapping[str, Sequence[str]]  # name of an attribute -> the values that it may take

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "diamond", "cross", "ring"),
    "colour": ("red", "green", "blue", "yellow", "purple", "cyan"),
    "size": ("small", "medium", "large"),
    "position": ("top left", "top right", "bottom left", "bottom right"),
    "texture": ("plain", "striped", "dotted", "checked"),
    "background": ("dark", "bright", "shaded", "banded"),
    "style": ("flat", "outlined", "sketched", "noisy"),
}
SYNONYMS = {
    "circle": "disc", "square": "box", "triangle": "wedge", "diamond": "rhombus", "cross": "plus", "ring": "hoop",
    "red": "crimson", "green": "emerald", "blue": "azure", "yellow": "golden", "purple": "violet", "cyan": "teal",
    "small": "little", "medium": "midsize", "large": "big",
}  # fmt: skip
LEADS = (("a",), ("photo", "of", "a"), ("picture", "of", "a"), ("drawing", "of", "a"))
NOUNS = ("thing", "object")  # what a caption calls a shape that it does not name
VOCABULARY: tuple[str, ...] = (
    "<pad>", "a", "photo", "picture", "drawing", "of", "thing", "object", "at", "on", "in", "background", "style",
    *(word for name in ("shape", "colour", "size", "texture", "background", "style") for word in ATTRIBUTES[name]),
    "top", "bottom", "left", "right",
    *SYNONYMS.values(),
    "the",
)  # fmt: skip
CAPTION_LENGTH = 16  # words of the longest caption: 3 lead, 3 adjectives, 1 noun, 3 for each of three phrases
WORD = {word: i for i, word in enumerate(VOCABULARY)}
MOTIONS = ("left", "right", "up", "down")

RGB = np.array(
    [[0.9, 0.1, 0.1], [0.1, 0.75, 0.2], [0.15, 0.3, 0.95], [0.95, 0.85, 0.1], [0.6, 0.15, 0.75], [0.1, 0.8, 0.85]]
)
RADIUS = np.array([0.34, 0.44, 0.55])  # half the picture's side is 1
CENTRE = np.array([[-0.35, 0.35], [0.35, 0.35], [-0.35, -0.35], [0.35, -0.35]])  # x to the right, y upwards
JITTER = 0.06  # largest shift of the centre within a position
NOISE = 0.1  # standard deviation of the noisy style


@dataclasses.dataclass(frozen=True)
class ShapeScenes:
    """Small RGB scenes: one shape, described by seven attributes and by a caption of up to 16 words.

    Axes: every attribute of `ATTRIBUTES`, any combination of which can be held out; which attributes a caption
    mentions; resolution. Besides, each scene has its own jitter (`dx`, `dy` in [-1, 1]) and `grain` (seed of noise
    and hatching). All of these are in the attribute dict, and `render` is a pure function of it.

    Example:
        >>> world = ShapeScenes(held_out=({"shape": ("circle",), "colour": ("red",)},))
        >>> images, tokens, attributes = world.sample(key, 128)
        >>> unseen, _, _ = world.sample(key, 128, split="held_out")

    Attributes:
        resolution: pixels a side, 16 or 32.
        held_out: combinations that training never shows: a scene is held out if for one of these, every named
            attribute has one of the values listed.
    """

    resolution: int = 16
    held_out: tuple[Factors, ...] = ()

    def __post_init__(self) -> None:
        if self.resolution not in (16, 32):
            raise UserError(f"resolution takes 16 or 32, got {self.resolution}.")
        for rule in self.held_out:
            _check(rule, "held_out")

    def combinations(
        self, factors: Factors | None = None, split: Literal["train", "held_out", "all"] = "train"
    ) -> Int[np.ndarray, "combinations attributes"]:
        """All combinations of attribute values (as indices, in the order of `ATTRIBUTES`) of a split.

        Raises:
            UserError: on an unknown attribute or value, or if nothing is left.
        """
        _check(factors or {}, "factors")
        table = _table()
        kept = _matches(table, factors or {})
        out = np.zeros(len(table), bool)
        for rule in self.held_out:
            out |= _matches(table, rule)
        kept &= {"train": ~out, "held_out": out, "all": np.ones_like(out)}[split]
        if not kept.any():
            raise UserError(f"factors takes values of which some combination is in split {split!r}, got {factors}.")
        return table[kept]

    def sample(
        self,
        key: PRNGKeyArray,
        n: int,
        factors: Factors | None = None,
        *,
        split: Literal["train", "held_out", "all"] = "train",
        mention: Mapping[str, float | Float[Array, ""]] | None = None,
    ) -> tuple[Float[Array, "n height width 3"], Int[Array, "n words"], Attributes]:
        """`n` random scenes, uniform over the combinations of a split.

        Args:
            factors: attribute -> values that it may take; all of them where not named.
            split: combinations that are not held out, those that are, or both.
            mention: attribute -> probability that a caption mentions it; 0.5 where not named.

        Returns:
            Images in [0, 1], caption tokens (indices into `VOCABULARY`, 0 after the end), and attributes: indices into
            `ATTRIBUTES`, `dx`, `dy` and `grain`.
        """
        draw, jitter, grain, caption = jax.random.split(key, 4)
        table = jnp.asarray(self.combinations(factors, split), jnp.int32)
        rows = table[jax.random.randint(draw, (n,), 0, len(table))]
        attributes: Attributes = {name: rows[:, i] for i, name in enumerate(ATTRIBUTES)}
        shift = jax.random.uniform(jitter, (2, n), minval=-1.0, maxval=1.0)
        attributes |= {"dx": shift[0], "dy": shift[1], "grain": jax.random.randint(grain, (n,), 0, 1 << 30)}
        return self.render(attributes), self.caption(caption, attributes, mention), attributes

    def render(self, attributes: Attributes) -> Float[Array, "n height width 3"]:
        """Images of scenes from their attributes alone."""
        return jax.vmap(functools.partial(_picture, self.resolution))(attributes)

    def clip(
        self, attributes: Attributes, motion: Int[Array, " n"], *, frames: int = 3, step: float = 2.0
    ) -> Float[Array, "n frames height width 3"]:
        """Short films in which the shape moves in a direction of `MOTIONS` by `step` jitters a frame, passing
        through its attributes' place in the middle."""
        direction = jnp.asarray([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])[motion]
        times = (jnp.arange(frames) - (frames - 1) / 2) * step

        def frame(time: Array) -> Array:
            moved = {"dx": attributes["dx"] + time * direction[:, 0], "dy": attributes["dy"] + time * direction[:, 1]}
            return self.render(attributes | moved)

        return jnp.moveaxis(jax.vmap(frame)(times), 0, 1)

    def caption(
        self,
        key: PRNGKeyArray,
        attributes: Attributes,
        mention: Mapping[str, float | Float[Array, ""]] | None = None,
    ) -> Int[Array, "n words"]:
        """Captions: each attribute is mentioned with its probability, by its word or a synonym.

        For instance "photo of a big crimson disc at top left in sketched style".
        """
        rates = dict.fromkeys(ATTRIBUTES, 0.5) | dict(mention or {})
        unknown = set(rates) - set(ATTRIBUTES)
        if unknown:
            raise UserError(f"mention takes attributes of {', '.join(ATTRIBUTES)}, got {sorted(unknown)[0]!r}.")
        probability = jnp.stack([jnp.asarray(rates[name], jnp.float32) for name in ATTRIBUTES])
        values = jnp.stack([attributes[name] for name in ATTRIBUTES], axis=1)
        keys = jax.random.split(key, len(values))
        return jax.vmap(lambda k, v: _words(k, v, probability))(keys, values)

    def prompts(self, key: PRNGKeyArray, attribute: str, n: int) -> Int[Array, "values n words"]:
        """`n` captions for each value of an attribute that mention nothing else, in random wording."""
        _check({attribute: ()}, "attribute")
        count = len(ATTRIBUTES[attribute])
        only = jnp.asarray([float(name == attribute) for name in ATTRIBUTES])

        def one(k: PRNGKeyArray, value: Array) -> Array:
            values = jnp.zeros(len(ATTRIBUTES), jnp.int32).at[list(ATTRIBUTES).index(attribute)].set(value)
            return _words(k, values, only)

        keys = jax.random.split(key, (count, n))
        return jax.vmap(lambda ks, v: jax.vmap(lambda k: one(k, v))(ks))(keys, jnp.arange(count))


def said(tokens: Int[Array, " words"] | Int[np.ndarray, " words"]) -> str:
    """A caption in plain words."""
    return " ".join(VOCABULARY[int(t)] for t in np.asarray(tokens) if t)


@functools.cache
def _table() -> Int[np.ndarray, "combinations attributes"]:
    return np.array(list(itertools.product(*(range(len(values)) for values in ATTRIBUTES.values()))), np.int32)


def _matches(table: np.ndarray, rule: Factors) -> np.ndarray:
    kept = np.ones(len(table), bool)
    for name, values in rule.items():
        indices = [ATTRIBUTES[name].index(value) for value in values]
        kept &= np.isin(table[:, list(ATTRIBUTES).index(name)], indices)
    return kept


def _check(rule: Factors, field: str) -> None:
    for name, values in rule.items():
        if name not in ATTRIBUTES:
            raise UserError(f"{field} takes attributes of {', '.join(ATTRIBUTES)}, got {name!r}.")
        for value in values:
            if value not in ATTRIBUTES[name]:
                raise UserError(f"{field} takes a {name} of {', '.join(ATTRIBUTES[name])}, got {value!r}.")


# Pictures --------------------------------------------------------------------------------------------------


def _picture(resolution: int, a: Attributes) -> Float[Array, "height width 3"]:
    """One scene; y runs upwards, so row 0 is the top."""
    along = (jnp.arange(resolution) + 0.5) * 2 / resolution - 1
    x, y = along[None, :], -along[:, None]
    radius = jnp.asarray(RADIUS)[a["size"]]
    centre = jnp.asarray(CENTRE)[a["position"]] + JITTER * jnp.stack([a["dx"], a["dy"]])
    u, v = (x - centre[0]) / radius, (y - centre[1]) / radius
    pixels = radius * resolution / 2
    distance = _distance(a["shape"], u, v) * pixels  # from the edge, in pixels, negative inside
    noise_key, phase_key = jax.random.split(jax.random.key(a["grain"]))

    filled = jnp.clip(0.5 - distance, 0, 1)
    outline = jnp.clip(0.5 - (jnp.abs(distance + 0.8) - 0.8), 0, 1)
    phase = jax.random.uniform(phase_key, maxval=2 * jnp.pi)
    hatched = filled * (0.65 + 0.35 * jnp.sign(jnp.sin(2 * jnp.pi * (x + y) / 0.55 + phase)))
    coverage = jnp.stack([filled, outline, hatched, filled])[a["style"]]

    stripe, other = (jnp.sin(2 * jnp.pi * w / 0.5) for w in (y - centre[1], x - centre[0]))
    bright = jnp.stack(
        [jnp.ones_like(distance), stripe + 0 * x > 0, (stripe > 0) & (other > 0), stripe * other > 0]
    ).astype(distance.dtype)[a["texture"]]
    ink = jnp.asarray(RGB, jnp.float32)[a["colour"]] * (0.4 + 0.6 * bright)[..., None]

    ground = jnp.stack(
        [
            jnp.full_like(distance, 0.05),
            jnp.full_like(distance, 0.95),
            0.5 + 0.45 * y + 0 * x,
            0.5 + 0.2 * jnp.sign(jnp.sin(2 * jnp.pi * x / 0.8)) + 0 * y,
        ]
    )[a["background"]]
    image = coverage[..., None] * ink + (1 - coverage[..., None]) * ground[..., None]
    noise = NOISE * jax.random.normal(noise_key, image.shape)
    return jnp.clip(image + jnp.where(a["style"] == ATTRIBUTES["style"].index("noisy"), noise, 0), 0, 1)


def _distance(shape: Array, u: Array, v: Array) -> Float[Array, "height width"]:
    """About the signed distance from the edge of each shape, of radius 1."""
    round_, flat, across = jnp.hypot(u, v), jnp.abs(u), jnp.abs(v)
    return jnp.stack(
        [
            round_ - 0.95,
            jnp.maximum(flat, across) - 0.8,
            jnp.maximum(-v - 0.65, (jnp.sqrt(3.0) * flat + v) / 2 - 0.48),
            (flat + across - 1.05) / jnp.sqrt(2.0),
            jnp.maximum(jnp.minimum(flat, across) - 0.3, jnp.maximum(flat, across) - 0.95),
            jnp.abs(round_ - 0.7) - 0.25,
        ]
    )[shape]


# Captions --------------------------------------------------------------------------------------------------


def _codes() -> dict[str, np.ndarray]:
    """Words of every value: (values, wordings, words of a wording)."""
    codes = {}
    for name, values in ATTRIBUTES.items():
        wordings = [[value, SYNONYMS.get(value, value)] for value in values]
        codes[name] = np.array([[[WORD[w] for w in wording.split()] for wording in both] for both in wordings])
    return codes


_CODES = _codes()
_LEADS = np.array([[0] * (3 - len(lead)) + [WORD[w] for w in lead] for lead in LEADS])
_NOUNS = np.array([WORD[w] for w in NOUNS])


def _words(key: PRNGKeyArray, values: Int[Array, " attributes"], probability: Array) -> Int[Array, " words"]:
    """One caption; what is not mentioned is left out and the words move up."""
    told, word_key, lead_key, noun_key = jax.random.split(key, 4)
    named = jax.random.uniform(told, (len(ATTRIBUTES),)) < probability
    wording = jax.random.randint(word_key, (len(ATTRIBUTES),), 0, 2)
    phrase, here = {}, {}
    for i, name in enumerate(ATTRIBUTES):
        phrase[name], here[name] = jnp.asarray(_CODES[name])[values[i], wording[i]], named[i]
    noun = jnp.asarray(_NOUNS)[jax.random.randint(noun_key, (), 0, len(NOUNS))]
    words = jnp.concatenate(
        [
            jnp.asarray(_LEADS)[jax.random.randint(lead_key, (), 0, len(LEADS))],
            *(jnp.where(here[name], phrase[name], 0) for name in ("size", "colour", "texture")),
            jnp.where(here["shape"], phrase["shape"], noun[None]),
            jnp.where(here["position"], jnp.append(jnp.array([WORD["at"]]), phrase["position"]), 0),
            *(
                jnp.where(here[name], jnp.array([WORD[before], 0, WORD[after]]).at[1].set(phrase[name][0]), 0)
                for name, before, after in (("background", "on", "background"), ("style", "in", "style"))
            ),
        ]
    )
    return words[jnp.argsort(words == 0, stable=True)].astype(jnp.int32)
