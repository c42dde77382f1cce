import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from unseen.lab import UserError
from unseen.worlds.clusters.digit_split import Digits


def test_every_digit_once_training_first():
    data = Digits.of("digits", 800).split(jax.random.key(3))
    assert data.images.shape == (1_797, 64)
    assert data.train.sum() == 800 and data.train[:800].all()
    np.testing.assert_array_equal(data.train + data.test, 1)
    peer = load_digits()
    rows = {
        (*np.round(x * 16).astype(int), y)
        for x, y in zip(np.asarray(data.images), np.asarray(data.labels), strict=False)
    }
    assert rows == {(*x.astype(int), y) for x, y in zip(peer.data, peer.target, strict=True)}


def test_keys_divide_anew():
    a, b = (Digits.of("digits", 800).split(jax.random.key(k)) for k in (0, 1))
    assert not np.array_equal(a.images[:800], b.images[:800])


def test_bad_sizes():
    with pytest.raises(UserError, match="training takes a number of digits from 1 to 1796"):
        Digits.of("digits", 1_797)
