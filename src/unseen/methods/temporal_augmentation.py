"""Goals from other trajectories: temporal augmentation of a goal-conditioned log."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import UserError


class TemporalAugmentation(eqx.Module):
    """Swaps a goal for a later state of any trajectory that passes nearby.

    States of the log are clustered by k-means. A goal g of a training example (s, a, g), itself a later state
    of the trajectory of s, is replaced with some probability: a waypoint w is drawn uniformly from the
    states in the cluster of g, and the new goal uniformly from w and the states after it in w's own
    trajectory. If the two states of the cluster are near in truth, a still leads from s towards the new goal.

    Works on any log given as padded arrays; places in it are (episode, time) with time counted in states.

    Source: Ghugare et al. (2024, arXiv 2401.11237), section 5 and algorithm 1.

    Example:
        >>> swap = TemporalAugmentation.of(log.achieved, log.length, clusters=40)
        >>> episode, time = swap(key, goal_episode, goal_time, probability=0.5)

    Attributes:
        cluster: `[episode, state]`, the cluster of each state (meaningless after an episode's end).
        members: (episode, time) of every state, sorted by cluster, then by place in the log.
        place: the members' sort keys, cluster * stride + number of transitions before the state.
        length: actions of each episode (states - 1).
        stride: larger than any number of transitions.
    """

    cluster: Int[Array, "episode state"]
    members: Int[Array, "member 2"]
    place: Int[Array, " member"]
    length: Int[Array, " episode"]
    stride: int = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        states: Float[Array, "episode state features"],
        length: Int[Array, " episode"],
        *,
        clusters: int = 40,
        seed: int = 0,
        fit: int = 20_000,
    ) -> TemporalAugmentation:
        """Cluster a log's states.

        Args:
            states: what nearness is judged on (achieved goals, or whole observations), padded over time.
            length: actions of each episode; its states are the first length + 1.
            clusters: number of clusters; the paper takes 20 to 80 for mazes of rising size.
            seed: of the k-means++ start and of the subsample that the centres are fitted to.
            fit: number of states that the centres are fitted to.

        Raises:
            UserError: if there are fewer states than clusters.
        """
        from scipy.cluster.vq import kmeans2, vq

        values, lengths = np.asarray(states, np.float64), np.asarray(length)
        inside = np.arange(values.shape[1]) <= lengths[:, None]
        points = values[inside]
        if not 1 <= clusters <= len(points):
            raise UserError(
                f"clusters takes a whole number from 1 to the {len(points)} states of the log, got {clusters}."
            )
        rng = np.random.default_rng(seed)
        sample = points if len(points) <= fit else points[rng.choice(len(points), fit, replace=False)]
        centres, _ = kmeans2(sample, clusters, iter=50, minit="++", rng=rng)
        labels = np.zeros(inside.shape, np.int32)
        labels[inside] = vq(points, centres)[0]
        episode, time = np.nonzero(inside)
        stride = int(lengths.sum()) + 1
        if clusters * stride >= 2**31:
            raise UserError(f"clusters times transitions must stay below 2^31, got {clusters} times {stride - 1}.")
        before = (np.cumsum(lengths) - lengths)[episode] + time
        place = labels[inside].astype(np.int64) * stride + np.minimum(before, stride - 1)
        order = np.argsort(place, kind="stable")
        return cls(
            jnp.asarray(labels),
            jnp.asarray(np.stack([episode, time], axis=1)[order], jnp.int32),
            jnp.asarray(place[order], jnp.int32),
            jnp.asarray(lengths, jnp.int32),
            stride,
        )

    def waypoint(
        self,
        key: PRNGKeyArray,
        episode: Int[Array, " batch"],
        time: Int[Array, " batch"],
        *,
        limit: int | Int[Array, ""] | None = None,
    ) -> tuple[Int[Array, " batch"], Int[Array, " batch"]]:
        """A state uniform over the cluster of each given state, among those with fewer than `limit`
        transitions before them in the log (all of them by default)."""
        cluster = self.cluster[episode, time]
        first = jnp.searchsorted(self.place, cluster * self.stride)
        last = jnp.searchsorted(
            self.place,
            cluster * self.stride + (self.stride if limit is None else jnp.minimum(limit, self.stride)),
        )
        u = jax.random.uniform(key, episode.shape)
        chosen = first + jnp.floor(u * jnp.maximum(last - first, 1)).astype(int)
        member = self.members[jnp.minimum(chosen, len(self.members) - 1)]
        return member[:, 0], member[:, 1]

    def __call__(
        self,
        key: PRNGKeyArray,
        episode: Int[Array, " batch"],
        time: Int[Array, " batch"],
        *,
        probability: float | Float[Array, ""] = 0.5,
        limit: int | Int[Array, ""] | None = None,
    ) -> tuple[Int[Array, " batch"], Int[Array, " batch"]]:
        """New places of the goals at the given places, each swapped with `probability`."""
        of_waypoint, of_goal, of_coin = jax.random.split(key, 3)
        other, passed = self.waypoint(of_waypoint, episode, time, limit=limit)
        later = jnp.floor(jax.random.uniform(of_goal, time.shape) * (self.length[other] - passed + 1)).astype(int)
        coin = jax.random.uniform(of_coin, time.shape) < probability
        return jnp.where(coin, other, episode), jnp.where(coin, passed + later, time)
