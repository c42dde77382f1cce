"""One policy for many MDPs: the best that training environments can give without interaction in the target."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unseen.measures.exact import finite_horizon_optimum


def average_return_policy(
    transition: Float[Array, "mdps states actions states"],
    reward: Float[Array, "mdps states actions"],
    start: Float[Array, " states"],
    horizon: int,
    *,
    weights: Float[Array, " mdps"] | None = None,
    sweeps: int = 10,
) -> Int[Array, "{horizon} states"]:
    """A deterministic policy, one action for each step and state, with the largest weighted mean return over MDPs
    that block coordinate ascent finds.

    The mean return is linear in the policy of one step if those of the other steps stay, and its exact gradient
    there is `sum_m w_m d_m(s) Q_m(s, a)` (d: probability of s at that step, Q: value of a). Each step's policy is set
    to the best vertex, from the last step to the first, `sweeps` times; the return never falls. Ascent starts at the
    optimum of the average MDP. A global optimum is at a vertex too, but may not be the one found; with one MDP the
    result is optimal.

    Args:
        weights: of the MDPs, by default equal; zero leaves one out.
        sweeps: passes over all steps.

    Source: the objective of Ye et al. (2023), section 4, where it is optimised by an oracle.
    """
    mdps, states, _ = reward.shape
    weights = jnp.full(mdps, 1 / mdps) if weights is None else weights / weights.sum()
    everywhere = jnp.broadcast_to(start, (mdps, states))
    _, policy = finite_horizon_optimum(
        jnp.einsum("m,msat->sat", weights, transition), jnp.einsum("m,msa->sa", weights, reward), horizon
    )

    def forward(here: Array, chosen: Array) -> tuple[Array, Array]:
        return jnp.einsum("ms,mst->mt", here, transition[:, jnp.arange(states), chosen]), here

    def backward(after: Array, here: Array) -> tuple[Array, Array]:
        q = reward + jnp.einsum("msat,mt->msa", transition, after)
        chosen = jnp.einsum("m,ms,msa->sa", weights, here, q).argmax(1)
        return q[:, jnp.arange(states), chosen], chosen

    def sweep(policy: Array, _: None) -> tuple[Array, None]:
        _, reached = jax.lax.scan(forward, everywhere, policy)
        _, policy = jax.lax.scan(backward, jnp.zeros((mdps, states), reward.dtype), reached, reverse=True)
        return policy, None

    policy, _ = jax.lax.scan(sweep, policy, length=sweeps)
    return policy
