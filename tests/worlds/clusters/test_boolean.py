import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.clusters import BooleanTruth, bit_strings, boolean_functions


def test_strings_and_functions():
    np.testing.assert_array_equal(bit_strings(2), [[-1, -1], [-1, 1], [1, -1], [1, 1]])
    table = boolean_functions(2)
    assert table.shape == (16, 4) and len(np.unique(table, axis=0)) == 16
    np.testing.assert_array_equal(table[0b1000], [-1, -1, -1, 1])  # and
    assert boolean_functions(4).shape == (65_536, 16)


def test_samples():
    world = BooleanTruth(3, 0.1)
    truth = jnp.asarray(boolean_functions(3)[0b10010110])
    data = world.sample(jax.random.key(0), truth, 5_000)
    strings = np.asarray(data.inputs[0])
    np.testing.assert_array_equal(strings[5_000:], bit_strings(3))
    parity = np.prod(strings, 1)
    np.testing.assert_array_equal(data.labels, parity)  # 10010110 is the parity of three bits
    assert np.mean(data.targets[:5_000] != data.labels[:5_000]) == pytest.approx(0.1, abs=0.015)
    np.testing.assert_array_equal(data.targets[5_000:], truth)
    assert int(data.train.sum()) == 5_000 and int(data.test.sum()) == 8


@pytest.mark.parametrize("setting", [dict(bits=0), dict(flip=0.5), dict(flip=0.0)])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        BooleanTruth(**setting)


def test_too_many_functions():
    with pytest.raises(UserError, match="bits"):
        boolean_functions(5)
