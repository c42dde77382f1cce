import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("PIL")

from unseen.lab import UserError
from unseen.worlds.clusters.photographs import photographs


def test_pieces_are_real_varied_and_the_same_again():
    pieces = photographs(12, 20, seed=1)
    assert pieces.shape == (20, 12, 12, 3) and pieces.dtype == np.float32
    assert pieces.min() >= 0 and pieces.max() <= 1 and (pieces.std((1, 2, 3)) > 0.01).all()
    np.testing.assert_array_equal(pieces, photographs(12, 20, seed=1))
    assert not np.array_equal(pieces, photographs(12, 20, seed=2))
    # Photographs are smooth: neighbours differ less than pixels far apart.
    assert np.abs(np.diff(pieces, axis=2)).mean() < 0.8 * np.abs(pieces[:, :, :6] - pieces[:, :, 6:]).mean()


def test_the_largest_piece_is_the_whole_height_shrunk_by_area():
    from sklearn.datasets import load_sample_images

    whole = photographs(427, 1)[0]
    assert any(
        np.array_equal(np.uint8(np.round(255 * whole))[:, ::mirror], image[:, left : left + 427])
        for image in load_sample_images().images for left in range(image.shape[1] - 426) for mirror in (1, -1)
    )  # fmt: skip


@pytest.mark.parametrize(("size", "count"), [(0, 1), (428, 1), (20, 0)])
def test_bad_sizes(size, count):
    with pytest.raises(UserError, match="size takes"):
        photographs(size, count)
