"""Behaviours kept while they are there, and chosen again later."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from unseen.lab import UserError


class SnapshotStore(eqx.Module):
    """Copies of a policy's arrays along its training. Pure: `add` returns a new store.

    Example:
        >>> store = SnapshotStore.empty(policy, 20)
        >>> store = store.add(policy)
        >>> first = store[0]

    Attributes:
        policies: one policy pytree, its arrays with a leading axis of `capacity`.
        count: how many have been added; from `capacity` on, new ones take the place of the oldest.
    """

    policies: PyTree
    count: Int[Array, ""]

    @classmethod
    def empty(cls, policy: PyTree, capacity: int) -> SnapshotStore:
        """Room for policies like this one.

        Raises:
            UserError: on a capacity below 1.
        """
        if capacity < 1:
            raise UserError(f"capacity takes a whole number from 1 on, got {capacity}.")
        arrays, static = eqx.partition(policy, eqx.is_array)
        room = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), arrays)
        return cls(eqx.combine(room, static), jnp.zeros((), int))

    def add(self, policy: PyTree) -> SnapshotStore:
        """The policy as it is now."""
        arrays, static = eqx.partition(self.policies, eqx.is_array)
        slot = self.count % jax.tree.leaves(arrays)[0].shape[0]
        arrays = jax.tree.map(lambda room, new: room.at[slot].set(new), arrays, eqx.filter(policy, eqx.is_array))
        return SnapshotStore(eqx.combine(arrays, static), self.count + 1)

    def __getitem__(self, index: int | Int[Array, ""]) -> Any:
        """The policy in a slot."""
        arrays, static = eqx.partition(self.policies, eqx.is_array)
        return eqx.combine(jax.tree.map(lambda leaf: leaf[index], arrays), static)


class SkillScheduler(eqx.Module):
    """Chooses, every `period` steps, which of several stored policies acts, or the new one that is being learned.

    At first the new policy is chosen half of the time and the allowed stored ones share the other half, however many
    they are; where none is allowed the new one always acts.

    Attributes:
        net: observation -> logits beside these preferences, of the stored policies and, last, of the new one.
        allowed: which of the stored policies may be chosen.
        period: steps for which a choice holds.

    Source: Groth et al. (2021), reuse of snapshots.
    """

    net: eqx.nn.MLP
    allowed: Bool[Array, " stored"]
    period: int = eqx.field(static=True)

    def __init__(
        self, observation: int, allowed: Bool[Array, " stored"], width: int = 64, depth: int = 1, period: int = 8,
        *, key: Key[Array, ""],
    ):  # fmt: skip
        self.net = eqx.nn.MLP(observation, allowed.size + 1, width, depth, jnp.tanh, key=key)
        # Nothing is preferred before there is a reason.
        self.net = eqx.tree_at(lambda net: net.layers[-1], self.net, replace_fn=_silent)
        self.allowed, self.period = allowed, period

    @property
    def new(self) -> int:
        """The new policy's number."""
        return self.allowed.shape[-1]

    def log_probs(self, observation: Float[Array, " obs"]) -> Float[Array, " choices"]:
        """Log probabilities of the choices; very low (-1e9) where a policy is not allowed."""
        share = jnp.log(jnp.maximum(self.allowed.sum(), 1.0))
        preference = jnp.append(jnp.where(self.allowed, -share, -1e9), 0.0)
        return jax.nn.log_softmax(self.net(observation) + preference)

    def options(self, stored: PyTree, new: PyTree) -> Any:
        """Stored policies (stacked) and the new one as one stack, as the choices count them."""
        stored, static = eqx.partition(stored, eqx.is_array)
        both = jax.tree.map(lambda old, one: jnp.concatenate([old, one[None]]), stored, eqx.filter(new, eqx.is_array))
        return eqx.combine(both, static)


def _silent(layer: eqx.nn.Linear) -> eqx.nn.Linear:
    return jax.tree.map(jnp.zeros_like, layer)
