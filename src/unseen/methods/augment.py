"""Random image transforms with a strength that can be dialled, traced and composed."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

Strength = float | Float[Array, ""]
Images = Float[Array, "n height width"]

# What a strength of 1 means.
SHIFT = 0.25  # of the image's size, in either direction
ROTATION = 30.0  # degrees, in either direction
CROP = 0.5  # of the side that may be cut off
OCCLUSION = 0.75  # of the side that a black square covers
DROP = 0.75  # probability that a pixel is set to black
NOISE = 0.5  # standard deviation of Gaussian noise, before clipping
INTENSITY = 0.5  # relative change of brightness and of contrast


class Augment(eqx.Module):
    """A composition of random transforms of grey images in [0, 1], drawn anew for every image.

    Every field is a strength in [0, 1], which may be traced; 0 leaves the images as they are, to the last bit.
    Transforms of geometry come first (crop, rotation, shift), then intensity, occlusion, drop and noise, as a
    camera would have it. Everything is products of small matrices: no gathers, so that populations run fast.

    Example:
        >>> augment = Augment(shift=0.5, noise=0.2)
        >>> view, other = (jax.jit(augment)(k, images) for k in jax.random.split(key))

    Attributes:
        crop: a square of random size (its side down to 1 - 0.5 crop) and place is enlarged to the image's size.
        rotation: by an angle uniform within 30 degrees x strength.
        shift: by a vector uniform within a quarter of the image x strength, black from outside.
        intensity: contrast and brightness change by factors uniform within 1 +- 0.5 x strength.
        occlude: a black square of side 0.75 x strength of the image, at a random place inside.
        pixel_drop: every pixel is black with probability 0.75 x strength.
        noise: Gaussian, of standard deviation 0.5 x strength, clipped to [0, 1].
    """

    crop: Strength = 0.0
    rotation: Strength = 0.0
    shift: Strength = 0.0
    intensity: Strength = 0.0
    occlude: Strength = 0.0
    pixel_drop: Strength = 0.0
    noise: Strength = 0.0

    def __call__(self, key: PRNGKeyArray, images: Images) -> Images:
        """One random view of every image."""
        steps = (crop_and_resize, rotate, shift, change_intensity, occlude, drop_pixels, add_noise)
        strengths = (self.crop, self.rotation, self.shift, self.intensity, self.occlude, self.pixel_drop, self.noise)
        for step, strength, k in zip(steps, strengths, jax.random.split(key, len(steps)), strict=True):
            if not (isinstance(strength, int | float) and strength == 0):
                images = jnp.where(jnp.asarray(strength) == 0, images, step(k, images, strength))
        return images

    def views(self, key: PRNGKeyArray, images: Images, count: int) -> Float[Array, "n count height width"]:
        """`count` independent views of every image."""
        return jnp.moveaxis(jax.vmap(lambda k: self(k, images))(jax.random.split(key, count)), 0, 1)


def shift(key: PRNGKeyArray, images: Images, strength: Strength) -> Images:
    """Every image moved by its own vector (bilinear), black from outside."""
    n, height, width = images.shape
    down, right = strength * SHIFT * jax.random.uniform(key, (2, n), minval=-1.0)
    return _resample(images, _line(height) - down[:, None] * height, _line(width) - right[:, None] * width)


def crop_and_resize(key: PRNGKeyArray, images: Images, strength: Strength) -> Images:
    """A random square part of every image, enlarged (bilinear) to the whole."""
    n, height, width = images.shape
    size, y, x = jax.random.uniform(key, (3, n))
    size = 1 - strength * CROP * size

    def places(length: int, start: Float[Array, " n"]) -> Float[Array, "n length"]:
        return (start * (1 - size))[:, None] * (length - 1) + size[:, None] * _line(length)

    return _resample(images, places(height, y), places(width, x))


def rotate(key: PRNGKeyArray, images: Images, strength: Strength) -> Images:
    """Every image turned about its centre by its own angle."""
    degrees = strength * ROTATION * jax.random.uniform(key, (images.shape[0],), minval=-1.0)
    return turn(images, degrees)


def turn(images: Images, degrees: Float[Array, " n"]) -> Images:
    """Images turned counter-clockwise by given angles, up to about 45 degrees, black from outside.

    Three shears, each of which moves whole rows or columns: a few thousand products an image instead of a
    dense matrix over its pixels.
    """
    angle = jnp.deg2rad(degrees)
    along, across = jnp.tan(angle / 2), -jnp.sin(angle)
    images = _shear(images, along)
    images = _shear(images.swapaxes(1, 2), across).swapaxes(1, 2)
    return _shear(images, along)


def change_intensity(key: PRNGKeyArray, images: Images, strength: Strength) -> Images:
    """Contrast about the image's mean, and brightness, each multiplied by a random factor; clipped to [0, 1]."""
    contrast, brightness = 1 + strength * INTENSITY * jax.random.uniform(key, (2, images.shape[0], 1, 1), minval=-1.0)
    mean = images.mean((1, 2), keepdims=True)
    return jnp.clip(brightness * (mean + contrast * (images - mean)), 0, 1)


