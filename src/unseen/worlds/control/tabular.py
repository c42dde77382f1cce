"""Families of finite Markov decision processes as stacked arrays."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from unseen.lab import UserError


class TabularMDPs(eqx.Module):
    """A family of finite MDPs that share states and actions. Exact values are in `unseen.measures.exact`.

    Axes: `mdps` (dynamics and reward), and in what the constructors take.

    Attributes:
        transition: `P[m, s, a, t]`, probability of s -> t; sums to 1 over t.
        reward: `r[m, s, a]`.
        start: distribution of the first state, the same for all MDPs.
    """

    transition: Float[Array, "mdps states actions states"]
    reward: Float[Array, "mdps states actions"]
    start: Float[Array, " states"]

    def __len__(self) -> int:
        return self.transition.shape[0]

    @classmethod
    def garnet(
        cls, key: Key[Array, ""], mdps: int = 1, states: int = 5, actions: int = 3, branching: int = 2
    ) -> TabularMDPs:
        """Random MDPs in which each state-action pair leads to `branching` states (Archibald et al., 1995).

        Successors are drawn without replacement, their probabilities are the gaps between sorted uniform
        numbers, rewards are standard normal; the start is uniform.

        Raises:
            UserError: if `branching` is not between 1 and `states`.
        """
        if not 1 <= branching <= states:
            raise UserError(f"branching takes a whole number from 1 to the {states} states, got {branching}.")
        pick, split, pay = jax.random.split(key, 3)
        shape = (mdps, states, actions)
        ranks = jnp.argsort(jax.random.uniform(pick, (*shape, states)), axis=-1)[..., :branching]
        cuts = jnp.sort(jax.random.uniform(split, (*shape, branching - 1)), axis=-1)
        zero, one = jnp.zeros((*shape, 1)), jnp.ones((*shape, 1))
        share = jnp.diff(jnp.concatenate([zero, cuts, one], -1), axis=-1)
        transition = jnp.einsum("msabt,msab->msat", jax.nn.one_hot(ranks, states), share)
        return cls(transition, jax.random.normal(pay, shape), jnp.full(states, 1 / states))

    @classmethod
    def communicating(
        cls, key: Key[Array, ""], mdps: int = 1, states: int = 5, actions: int = 3, mixing: float = 0.1
    ) -> TabularMDPs:
        """Random MDPs in which every state is reached from every other: Dirichlet(1) rows mixed with the uniform
        distribution at weight `mixing`; rewards uniform in [0, 1], start uniform.

        Raises:
            UserError: if `mixing` is not above 0 and at most 1.
        """
        if not 0 < mixing <= 1:
            raise UserError(f"mixing takes a share above 0 and at most 1, got {mixing}.")
        move, pay = jax.random.split(key)
        shape = (mdps, states, actions)
        rows = jax.random.dirichlet(move, jnp.ones(states), shape)
        return cls((1 - mixing) * rows + mixing / states, jax.random.uniform(pay, shape), jnp.full(states, 1 / states))

    @classmethod
    def contexts(
        cls,
        key: Key[Array, ""],
        contexts: int = 2,
        states: int = 5,
        actions: int = 3,
        branching: int = 2,
        similarity: float = 0.0,
    ) -> TabularMDPs:
        """One contextual MDP: Garnets that share the reward and differ in dynamics, as physical contexts do.

        Args:
            similarity: share of a common Garnet in every context's dynamics; at 1 all contexts are the same.

        Raises:
            UserError: if `similarity` is not in [0, 1].
        """
        if not 0 <= similarity <= 1:
            raise UserError(f"similarity takes a share from 0 to 1, got {similarity}.")
        family = cls.garnet(key, contexts + 1, states, actions, branching)
        common, own = family.transition[:1], family.transition[1:]
        reward = jnp.broadcast_to(family.reward[:1], (contexts, states, actions))
        return cls(similarity * common + (1 - similarity) * own, reward, family.start)

    @classmethod
    def chain(cls, mdps: int = 1, states: int = 6, slip: float = 0.0) -> TabularMDPs:
        """A linear track: `left` (0) and `right` (1), reward 1 for `right` at the right end, start at the left end.
        A move fails (nothing happens) with probability `slip`. All `mdps` are the same.

        Raises:
            UserError: on fewer than two states, or a slip that is no probability.
        """
        if states < 2 or not 0 <= slip <= 1:
            raise UserError(f"chain takes at least 2 states and a slip in [0, 1], got {states} and {slip}.")
        here = jnp.arange(states)
        targets = jnp.stack([jnp.maximum(here - 1, 0), jnp.minimum(here + 1, states - 1)], 1)
        moved, stayed = jax.nn.one_hot(targets, states), jax.nn.one_hot(here, states)[:, None]
        reward = jnp.zeros((states, 2)).at[-1, 1].set(1.0)
        transition = (1 - slip) * moved + slip * stayed
        return cls(_copies(transition, mdps), _copies(reward, mdps), jax.nn.one_hot(0, states))

    @classmethod
    def river_swim(cls, mdps: int = 1, states: int = 6) -> TabularMDPs:
        """RiverSwim (Strehl and Littman, 2008): swimming right against the current leads to reward 1 at the far
        bank, drifting left to 0.005 at the near one. Left always succeeds. Right advances with probability 0.35,
        stays with 0.6 and falls back with 0.05; at the left end it advances with 0.6, at the right one stays
        with 0.6.

        Raises:
            UserError: on fewer than three states.
        """
        if states < 3:
            raise UserError(f"river_swim takes at least 3 states, got {states}.")
        here = jnp.arange(states)
        left = jax.nn.one_hot(jnp.maximum(here - 1, 0), states)
        right = 0.6 * jnp.eye(states) + 0.35 * jnp.eye(states, k=1) + 0.05 * jnp.eye(states, k=-1)
        right = right.at[0].set(jnp.zeros(states).at[0].set(0.4).at[1].set(0.6))
        right = right.at[-1].set(jnp.zeros(states).at[-1].set(0.6).at[-2].set(0.4))
        reward = jnp.zeros((states, 2)).at[0, 0].set(0.005).at[-1, 1].set(1.0)
        transition = jnp.stack([left, right], 1)
        return cls(_copies(transition, mdps), _copies(reward, mdps), jax.nn.one_hot(0, states))


def _copies(one: Array, mdps: int) -> Array:
    return jnp.broadcast_to(one, (mdps, *one.shape))
