import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from unseen.measures import Curvature, squared_loss_trace
from unseen.models import XorNets

KEY = jax.random.key(0)


def quadratic(eigenvalues):
    """w'Aw/2 with these eigenvalues, on a pytree of two arrays."""
    n = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))
    matrix = jnp.asarray(basis @ np.diag(eigenvalues) @ basis.T, jnp.float32)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(n - 2), "name": "still"}
    return Curvature(lambda p: 0.5 * (w := jnp.concatenate([p["a"], p["b"]])) @ matrix @ w, params)


@pytest.mark.parametrize("values", [[3.0, 1.0, 0.5, 0.0, -2.0], [-1.0, -2.0, -3.0, -4.0], [2.0, 2.0, 2.0]])
def test_quadratic(values):
    curvature = quadratic(values)
    assert curvature.trace() == pytest.approx(sum(values), abs=1e-5)
    assert curvature.largest_eigenvalue(KEY) == pytest.approx(max(values), abs=1e-4)
    assert curvature.hutchinson(KEY, probes=4_000) == pytest.approx(sum(values), abs=0.25)
    # On the sphere of radius r the mean of w'Aw/2 is r^2 trace/(2 n); its largest value r^2 max/2.
    assert curvature.average_rise(KEY, 2.0, draws=4_000) == pytest.approx(4 * sum(values) / 2 / len(values), abs=0.1)


def test_worst_rise_of_a_bowl():
    assert quadratic([3.0, 1.0, 0.5]).worst_rise(KEY, 2.0, steps=50) == pytest.approx(4 * 3 / 2, rel=1e-4)
    slope = jnp.arange(1.0, 5)
    line = Curvature(lambda w: w @ slope, jnp.ones(4))
    assert line.worst_rise(KEY, 0.5) == pytest.approx(0.5 * float(jnp.linalg.norm(slope)), rel=1e-5)
    assert Curvature(lambda w: -jnp.sum(w**2), jnp.zeros(3)).worst_rise(KEY, 1.0) == 0  # the top


def network():
    """512 parameters, and a smooth loss."""
    net = eqx.nn.MLP(6, "scalar", 21, 2, jnp.tanh, key=KEY)
    x, y = jax.random.normal(KEY, (20, 6)), jax.random.normal(jax.random.key(1), (20,))
    return net, lambda model: jnp.mean((jax.vmap(model)(x) - y) ** 2)


def test_traces_and_eigenvalue_of_a_network():
    net, loss = network()
    flat, unravel = ravel_pytree(eqx.filter(net, eqx.is_inexact_array))
    static = eqx.filter(net, eqx.is_inexact_array, inverse=True)
    assert 500 < flat.size < 700
    hessian = np.asarray(jax.hessian(lambda w: loss(eqx.combine(unravel(w), static)))(flat))
    curvature = Curvature(loss, net)
    assert curvature.trace() == pytest.approx(np.trace(hessian), rel=1e-4)
    assert curvature.largest_eigenvalue(KEY) == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-4)
    off = np.sum(hessian**2) - np.sum(np.diag(hessian) ** 2)
    estimates = jax.jit(lambda k: jax.vmap(lambda k: curvature.hutchinson(k))(jax.random.split(k, 64)))(KEY)
    assert estimates.mean() == pytest.approx(np.trace(hessian), rel=0.02)
    assert np.std(estimates) == pytest.approx(np.sqrt(2 * off / 64), rel=0.3)


@pytest.mark.parametrize("kind", ["plain", "bias", "normalised"])
def test_at_interpolation_the_trace_is_that_of_the_gradients(kind):
    net = XorNets(5, 8, kind, key=KEY)
    x = jax.random.normal(KEY, (7, 5))
    targets = net(x)
    fitted = Curvature(lambda model: jnp.mean((model(x) - targets) ** 2), net)
    assert fitted.trace() == pytest.approx(float(squared_loss_trace(lambda m: m(x), net)), rel=1e-4)
    off = Curvature(lambda model: jnp.mean((model(x) - targets - 1) ** 2), net)
    same = float(off.trace()) == pytest.approx(float(fitted.trace()), rel=1e-3)
    assert same == (kind != "normalised")  # without them no output has a second derivative on the diagonal
