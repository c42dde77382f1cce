"""Sharpness of any loss at any parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class Curvature:
    """The second derivatives of a loss at a point, and how far it rises around it.

    Works on what a user has: any pytree of parameters (its inexact arrays are varied, the rest stays) and any
    function of it; nothing larger than a few vectors of parameters is ever stored, except by Lanczos' iteration.

    Example:
        >>> curvature = Curvature(lambda model: cross_entropy(jax.vmap(model)(images), labels).mean(), model)
        >>> curvature.hutchinson(jax.random.key(0)), curvature.largest_eigenvalue(jax.random.key(1))

    Attributes:
        loss: parameters -> number.
        params: where to look.
    """

    loss: Callable[[Any], Float[Array, ""]]
    params: Any

    def _flat(self) -> tuple[Float[Array, " p"], Callable[[Float[Array, " p"]], Float[Array, ""]]]:
        varied, still = eqx.partition(self.params, eqx.is_inexact_array)
        flat, unravel = ravel_pytree(varied)
        return flat, lambda w: self.loss(eqx.combine(unravel(w), still))

    def product(self, vector: Float[Array, " p"]) -> Float[Array, " p"]:
        """Hessian times a vector over all parameters, flattened in their pytree's order."""
        flat, loss = self._flat()
        return jax.jvp(jax.grad(loss), (flat,), (vector,))[1]

    def trace(self) -> Float[Array, ""]:
        """Trace of the Hessian, exactly: one product a parameter, so for small networks."""
        flat, _ = self._flat()

        def entry(i: Array) -> Array:
            return self.product(jax.nn.one_hot(i, flat.size, dtype=flat.dtype))[i]

        return jnp.sum(jax.lax.map(entry, jnp.arange(flat.size), batch_size=min(flat.size, 64)))

    def hutchinson(self, key: PRNGKeyArray, probes: int = 64) -> Float[Array, ""]:
        """Trace of the Hessian, estimated: the mean of v'Hv over vectors v of random signs, which is unbiased with
        variance 2/probes times the sum of the squared entries off the diagonal.

        Source: Hutchinson (1989), "A stochastic estimator of the trace of the influence matrix".
        """
        flat, _ = self._flat()

        def probe(key: PRNGKeyArray) -> Array:
            v = jax.random.rademacher(key, flat.shape, flat.dtype)
            return v @ self.product(v)

        return jax.lax.map(probe, jax.random.split(key, probes)).mean()

    def largest_eigenvalue(self, key: PRNGKeyArray, iterations: int = 32) -> Float[Array, ""]:
        """Largest (most positive) eigenvalue of the Hessian by Lanczos' iteration with full reorthogonalisation: a
        lower bound that grows with the iterations, and exact with as many of them as parameters.

        Args:
            key: of the first vector.
            iterations: Hessian-vector products; as many vectors are stored.
        """
        flat, _ = self._flat()
        iterations = min(iterations, flat.size)
        first = jax.random.normal(key, flat.shape, flat.dtype)

        def step(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            basis, vector = carry
            basis = basis.at[i].set(vector)
            image = self.product(vector)
            rest = image
            for _ in range(2):  # once loses orthogonality in single precision
                rest = rest - basis.T @ (basis @ rest)
            length = jnp.linalg.norm(rest)
            # An invariant subspace is exhausted where nothing is left: the rest of the tridiagonal matrix is 0.
            done = length <= 1e-6 * jnp.linalg.norm(image)
            following = jnp.where(done, 0.0, rest / jnp.where(done, 1.0, length))
            return (basis, following), (vector @ image, jnp.where(done, 0.0, length))

        start = (jnp.zeros((iterations, flat.size), flat.dtype), first / jnp.linalg.norm(first))
        (basis, _), (diagonal, beside) = jax.lax.scan(step, start, jnp.arange(iterations))
        # Rows that were never filled must not add an eigenvalue above the others: the first Rayleigh quotient is none.
        diagonal = jnp.where(jnp.sum(basis**2, 1) > 0.5, diagonal, diagonal[0])
        small = jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1)
        return jnp.linalg.eigvalsh(small)[-1]

    def average_rise(self, key: PRNGKeyArray, radius: float, draws: int = 64) -> Float[Array, ""]:
        """Mean rise of the loss at random points of the sphere of a radius around the parameters."""
        flat, loss = self._flat()

        def rise(key: PRNGKeyArray) -> Array:
            direction = jax.random.normal(key, flat.shape, flat.dtype)
            return loss(flat + radius * direction / jnp.linalg.norm(direction))

        return jax.lax.map(rise, jax.random.split(key, draws)).mean() - loss(flat)

    def worst_rise(self, key: PRNGKeyArray, radius: float, steps: int = 20) -> Float[Array, ""]:
        """Largest rise of the loss in the ball of a radius that gradient ascent finds: from a random point of its
        sphere, `steps` times to where the gradient points on the sphere. A lower bound of the worst case.

        Source: the inner problem of Foret et al. (2021, arXiv 2010.01412), equation 1, solved by more than one step.
        """
        flat, loss = self._flat()
        here = loss(flat)

        def ascend(direction: Array, _: None) -> tuple[Array, Array]:
            value, gradient = jax.value_and_grad(loss)(flat + radius * direction)
            length = jnp.linalg.norm(gradient)
            return jnp.where(length > 0, gradient / jnp.where(length > 0, length, 1.0), direction), value

        start = jax.random.normal(key, flat.shape, flat.dtype)
        last, values = jax.lax.scan(ascend, start / jnp.linalg.norm(start), length=steps)
        return jnp.maximum(jnp.maximum(values.max(), loss(flat + radius * last)), here) - here


def squared_loss_trace(outputs: Callable[[Any], Float[Array, " n"]], params: Any) -> Float[Array, ""]:
    """(2/n) sum_i |gradient of output i|^2: the trace of the Hessian of the mean squared error where it is 0 (and
    everywhere, where the outputs have no second derivatives of their own on the diagonal, as in two-layer ReLU
    networks).

    Args:
        outputs: parameters -> one output an example.
        params: any pytree; its inexact arrays count.

    Source: Wen et al. (2023, arXiv 2307.11007).
    """
    varied, still = eqx.partition(params, eqx.is_inexact_array)
    jacobian = jax.jacrev(lambda w: outputs(eqx.combine(w, still)))(varied)
    leaves = jax.tree.leaves(jacobian)
    return 2 / leaves[0].shape[0] * sum((jnp.sum(leaf**2) for leaf in leaves), jnp.zeros(()))
