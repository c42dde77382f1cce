"""Mixing images by recipes that do not look at them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Scalar = float | Float[Array, ""]
Images = Float[Array, "n height width"]
Labels = Float[Array, "n classes"]
Mask = Float[Array, "height width"]


class Mixed(NamedTuple):
    """Mixed images and the labels that go with them.

    Attributes:
        images: the mixtures.
        labels: soft labels, each row summing to 1.
    """

    images: Images
    labels: Labels


class Pairing(NamedTuple):
    """Who is mixed with whom and how much: one ratio and one permutation a batch, as in the official toolbox.

    Attributes:
        ratio: share of the first image, from Beta(alpha, alpha).
        images, labels: of the second one.
        key: for what else is drawn.
    """

    ratio: Float[Array, ""]
    images: Images
    labels: Labels
    key: PRNGKeyArray


def pair(key: PRNGKeyArray, images: Images, labels: Labels, alpha: Scalar) -> Pairing:
    """A random partner for every image, and the ratio."""
    order_key, ratio_key, key = jax.random.split(key, 3)
    order = jax.random.permutation(order_key, images.shape[0])
    return Pairing(jax.random.beta(ratio_key, alpha, alpha), images[order], labels[order], key)


def blend(images: Images, labels: Labels, other: Pairing, mask: Float[Array, "*n height width"]) -> Mixed:
    """First images where the mask is 1, second ones where it is 0; labels in proportion to the area."""
    share = mask.mean((-2, -1))[..., None]
    return Mixed(mask * images + (1 - mask) * other.images, share * labels + (1 - share) * other.labels)


def mixup(key: PRNGKeyArray, images: Images, labels: Labels, *, alpha: Scalar = 1.0) -> Mixed:
    """Images and labels averaged with one ratio from Beta(alpha, alpha).

    Source: Zhang et al. (2018, arXiv 1710.09412), equation 2.

    Args:
        labels: one-hot or soft.
    """
    other = pair(key, images, labels, alpha)
    return blend(images, labels, other, jnp.broadcast_to(other.ratio, images.shape[1:]))


def cutmix(key: PRNGKeyArray, images: Images, labels: Labels, *, alpha: Scalar = 1.0) -> Mixed:
    """A box of the second image is pasted into the first; labels in proportion to the area that is left.

    Source: Yun et al. (2019, arXiv 1905.04899), section 3.1.
    """
    other = pair(key, images, labels, alpha)
    height, width = images.shape[1:]
    y, x = jax.random.uniform(other.key, (2,)) * jnp.array([height, width])
    inside = box(height, width, jnp.sqrt(1 - other.ratio), jnp.floor(y), jnp.floor(x))
    return blend(images, labels, other, 1 - inside)


def box(height: int, width: int, side: Scalar, y: Float[Array, "*n"], x: Float[Array, "*n"]) -> Float[Array, "*n h w"]:
    """1 within a box of `side` times the image's size around a centre, cut off at the border; else 0.

    As the official toolbox rounds: from centre - half to centre + half - 1 with half = floor(floor(side) / 2).
    """

    def within(length: int, centre: Array) -> Array:
        half = jnp.floor(jnp.floor(side * length) / 2)
        place = jnp.arange(length)
        return (place >= (centre - half)[..., None]) & (place < (centre + half)[..., None])

    return (within(height, y)[..., :, None] & within(width, x)[..., None, :]).astype(jnp.float32)


def resizemix(key: PRNGKeyArray, images: Images, labels: Labels, *, scope: tuple[float, float] = (0.1, 0.8)) -> Mixed:
    """The whole second image, made smaller (nearest pixels), is pasted into the first; labels by area.

    Source: Qin et al. (2020, arXiv 2012.11101), section 3.3.

    Args:
        scope: smallest and largest share of the side.
    """
    other = pair(key, images, labels, 1.0)
    height, width = images.shape[1:]
    size, y, x = jax.random.uniform(other.key, (3,))
    side = scope[0] + (scope[1] - scope[0]) * size
    inside = box(height, width, side, jnp.floor(y * height), jnp.floor(x * width))

    def sources(length: int, rows: Float[Array, " length"]) -> Float[Array, "length length"]:
        """One-hot rows: which of the second image's rows (or columns) lands here."""
        first, count = jnp.argmax(rows), jnp.maximum(rows.sum(), 1)
        source = jnp.floor((jnp.arange(length) - first) * length / count)
        return jax.nn.one_hot(source.astype(jnp.int32), length)

    small = sources(height, inside.max(1)) @ other.images @ sources(width, inside.max(0)).T
    return blend(images, labels, other._replace(images=small), 1 - inside)


