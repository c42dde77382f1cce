"""How many members of a population really differ."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def effective_members(kernel: Float[Array, "members members"]) -> Float[Array, ""]:
    """exp(entropy of the kernel's eigenvalues, as shares of their sum): between 1 and the number of members.

    With ones on the diagonal it is the members' number if no two are alike, 1 if all are, and k for k equal
    clusters of identical members (the Vendi score; Friedman and Dieng 2023, definition 3.1). The kernel must be
    positive semi-definite; eigenvalues that rounding made negative count as 0.
    """
    share = jnp.clip(jnp.linalg.eigvalsh(kernel), 0.0)
    share = share / share.sum()
    return jnp.exp(-jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1.0)), 0.0)))
