"""Successor features and generalised policy improvement: old policies for new mixtures of rewards."""

from __future__ import annotations

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int

from unseen.measures.exact import action_values, policy_evaluation, value_iteration


class SuccessorFeatures(eqx.Module):
    """Expected discounted features after each state and action under each of several stored policies.

    With rewards that are linear in the features, `r(s, a) = features(s, a) @ mixture`, the value of every stored
    policy under a new mixture is one product away, and `policy` improves on all of them at once.

    Attributes:
        features: of each state and action.
        expected: psi, by policy, state and action.

    Source: Barreto et al., "Successor features for transfer in reinforcement learning" (2017), section 4.
    """

    features: Float[Array, "states actions features"]
    expected: Float[Array, "policies states actions features"]

    @classmethod
    def exact(
        cls,
        transition: Float[Array, "states actions states"],
        features: Float[Array, "states actions features"],
        policies: Float[Array, "policies states actions"],
        discount: float,
    ) -> SuccessorFeatures:
        """By linear solves: each feature's value under each policy."""

        def one(policy: Array, feature: Array) -> Array:
            values = policy_evaluation(transition, feature, policy, discount)
            return action_values(transition, feature, values, discount)

        over_features = jax.vmap(one, in_axes=(None, -1), out_axes=-1)
        return cls(features, jax.vmap(over_features, in_axes=(0, None))(policies, features))

    @classmethod
    def of_tasks(
        cls,
        transition: Float[Array, "states actions states"],
        features: Float[Array, "states actions features"],
        mixtures: Float[Array, "policies features"],
        discount: float,
    ) -> tuple[SuccessorFeatures, Float[Array, "policies states actions"]]:
        """Stores an optimal policy for each mixture; also returns the policies."""
        _, best = jax.vmap(lambda w: value_iteration(transition, features @ w, discount))(mixtures)
        policies = jax.nn.one_hot(best, features.shape[1], dtype=features.dtype)
        return cls.exact(transition, features, policies, discount), policies

    def values(self, mixture: Float[Array, " features"]) -> Float[Array, "policies states actions"]:
        """Action values of each stored policy under a mixture of rewards."""
        return self.expected @ mixture

    def policy(self, mixture: Float[Array, " features"]) -> Int[Array, " states"]:
        """Generalised policy improvement: in each state the action that is best under the best stored policy for
        it. Nowhere worse than any stored policy."""
        return self.values(mixture).max(0).argmax(1)
