import jax
import pytest

from unseen.lab import UserError
from unseen.worlds.clusters import DigitDomains, LabelledImages

WORLD = DigitDomains.digits()


def test_sides_are_disjoint_and_differ_between_seeds():
    draws = [LabelledImages.draw(jax.random.key(i), WORLD, train=1_000, test=797) for i in range(2)]
    seen, unseen = draws[0].train_side, draws[0].test_side
    assert len(seen[1]) == 1_000 and len(unseen[1]) == 797
    assert float(draws[0].images.sum()) == pytest.approx(float(WORLD.images.sum()), rel=1e-5)  # each image once
    assert (draws[0].labels != draws[1].labels).any()
    assert float(draws[0].train.sum()) == 1_000 and float(draws[0].test.sum()) == 797


def test_too_few_images():
    with pytest.raises(UserError, match="1797"):
        LabelledImages.draw(jax.random.key(0), WORLD, train=1_500, test=500)
