"""Planning over a handful of checkpoints: a small graph that stands for a whole task."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from unseen.lab import UserError


class ProxyPlan(NamedTuple):
    """Where to go next from each checkpoint.

    Attributes:
        values: discounted return from each vertex, 0 where no edge leads on.
        following: the next vertex, -1 where no edge leads on.
    """

    values: Float[Array, " vertices"]
    following: Int[Array, " vertices"]


class ProxyProblem(eqx.Module):
    """A task as a directed graph of checkpoints: to go from one to another pays something and takes a while.

    It is a semi-Markov decision problem whose states are the checkpoints and whose actions are the next ones. Shapes
    never change: what is pruned is masked, so that problems can be planned in one batch, each pruned its own way.

    Example:
        >>> problem = ProxyProblem.complete(reward, 0.95**distance).pruned(0.95**8)
        >>> problem.plan().following[0]   # the checkpoint to aim at from the first one

    Attributes:
        reward: expected discounted reward on the way from vertex i to vertex j.
        discount: expected discount at the arrival: of T steps E[gamma^T], 0 if one never arrives; below 1.
        edges: which ways exist.

    Source: Zhao et al., "Consciousness-inspired spatio-temporal abstractions for better generalization in
        reinforcement learning" (2024, arXiv 2310.00229), section 3; their code stops value iteration after five sweeps.
    """

    reward: Float[Array, "vertices vertices"]
    discount: Float[Array, "vertices vertices"]
    edges: Bool[Array, "vertices vertices"]

    @classmethod
    def complete(
        cls, reward: Float[Array, "vertices vertices"], discount: Float[Array, "vertices vertices"]
    ) -> ProxyProblem:
        """All ways from a vertex to another one."""
        return cls(reward, discount, ~jnp.eye(reward.shape[0], dtype=bool))

    # Pruning ---------------------------------------------------------------------------------------------

    def pruned(self, least: float | Float[Array, ""]) -> ProxyProblem:
        """Without the edges whose discount is below `least`: ways too long to be trusted."""
        return dataclasses.replace(self, edges=self.edges & (self.discount >= least))

    def only(self, vertices: Bool[Array, " vertices"]) -> ProxyProblem:
        """Without the edges to and from other vertices."""
        return dataclasses.replace(self, edges=self.edges & vertices[:, None] & vertices)

    def ending(self, vertices: Bool[Array, " vertices"]) -> ProxyProblem:
        """Without edges that lead on from vertices where the task ends."""
        return dataclasses.replace(self, edges=self.edges & ~vertices[:, None])

    # Planning --------------------------------------------------------------------------------------------

    def choices(self, values: Float[Array, " vertices"]) -> Float[Array, "vertices vertices"]:
        """Value of each way, given the values of its ends; minus infinity where there is none."""
        return jnp.where(self.edges, self.reward + self.discount * values, -jnp.inf)

    def plan(self, *, tolerance: float = 1e-6, sweeps: int = 1_000) -> ProxyPlan:
        """The best plan, by value iteration until no value changes by more than `tolerance` (or for `sweeps`).

        Ties go to the vertex with the lower number.
        """
        leads = self.edges.any(1)

        def sweep(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            values, _, count = carry
            better = jnp.where(leads, self.choices(values).max(1), 0.0)
            return better, jnp.abs(better - values).max(), count + 1

        def unfinished(carry: tuple[Array, Array, Array]) -> Array:
            return (carry[1] > tolerance) & (carry[2] < sweeps)

        start = (jnp.zeros(self.reward.shape[0]), jnp.array(jnp.inf), jnp.array(0))
        values, _, _ = jax.lax.while_loop(unfinished, sweep, start)
        return ProxyPlan(values, jnp.where(leads, self.choices(values).argmax(1), -1))

    def worth(self, following: Int[Array, " vertices"]) -> Float[Array, " vertices"]:
        """Values of a plan, this problem's or another's, by a linear solve; -1 stands for stopping.

        A step of the plan along an edge that this problem lacks leads nowhere: it pays nothing and is never over.
        """
        vertices = jnp.arange(len(following))
        there = (following >= 0) & self.edges[vertices, following]
        reward = jnp.where(there, self.reward[vertices, following], 0.0)
        onward = jnp.where(there, self.discount[vertices, following], 0.0)
        step = onward[:, None] * jax.nn.one_hot(following, len(following))
        return jnp.linalg.solve(jnp.eye(len(following)) - step, reward)


def proxy_bound(
    reward_error: float | Float[Array, ""],
    discount_error: float | Float[Array, ""],
    *,
    largest: float | Float[Array, ""],
    discount: float | Float[Array, ""],
) -> Float[Array, ""]:
    """How much less than the best plan a plan can be worth that was made with wrong edges.

    Both the plan made and the best plan are misjudged by at most `(reward_error + discount_error * largest) /
    (1 - discount)`, and the one that looks better was taken: hence twice that. It is the simulation lemma (Kearns and
    Singh, 2002) for the graph; like the guarantee of Zhao et al. (2024) it is linear in both errors.

    Args:
        reward_error, discount_error: largest error of an edge.
        largest: no plan is truly worth more than this at a vertex, in absolute value.
        discount: the largest estimated discount of an edge.

    Raises:
        UserError: if a `discount` that is a plain number is not from 0 to below 1.
    """
    if isinstance(discount, int | float) and not 0 <= discount < 1:
        raise UserError(f"discount takes a number from 0 to below 1, got {discount}.")
    return jnp.asarray(2 * (reward_error + discount_error * largest) / (1 - discount))


def medoids(
    distance: Float[Array, "points points"], count: int, fixed: Bool[Array, " points"] | None = None
) -> Bool[Array, " points"]:
    """`count` points to which the others are near: those that are `fixed`, then again and again the one that lowers the
    sum of distances to the nearest chosen one the most (the first phase of k-medoids; Kaufman and Rousseeuw, 1990).

    Which checkpoints to keep of many, with the present one and the goal fixed. Distances from i to j need not be
    symmetric; they must be finite. More fixed points than `count` all stay.

    Raises:
        UserError: if `count` is not a number from 1 to the number of points.
    """
    points = distance.shape[0]
    if not 1 <= count <= points:
        raise UserError(f"count takes a whole number from 1 to {points}, got {count}.")
    chosen = jnp.zeros(points, bool) if fixed is None else fixed
    far = distance.max() + 1

    def add(_: int | Int[Array, ""], chosen: Bool[Array, " points"]) -> Bool[Array, " points"]:
        nearest = jnp.where(chosen, distance, far).min(1)
        cost = jnp.minimum(nearest[:, None], distance).sum(0)
        best = jnp.where(chosen, jnp.inf, cost).argmin()
        return jnp.where(chosen.sum() < count, chosen.at[best].set(True), chosen)

    return jax.lax.fori_loop(0, count, add, chosen)


def plan_bound(
    estimated: ProxyProblem,
    reward_error: Float[Array, "vertices vertices"],
    discount_error: Float[Array, "vertices vertices"],
    *,
    made: Int[Array, " vertices"],
    best: Int[Array, " vertices"],
    largest: float | Float[Array, ""],
) -> Float[Array, " vertices"]:
    """How much less than the `best` plan the plan `made` from wrong edges can be worth, from each vertex.

    The argument of `proxy_bound`, without taking the largest error for all: each of the two plans is misjudged by at
    most the errors of the edges that it takes, discounted as estimated. So it is never above that bound, and says
    something where a few edges that nobody takes are badly wrong.

    Args:
        reward_error, discount_error: errors of the edges, in absolute value.
        made: the plan that looks best on the estimated edges (as `plan` gives it).
        best: the plan that is truly best on the same edges.
        largest: no plan is truly worth more than this at a vertex, in absolute value.
    """
    errors = dataclasses.replace(estimated, reward=reward_error + discount_error * largest)
    return errors.worth(made) + errors.worth(best)
