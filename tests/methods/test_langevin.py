import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.methods import SGLD

KEY = jax.random.key(0)


def run(optimizer_of, start, gradient, steps):
    def one(key, w):
        optimizer = optimizer_of(key)

        def step(carry, _):
            w, state = carry
            updates, state = optimizer.update(gradient(w), state, w)
            return (optax.apply_updates(w, updates), state), None

        return jax.lax.scan(step, (w, optimizer.init(w)), length=steps)[0][0]

    return jax.jit(jax.vmap(one))(jax.random.split(KEY, len(start)), start)


def test_samples_a_normal_posterior():
    """Ten observations of mean 1 with unit noise under a prior of precision 2: mean 10/12, variance 1/12."""
    start = jax.random.normal(KEY, (8_000,))
    ends = run(lambda key: SGLD(0.01, 10, precision=2.0, key=key), start, lambda w: w - 1.0, 600)
    assert ends.mean() == pytest.approx(10 / 12, abs=0.02)
    assert ends.var() == pytest.approx(1 / 12, rel=0.08)


@pytest.mark.parametrize(("precision", "expected"), [(2.0, 10 / 12), (0.0, 1.0)])
def test_without_temperature_it_descends(precision, expected):
    start = jax.random.normal(KEY, (5,))
    ends = run(lambda key: SGLD(0.01, 10, precision=precision, temperature=0.0, key=key), start, lambda w: w - 1.0, 600)
    np.testing.assert_allclose(ends, expected, atol=1e-4)


def test_it_needs_the_parameters():
    optimizer = SGLD(0.01, 10)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
