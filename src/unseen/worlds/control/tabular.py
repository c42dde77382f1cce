"""Families of finite Markov decision processes as stacked arrays."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from unseen.lab import UserError
from unseen.worlds.control.maze import LAYOUTS

Cell = tuple[int, int]


class TabularMDPs(eqx.Module):
    """A family of finite MDPs that share states and actions. Exact values are in `unseen.measures.exact`.

    Axes: `mdps` (dynamics and reward), and in what the constructors take: `similarity` of contexts, `goals` and
    `closed` cells of grids, `slip`, and the number of states.

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
        cls,
        key: Key[Array, ""],
        mdps: int = 1,
        states: int = 5,
        actions: int = 3,
        mixing: float = 0.1,
        branching: int | None = None,
    ) -> TabularMDPs:
        """Random MDPs in which every state can be reached from every other; rewards uniform in [0, 1], start uniform.

        Rows are Dirichlet(1), mixed with the uniform distribution at weight `mixing`.

        Args:
            branching: number of successors of each state-action pair, over which a row is spread; by default all
                states. A random cycle through all states is among the successors of every action, which is what
                keeps a sparse process communicating.

        Raises:
            UserError: if `mixing` is not above 0 and at most 1, or `branching` not between 1 and `states`.
        """
        if not 0 < mixing <= 1:
            raise UserError(f"mixing takes a share above 0 and at most 1, got {mixing}.")
        branching = states if branching is None else branching
        if not 1 <= branching <= states:
            raise UserError(f"branching takes a whole number from 1 to the {states} states, got {branching}.")
        move, pay, pick, cycle = jax.random.split(key, 4)
        shape = (mdps, states, actions)
        order = jnp.argsort(jax.random.uniform(cycle, (mdps, states)), axis=-1)
        heir = jnp.zeros((mdps, states), int).at[jnp.arange(mdps)[:, None], order].set(jnp.roll(order, -1, axis=-1))
        # The heir comes first in a random order of the states, then as many others as there are branches.
        rank = jax.random.uniform(pick, (*shape, states)) - jax.nn.one_hot(heir, states)[:, :, None]
        successors = jax.nn.one_hot(jnp.argsort(rank, axis=-1)[..., :branching], states)
        rows = (1 - mixing) * jax.random.dirichlet(move, jnp.ones(branching), shape) + mixing / branching
        transition = jnp.einsum("msabt,msab->msat", successors, rows)
        return cls(transition, jax.random.uniform(pay, shape), jnp.full(states, 1 / states))

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

    @classmethod
    def deep_sea(cls, key: Key[Array, ""], mdps: int = 1, size: int = 8, scrambled: bool = True) -> TabularMDPs:
        """DeepSea (Osband et al., 2020, "Behaviour suite", section A.9): a diver falls one row a step from the top
        left of a `size` x `size` sea and drifts left or right; only right at all steps reaches the treasure.

        Moving right costs 0.01/size; right at the bottom right pays 1 more. From the last row every action leads
        to one absorbing state (the last), which pays nothing.

        Args:
            scrambled: which of the two actions moves right is drawn for every cell of every MDP; otherwise 1 does.

        Raises:
            UserError: on a size below two.
        """
        if size < 2:
            raise UserError(f"size takes a whole number from 2 on, got {size}.")
        row, column = (a.ravel() for a in jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij"))
        end, last = size * size, row == size - 1
        sideways = jnp.stack([jnp.maximum(column - 1, 0), jnp.minimum(column + 1, size - 1)], 1)
        target = jnp.where(last[:, None], end, (row[:, None] + 1) * size + sideways)
        moves = jax.nn.one_hot(jnp.concatenate([target, jnp.full((1, 2), end)]), end + 1)
        treasure = last & (column == size - 1)
        pays = jnp.stack([jnp.zeros(end), treasure - 0.01 / size], 1)
        pays = jnp.concatenate([pays, jnp.zeros((1, 2))])
        flipped = jax.random.bernoulli(key, 0.5, (mdps, end + 1)) & scrambled
        transition = jnp.where(flipped[:, :, None, None], moves[:, ::-1], moves)
        reward = jnp.where(flipped[:, :, None], pays[:, ::-1], pays)
        return cls(transition, reward, jax.nn.one_hot(0, end + 1))

    @classmethod
    def grid(cls, layout: str, goals: Sequence[Cell], *, slip: float = 0.0, closed: Sequence[Cell] = ()) -> TabularMDPs:
        """Walks on the free cells of a map, one MDP for each goal: up (0), right (1), down (2), left (3).

        Every action in the goal pays 1, and moves as anywhere else (nothing ends there). A move into a wall stays
        where it is. States are the free cells in reading order (`free_cells`); the start is uniform.

        Args:
            layout: rows of a map, '#' is wall (as `unseen.worlds.control.LAYOUTS`).
            goals: (row, column) of each MDP's goal.
            slip: probability that a uniformly random direction is taken instead.
            closed: cells that stay states but that no move enters, so that a door can be shut without
                renumbering states.

        Raises:
            UserError: if a goal or closed cell is not free, or slip is no probability.
        """
        if not 0 <= slip <= 1:
            raise UserError(f"slip takes a probability, got {slip}.")
        cells = [(int(r), int(c)) for r, c in free_cells(layout)]
        number = {cell: i for i, cell in enumerate(cells)}
        if wrong := [cell for cell in (*goals, *closed) if tuple(cell) not in number]:
            raise UserError(f"goals and closed take free cells (row, column) of the layout, got {wrong[0]}.")
        shut = {tuple(cell) for cell in closed}
        target = np.empty((len(cells), 4), int)
        for (r, c), here in number.items():
            for action, there in enumerate([(r - 1, c), (r, c + 1), (r + 1, c), (r, c - 1)]):
                target[here, action] = here if there in shut else number.get(there, here)
        moves = jax.nn.one_hot(target, len(cells))
        transition = (1 - slip) * moves + slip * moves.mean(1, keepdims=True)
        reward = jax.nn.one_hot(jnp.array([number[tuple(goal)] for goal in goals]), len(cells))
        reward = jnp.broadcast_to(reward[:, :, None], (len(goals), len(cells), 4))
        return cls(_copies(transition, len(goals)), reward, jnp.full(len(cells), 1 / len(cells)))

    @classmethod
    def four_rooms(
        cls, goals: Sequence[Cell] = ((9, 9),), *, slip: float = 0.0, closed: Sequence[Cell] = ()
    ) -> TabularMDPs:
        """Four rooms joined by four doors on an 11 x 11 map (Sutton, Precup and Singh, 1999, at this size); see
        `grid`. Doors are at (2, 5), (8, 5), (5, 2) and (5, 8)."""
        return cls.grid(LAYOUTS["four-rooms"], goals, slip=slip, closed=closed)

    @classmethod
    def bandits(
        cls, means: Float[Array, "mdps contexts arms"], frequency: Float[Array, " contexts"] | None = None
    ) -> TabularMDPs:
        """Contextual bandits: states are contexts, actions arms, and whatever arm is pulled, the next context is
        drawn by `frequency` (by default each as often). One context makes plain bandits."""
        contexts = means.shape[1]
        frequency = jnp.full(contexts, 1 / contexts) if frequency is None else frequency
        return cls(jnp.broadcast_to(frequency, (*means.shape, contexts)), means, frequency)


def free_cells(layout: str) -> Int[np.ndarray, "states 2"]:
    """Row and column of the cells of a map that are no wall, in reading order: the states of `TabularMDPs.grid`."""
    return np.array([(r, c) for r, line in enumerate(layout.split("\n")) for c, mark in enumerate(line) if mark != "#"])


def _copies(one: Array, mdps: int) -> Array:
    return jnp.broadcast_to(one, (mdps, *one.shape))
