import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.models.local_field import local_field


def test_what_is_near():
    planes = jnp.arange(2 * 36.0).reshape(6, 6, 2) + 1
    assert np.array_equal(local_field(planes, jnp.array([2, 3]), 3), planes[1:4, 2:5])
    corner = np.asarray(local_field(planes, jnp.array([0, 5])))
    assert np.array_equal(corner[2:, :3], planes[:3, 3:]) and (corner[:2] == 0).all() and (corner[:, 3:] == 0).all()
    assert np.array_equal(corner[2, 2], planes[0, 5])
    with pytest.raises(UserError, match="size takes an odd number from 1 on, got 4"):
        local_field(planes, jnp.array([0, 0]), 4)
