"""Small pieces of real photographs, as pictures that mean nothing."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unseen.lab import UserError


def photographs(size: int = 20, count: int = 256, seed: int = 0) -> Float[np.ndarray, "count size size 3"]:
    """Random square pieces, from `size` pixels a side up to the whole height, of the two photographs of scikit-learn
    (a temple and a flower), mirrored at random and shrunk by area; colours in [0, 1].

    Raises:
        UserError: without scikit-learn and Pillow; if `size` or `count` is below 1 or `size` above 427.
    """
    if count < 1 or not 1 <= size <= 427:
        raise UserError(f"size takes 1 to 427 pixels and count a number from 1 on, got {size} and {count}.")
    try:
        from PIL import Image
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise UserError("photographs needs scikit-learn and Pillow: pip install 'unseen[images]'.") from None
    originals = [Image.fromarray(image) for image in load_sample_images().images]
    rng, pieces = np.random.default_rng(seed), []
    for _ in range(count):
        image = originals[rng.integers(len(originals))]
        side = int(rng.integers(size, image.height + 1))
        left, top = (int(rng.integers(extent - side + 1)) for extent in image.size)
        piece = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BOX)
        pieces.append(np.asarray(piece)[:, :: rng.choice((1, -1))])
    return (np.stack(pieces) / 255).astype(np.float32)
