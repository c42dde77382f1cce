import jax
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.algorithms import PlainAddition

KEY = jax.random.key(0)


def test_pairs_and_sums():
    split = PlainAddition(4, 3).split(KEY, 0.5)
    left, right = (np.asarray(x).argmax(1) for x in split.inputs[:2])
    assert list(zip(left, right, strict=True)) == [(i, j) for i in range(4) for j in range(i, 4)]
    assert (split.labels == left + right).all()
    assert split.train.sum() == 5 and (split.train + split.test == 1).all()
    assert split.answers.shape == (7, 3)


def test_smaller_fractions_are_nested_and_share_the_answers():
    world = PlainAddition(10)
    small, large = world.split(KEY, 0.2), jax.jit(lambda f: world.split(KEY, f))(0.6)
    assert small.train.sum() == 11 and large.train.sum() == 33
    assert (small.train <= large.train).all() and (small.answers == large.answers).all()
    assert (world.split(jax.random.key(1), 0.2).train != small.train).any()


def test_bad_settings():
    with pytest.raises(UserError, match="symbols takes"):
        PlainAddition(2)
    with pytest.raises(UserError, match="width takes"):
        PlainAddition(3, 0)