def occlude(key: PRNGKeyArray, images: Images, strength: Strength) -> Images:
    """A black square on every image, wholly inside, at a random place; its side is rounded to whole pixels."""
    n, height, width = images.shape
    start = jax.random.uniform(key, (2, n, 1))

    def inside(length: int, u: Float[Array, "n 1"]) -> Array:
        side = jnp.round(strength * OCCLUSION * length)
        first = jnp.floor(u * (length - side + 1))
        return (_line(length) >= first) & (_line(length) < first + side)

    hidden = inside(height, start[0])[:, :, None] & inside(width, start[1])[:, None, :]
    return jnp.where(hidden, 0.0, images)


def drop_pixels(key: PRNGKeyArray, images: Images, strength: Strength) -> Images:
    """Every pixel set to black with the same probability."""
    return jnp.where(jax.random.uniform(key, images.shape) < strength * DROP, 0.0, images)


def add_noise(key: PRNGKeyArray, images: Images, strength: Strength) -> Images:
    """Gaussian noise on every pixel, clipped to [0, 1]."""
    return jnp.clip(images + strength * NOISE * jax.random.normal(key, images.shape), 0, 1)


def label_preservation(
    classify: Callable[[Images], Int[Array, " n"]],
    augment: Callable[[PRNGKeyArray, Images], Images],
    key: PRNGKeyArray,
    images: Images,
    labels: Int[Array, " n"],
    *,
    views: int = 4,
) -> Float[Array, ""]:
    """Share of augmented views that a reference classifier still assigns to their image's class.

    Args:
        classify: images -> classes; a supervised classifier that has seen such views in training, else the rate
            also counts its own lack of robustness.
        views: of every image.
    """
    answers = jax.lax.map(lambda k: classify(augment(k, images)), jax.random.split(key, views))
    return (answers == labels).mean()


def _line(length: int) -> Float[Array, " length"]:
    return jnp.arange(length, dtype=jnp.float32)


def _hat(places: Float[Array, "... length"]) -> Float[Array, "... length length"]:
    """Weights of linear interpolation at the given places; nothing from outside."""
    return jnp.maximum(0.0, 1 - jnp.abs(places[..., None] - _line(places.shape[-1])))


def _resample(images: Images, rows: Float[Array, "n height"], columns: Float[Array, "n width"]) -> Images:
    """Bilinear interpolation at the crossings of the given rows and columns, of every image its own."""
    return _hat(rows) @ images @ _hat(columns).swapaxes(1, 2)


def _shear(images: Images, factor: Float[Array, " n"]) -> Images:
    """Every row moved to the right by `factor` times its distance from the centre, downwards positive."""
    _, height, width = images.shape
    offset = factor[:, None] * (_line(height) - (height - 1) / 2)
    weights = _hat(_line(width) - offset[:, :, None])
    return jnp.einsum("nhw,nhvw->nhv", images, weights)
