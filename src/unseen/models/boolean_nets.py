"""Small networks as hypotheses: every Boolean function of a few bits has a weight under their prior."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class BooleanNets(eqx.Module):
    """A stack of networks g(x) = v . relu(W x + b)/sqrt(width) + c on bits, all weights standard normal; each is the
    Boolean function sign(g).

    Hypotheses for Feder et al. (2025, arXiv 2506.07661), whose theory comes without an experiment; priors over
    functions from random weights as in Mingard et al. (2019, arXiv 1909.11522).

    Attributes:
        hidden: W of all members side by side and, in the last row, b.
        readout: v.
        offset: c.
    """

    hidden: Float[Array, "rows members width"]
    readout: Float[Array, "members width"]
    offset: Float[Array, " members"]

    def __init__(self, bits: int, width: int, members: int, *, key: PRNGKeyArray):
        """Networks drawn from the prior."""
        w, v, c = jax.random.split(key, 3)
        self.hidden = jax.random.normal(w, (bits + 1, members, width))
        self.readout = jax.random.normal(v, (members, width))
        self.offset = jax.random.normal(c, (members,))

    def __call__(self, x: Float[Array, "points bits"]) -> Float[Array, "points members"]:
        """Outputs g of all members."""
        with_one = jnp.concatenate([x, jnp.ones_like(x[:, :1])], -1)
        read = jax.nn.relu(jnp.tensordot(with_one, self.hidden, 1))  # one matrix product for all members
        return jnp.sum(read * self.readout, -1) / jnp.sqrt(self.readout.shape[-1]) + self.offset

    def functions(self, strings: Float[Array, "strings bits"]) -> Int[Array, " members"]:
        """Which function of these strings each member is: bit j is set where it is positive at string j."""
        return jnp.sum((self(strings) > 0) * (1 << jnp.arange(len(strings)))[:, None], 0)
