"""A loss that is not convex and yet pulls back from far away."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = float | Float[Array, ""]


class DissipativeLoss(eqx.Module):
    """Robust regression: mean of r^2/(1 + r^2) over residuals r = w.x - y, plus pull/2 |w|^2.

    The first part is bounded by 1 and not convex; the second makes the whole dissipative: <w, grad F(w)> grows at
    least like m |w|^2 - K.

    Source: the conditions of Raj et al. (2023, arXiv 2301.11885). the loss is Geman and McClure's (1985).

    Attributes:
        pull: strength of the pull back to 0; with 0 the loss is flat far away.
    """

    pull: Scalar = 0.1

    def pointwise(
        self, w: Float[Array, " dimension"], x: Float[Array, "n dimension"], y: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """The bounded part, of each example."""
        squared = (x @ w - y) ** 2
        return squared / (1 + squared)

    def __call__(
        self, w: Float[Array, " dimension"], x: Float[Array, "n dimension"], y: Float[Array, " n"]
    ) -> Float[Array, ""]:
        """The training loss."""
        return self.pointwise(w, x, y).mean() + self.pull / 2 * jnp.sum(w**2)

    def dissipativity(self, x: Float[Array, "n dimension"]) -> tuple[Scalar, Float[Array, ""]]:
        """m and K with <w, grad F(w)> >= m |w|^2 - K for all w: m = pull/2 and K = B^2/(2 pull), where
        B = 3 sqrt(3)/8 mean |x| bounds the gradient of the first part."""
        bound = 3 * jnp.sqrt(3.0) / 8 * jnp.linalg.norm(x, axis=1).mean()
        return self.pull / 2, bound**2 / (2 * self.pull)