def fmix(key: PRNGKeyArray, images: Images, labels: Labels, *, alpha: Scalar = 1.0, decay: float = 3.0) -> Mixed:
    """A mask of irregular patches: a random image of low frequencies, cut at the quantile that the ratio says.

    Source: Harris et al. (2020, arXiv 2002.12047), section 4.

    Args:
        decay: power with which amplitudes fall with frequency.
    """
    other = pair(key, images, labels, alpha)
    height, width = images.shape[1:]
    frequency = jnp.hypot(jnp.fft.fftfreq(height)[:, None], jnp.fft.rfftfreq(width))
    scale = jnp.maximum(frequency, 1 / max(height, width)) ** -decay
    real, imaginary = jax.random.normal(other.key, (2, *frequency.shape))
    grey = jnp.fft.irfft2(scale * (real + 1j * imaginary), (height, width)).reshape(-1)
    rank = (grey[None, :] > grey[:, None]).sum(1)  # 0 for the brightest pixel
    return blend(
        images, labels, other, (rank < jnp.round(other.ratio * grey.size)).astype(jnp.float32).reshape(height, width)
    )


def gridmix(
    key: PRNGKeyArray,
    images: Images,
    labels: Labels,
    *,
    alpha: Scalar = 1.0,
    holes: tuple[int, int] = (2, 6),
    area: tuple[float, float] = (0.5, 1.0),
) -> Mixed:
    """A grid of square holes, within a random window, shows the second image; labels by area.

    Source: Baek et al. (2021, GridMix, Pattern Recognition 109), with the official toolbox's settings; its window
    is cut off at the border here, where the toolbox lets it be larger than a small image.

    Args:
        holes: fewest and most holes along the window.
        area: smallest and largest share of the image that the window covers.
    """
    other = pair(key, images, labels, alpha)
    height, width = images.shape[1:]
    count, cover, aspect, y, x = jax.random.uniform(other.key, (5,))
    cover = area[0] + (area[1] - area[0]) * cover
    aspect = 0.5 + 1.5 * aspect
    wide = jnp.minimum(jnp.floor(jnp.sqrt(cover * height * width / aspect)), width)
    high = jnp.minimum(jnp.floor(wide * aspect), height)
    number = jnp.minimum(holes[0] + jnp.floor(count * (holes[1] - holes[0] + 1)), jnp.floor(wide / 2))
    pitch = jnp.ceil(wide / number)
    hole = jnp.clip(jnp.floor(pitch * jnp.sqrt(1 - other.ratio)), 1, pitch - 1)

    def open_(length: int, window: Array, u: Array) -> Array:
        place = jnp.arange(length) - jnp.floor((length - window) * u)
        return (place >= 0) & (place < window) & (jnp.mod(place, pitch) < hole)

    inside = open_(height, high, y)[:, None] & open_(width, wide, x)
    return blend(images, labels, other, 1 - inside.astype(jnp.float32))


def smoothmix(key: PRNGKeyArray, images: Images, labels: Labels) -> Mixed:
    """The second image shines through a Gaussian spot at a random place; labels by the mean of the mask.

    Source: Lee et al. (2020, SmoothMix, CVPR workshops). The official toolbox gives the first label the share of
    the second image; here each label has its own image's share.
    """
    other = pair(key, images, labels, 1.0)
    height, width = images.shape[1:]
    y, x, spread = jax.random.uniform(other.key, (3,))
    deviation = (0.25 + spread / 4) * height
    squared = jnp.square(jnp.arange(height) - y * height)[:, None] + jnp.square(jnp.arange(width) - x * width)
    return blend(images, labels, other, 1 - jnp.exp(-squared / (2 * jnp.square(deviation))))
