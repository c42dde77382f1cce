"""Vector data whose blocks all predict the label, each by a rule of its own difficulty."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.lab import UserError

# Share of the positive (negative) examples in the innermost positive (negative) slabs, by number of slabs: the
# official generator's values. What is left lies in the outermost ones.
INNER_POSITIVE = {3: 1.0, 5: 1.0, 7: 7 / 8}
INNER_NEGATIVE = {3: 1.0, 5: 3 / 4, 7: 1 / 2}


@runtime_checkable
class Block(Protocol):
    """Some coordinates that depend on the label in one way."""

    @property
    def count(self) -> int:
        """Number of coordinates."""
        ...

    @property
    def best_accuracy(self) -> float:
        """Accuracy of the best rule that reads one coordinate of the block (labels are balanced)."""
        ...

    def sample(
        self, key: PRNGKeyArray, labels: Int[Array, " n"]
    ) -> tuple[Float[Array, "n count"], Bool[Array, "n count"]]:
        """Coordinates for labels 0 and 1, and whether each one speaks for its label."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearBlock:
    """Coordinates in [-1, 1] that have the label's sign and at least a margin as magnitude.

    Attributes:
        count: number of coordinates.
        margin: smallest magnitude.
        noise: probability that a coordinate has the wrong sign.
        ambiguous: probability that it is drawn from inside the margin without looking at the label; the best rule
            then is right half of the time.
    """

    count: int = 1
    margin: float = 0.1
    noise: float = 0.0
    ambiguous: float | Float[Array, ""] = 0.0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def best_accuracy(self) -> float:
        """Accuracy of the sign of one coordinate."""
        return (1 - float(self.ambiguous)) * max(self.noise, 1 - self.noise) + float(self.ambiguous) / 2

    def sample(
        self, key: PRNGKeyArray, labels: Int[Array, " n"]
    ) -> tuple[Float[Array, "n count"], Bool[Array, "n count"]]:
        """Coordinates and whether they speak for the label; those inside the margin do not."""
        shape = (len(labels), self.count)
        keys = jax.random.split(key, 4)
        flipped = jax.random.bernoulli(keys[0], self.noise, shape)
        sign = (2 * labels[:, None] - 1) * jnp.where(flipped, -1, 1)
        clear = sign * jax.random.uniform(keys[1], shape, minval=self.margin)
        inside = jax.random.uniform(keys[2], shape, minval=-self.margin, maxval=self.margin)
        lost = jax.random.bernoulli(keys[3], self.ambiguous, shape)
        return jnp.where(lost, inside, clear), ~flipped & ~lost


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlabBlock:
    """Coordinates in [-1, 1] cut into slabs whose label alternates, the middle one being negative.

    Slabs have equal widths and gaps of twice the margin. Of the positives (negatives) as many lie in the inner
    slabs as in the official generator: all in 3 slabs; 3/4 of the negatives in the middle one of 5; 7/8 of the
    positives and 1/2 of the negatives in the inner ones of 7. Magnitudes alone decide: the sign is random.

    Attributes:
        count: number of coordinates, drawn independently given the label.
        slabs: 3, 5 or 7.
        margin: half of the gap between slabs.
        noise: probability that a coordinate is drawn for the other label.

    Source: Shah et al. (2020, arXiv 2006.07710), section 3 and `gendata.py` of the official code.
    """

    count: int = 1
    slabs: int = 5
    margin: float = 0.1
    noise: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        if self.slabs not in INNER_POSITIVE:
            raise UserError(f"slabs takes 3, 5 or 7, got {self.slabs}.")
        if self.width <= 0:
            raise UserError(f"margin takes a number below {1 / (self.slabs - 1):.3g}, got {self.margin}.")

    @property
    def width(self) -> float:
        """Width of a slab."""
        return (2 - 2 * (self.slabs - 1) * self.margin) / self.slabs

    @property
    def best_accuracy(self) -> float:
        """Accuracy of the slab's own label."""
        return max(self.noise, 1 - self.noise)

    def label(self, x: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
        """The rule: label of the nearest slab."""
        return jnp.round(jnp.abs(x) / (self.width + 2 * self.margin)).astype(int) % 2

    def sample(
        self, key: PRNGKeyArray, labels: Int[Array, " n"]
    ) -> tuple[Float[Array, "n count"], Bool[Array, "n count"]]:
        """Coordinates and whether they lie in a slab of their label."""
        shape = (len(labels), self.count)
        keys = jax.random.split(key, 4)
        flipped = jax.random.bernoulli(keys[0], self.noise, shape)
        positive = (labels[:, None] == 1) ^ flipped
        inner = jax.random.uniform(keys[1], shape) < jnp.where(
            positive, INNER_POSITIVE[self.slabs], INNER_NEGATIVE[self.slabs]
        )
        # Slab 0 is the middle one, slabs 1, 2 and 3 come in pairs; odd ones are positive.
        slab = jnp.where(positive, 1, 0) + jnp.where(inner, 0, 2)
        sign = jax.random.rademacher(keys[2], shape, jnp.float32)
        within = jax.random.uniform(keys[3], shape, minval=-0.5, maxval=0.5)
        return sign * slab * (self.width + 2 * self.margin) + within * self.width, ~flipped


@dataclasses.dataclass(frozen=True, kw_only=True)
class CueBlock:
    """Gaussian cues: scale * (sign + spread * normal), of the label's sign in a majority of examples.

    Attributes:
        count: number of coordinates; they agree with the label together or not at all.
        scale: distance of the two means from 0; a cue of a larger scale is the easier one.
        spread: standard deviation, in units of the scale.
        agreement: probability that the sign is the label's: 1 for a core cue, less for a spurious one.
    """

    count: int = 1
    scale: float = 1.0
    spread: float = 0.12
    agreement: float = 1.0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def best_accuracy(self) -> float:
        """Accuracy of the sign of one coordinate."""
        from scipy.stats import norm

        right = float(norm.cdf(1 / self.spread)) if self.spread else 1.0
        share = self.agreement * right + (1 - self.agreement) * (1 - right)
        return max(share, 1 - share)

    def sample(
        self, key: PRNGKeyArray, labels: Int[Array, " n"]
    ) -> tuple[Float[Array, "n count"], Bool[Array, "n count"]]:
        """Coordinates and whether their mean has the label's sign."""
        agree, draw = jax.random.split(key)
        agrees = jax.random.bernoulli(agree, self.agreement, (len(labels), 1))
        sign = (2 * labels[:, None] - 1) * jnp.where(agrees, 1, -1)
        noise = jax.random.normal(draw, (len(labels), self.count))
        return self.scale * (sign + self.spread * noise), jnp.broadcast_to(agrees, noise.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseBlock:
    """Coordinates that say nothing of the label: with many of them every example can be recognised.

    Attributes:
        count: number of coordinates.
        scale: standard deviation; may be traced.
    """

    count: int
    scale: float | Float[Array, ""] = 1.0

    @property
    def best_accuracy(self) -> float:
        """Chance."""
        return 0.5

    def sample(
        self, key: PRNGKeyArray, labels: Int[Array, " n"]
    ) -> tuple[Float[Array, "n count"], Bool[Array, "n count"]]:
        """Coordinates; none of them speaks for the label."""
        x = self.scale * jax.random.normal(key, (len(labels), self.count))
        return x, jnp.zeros(x.shape, bool)


class FeatureSample(eqx.Module):
    """Examples of a `GradedFeatures` world.

    Attributes:
        x: what a model sees, rotated if the world is.
        labels: 0 or 1.
        speaks: whether every coordinate (before the rotation) speaks for the label.
        rotation: x = coordinates @ rotation; None for no rotation.
        places: block -> its first coordinate and the one after its last.
    """

    x: Float[Array, "n dims"]
    labels: Int[Array, " n"]
    speaks: Bool[Array, "n dims"]
    rotation: Float[Array, "dims dims"] | None
    places: Mapping[str, tuple[int, int]] = eqx.field(static=True)

    @classmethod
    def plain(
        cls, x: Float[Array, "n dims"], labels: Int[Array, " n"], places: Mapping[str, tuple[int, int]]
    ) -> FeatureSample:
        """Examples of any origin, for `randomise`: their blocks by name, as first coordinate and the one after the
        last, and no rotation."""
        return cls(x, labels, jnp.zeros(x.shape, bool), None, _Frozen(places))

    @property
    def coordinates(self) -> Float[Array, "n dims"]:
        """The examples before the rotation: every block in its columns."""
        return self.x if self.rotation is None else self.x @ self.rotation.T

    def block(self, name: str) -> Float[Array, "n count"]:
        """The coordinates of one block."""
        start, stop = self.place(name)
        return self.coordinates[:, start:stop]

    def place(self, name: str) -> tuple[int, int]:
        """First coordinate of a block and the one after its last.

        Raises:
            UserError: if there is no such block.
        """
        if name not in self.places:
            raise UserError(f"block takes one of {', '.join(self.places)}, got {name!r}.")
        return self.places[name]

    def agrees(self, name: str) -> Bool[Array, " n"]:
        """Examples in which all coordinates of a block speak for the label: the majority of a spurious one."""
        start, stop = self.place(name)
        return self.speaks[:, start:stop].all(1)

    def randomise(self, name: str, key: PRNGKeyArray) -> FeatureSample:
        """The same examples with one block dealt out anew among them, whole: it keeps its distribution and says
        nothing of the label (nor of the other blocks) any more."""
        start, stop = self.place(name)
        order = jax.random.permutation(key, len(self.labels))
        columns = self.coordinates.at[:, start:stop].set(self.coordinates[order, start:stop])
        x = columns if self.rotation is None else columns @ self.rotation
        return eqx.tree_at(lambda s: s.x, self, x)

    def subspace(self, name: str) -> Float[Array, "count dims"]:
        """Orthonormal directions that one block has in `x`: what an attack on it alone may move along."""
        start, stop = self.place(name)
        basis = jnp.eye(self.x.shape[1]) if self.rotation is None else self.rotation
        return basis[start:stop]


@dataclasses.dataclass(frozen=True)
class GradedFeatures:
    """Blocks of features that all predict a balanced binary label, by rules from simple to complex.

    Axes: which block is made uninformative at test time (`FeatureSample.randomise`), agreement of a spurious block,
    scale of a noise block. Blocks are independent given the label.

    Example:
        >>> world = GradedFeatures({"simple": LinearBlock(), "complex": SlabBlock(count=4)}, rotate=True)
        >>> sample = world.sample(key, 1_000)
        >>> without = sample.randomise("simple", key)

    Attributes:
        blocks: name -> block, in the order of the coordinates.
        rotate: mix all coordinates by a random orthogonal matrix, of `rotation_key`.
    """

    blocks: Mapping[str, Block]
    rotate: bool = False

    def __post_init__(self) -> None:
        if not self.blocks:
            raise UserError("blocks takes one block or more, got none.")

    @property
    def dims(self) -> int:
        """Number of coordinates."""
        return sum(block.count for block in self.blocks.values())

    def rotation(self, key: PRNGKeyArray) -> Float[Array, "dims dims"]:
        """A random orthogonal matrix, uniform."""
        return jax.random.orthogonal(key, self.dims)

    def sample(self, key: PRNGKeyArray, n: int, *, rotation: Float[Array, "dims dims"] | None = None) -> FeatureSample:
        """`n` examples.

        Args:
            rotation: to share one between samples (train and test); by default a rotated world draws its own.
        """
        label_key, rotation_key, key = jax.random.split(key, 3)
        labels = jax.random.bernoulli(label_key, 0.5, (n,)).astype(jnp.int32)
        places, columns, speaks, start = {}, [], [], 0
        for name, (block, block_key) in zip(
            self.blocks, zip(self.blocks.values(), jax.random.split(key, len(self.blocks)), strict=True), strict=True
        ):
            x, right = block.sample(block_key, labels)
            places[name] = (start, start + block.count)
            columns.append(x)
            speaks.append(right)
            start += block.count
        x = jnp.concatenate(columns, axis=1)
        if self.rotate and rotation is None:
            rotation = self.rotation(rotation_key)
        x = x if rotation is None else x @ rotation
        return FeatureSample(x, labels, jnp.concatenate(speaks, axis=1), rotation, _Frozen(places))


def SlabData(
    dims: int,
    *,
    slabs: int = 5,
    margin: float = 0.1,
    ambiguous: float = 0.0,
    linear: bool = True,
    rotate: bool = True,
) -> GradedFeatures:
    """One linear coordinate and `dims - 1` coordinates of slabs, each enough on its own: LMS-k of the paper.

    Args:
        ambiguous: share of examples whose linear coordinate lies inside the margin (the paper's noisy LMS).
        linear: False for slabs only (MS-k), `dims - 1` of them.

    Source: Shah et al. (2020, arXiv 2006.07710), section 3.
    """
    if dims < 2:
        raise UserError(f"dims takes a whole number from 2 on, got {dims}.")
    complex_block = SlabBlock(count=dims - 1, slabs=slabs, margin=margin)
    simple = {"linear": LinearBlock(margin=margin, ambiguous=ambiguous)} if linear else {}
    return GradedFeatures({**simple, "slabs": complex_block}, rotate=rotate)


class _Frozen(dict[str, tuple[int, int]]):
    """A dictionary that may be a static field: equal ones hash alike."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def _check(block: LinearBlock | SlabBlock | CueBlock) -> None:
    if block.count < 1:
        raise UserError(f"count takes a whole number from 1 on, got {block.count}.")
    for name in ("noise", "ambiguous", "agreement"):
        value = getattr(block, name, 0.0)
        if isinstance(value, int | float) and not 0 <= value <= 1:
            raise UserError(f"{name} takes a number from 0 to 1, got {value}.")
    if not 0 <= getattr(block, "margin", 0.1) < 1:
        raise UserError(f"margin takes a number from 0 to below 1, got {getattr(block, 'margin', None)}.")
