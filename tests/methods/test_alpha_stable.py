import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import kstest, levy_stable

from unseen.methods import AlphaStableNoise, alpha_stable, isotropic_alpha_stable

KEY = jax.random.key(0)
DRAWS = 200_000


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.2, 1.6, 2.0])
def test_characteristic_function(alpha):
    values = np.asarray(alpha_stable(KEY, alpha, (DRAWS,)))
    for t in (0.3, 1.0, 2.0):
        assert np.cos(t * values).mean() == pytest.approx(np.exp(-(t**alpha)), abs=5 / np.sqrt(DRAWS))


@pytest.mark.parametrize("alpha", [1.2, 1.6, 2.0])
def test_same_law_as_scipy(alpha):
    """Kolmogorov and Smirnov's test against scipy's distribution function, on a grid of it."""
    values = np.asarray(alpha_stable(KEY, alpha, (4_000,)))
    grid = np.concatenate([-np.geomspace(1e4, 1e-2, 60), [0], np.geomspace(1e-2, 1e4, 60)])
    known = levy_stable.cdf(grid, alpha, 0) if alpha < 2 else levy_stable.cdf(grid, 2.0, 0)
    assert kstest(values, lambda x: np.interp(x, grid, known)).pvalue > 0.001


@pytest.mark.parametrize("alpha", [1.2, 1.6, 2.0])
def test_isotropic_characteristic_function(alpha):
    values = np.asarray(isotropic_alpha_stable(KEY, alpha, 3, (DRAWS,)))
    assert np.isfinite(values).all()
    for direction in ([1.0, 0, 0], [0.5, -0.5, 0.7], [1.0, 1.0, 1.0]):
        expected = np.exp(-(np.linalg.norm(direction) ** alpha))
        assert np.cos(values @ direction).mean() == pytest.approx(expected, abs=5 / np.sqrt(DRAWS))


def test_coordinates_jump_together():
    """Large vectors of the isotropic law are large in both coordinates; independent coordinates jump one by one."""
    together = np.abs(isotropic_alpha_stable(KEY, 1.2, 2, (DRAWS,)))
    alone = np.abs(alpha_stable(KEY, 1.2, (DRAWS, 2)))
    both = [np.mean(v.min(1)[v.max(1) > 30] > 3) for v in (together, alone)]
    assert both[0] > 0.9 and both[1] < 0.4


@pytest.mark.parametrize("isotropic", [True, False])
def test_noise_in_a_chain(isotropic):
    """A random walk of 100 steps of scale s has characteristic function exp(-100 |s t|^alpha)."""
    params = {"a": jnp.zeros(2), "b": jnp.zeros((1, 1))}

    def walk(key):
        optimizer = optax.chain(optax.sgd(0.1), AlphaStableNoise(1.5, 0.05, isotropic=isotropic, key=key))

        def step(carry, _):
            w, state = carry
            updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, w), state, w)
            return (optax.apply_updates(w, updates), state), None

        (w, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=100)
        return w["a"][1]

    ends = np.asarray(jax.jit(jax.vmap(walk))(jax.random.split(KEY, 20_000)))
    assert np.cos(ends).mean() == pytest.approx(np.exp(-100 * 0.05**1.5), abs=5 / np.sqrt(20_000))


def test_noise_follows_from_the_start():
    noise = AlphaStableNoise(1.5, 1.0)
    zero = jnp.zeros(3)
    first, again, other = (noise.update(zero, noise.init(w))[0] for w in (zero, zero, zero.at[1].set(1e-6)))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
