"""Skipper: plans over a handful of imagined checkpoints, and a policy that sees what is near and walks to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.learners.edge_estimator import Decided
from unseen.learners.q_learning import QLearner, QNetwork, QState
from unseen.learners.replay import GoalObservation, Replay, Transition
from unseen.methods.proxy_problem import ProxyPlan, ProxyProblem, medoids
from unseen.methods.value_heads import Distribution
from unseen.models.checkpoint_generator import CheckpointGenerator
from unseen.models.local_field import local_field
from unseen.worlds.control.course import FREE, LAVA, Course

# What is seen ------------------------------------------------------------------------------------------------


class View(eqx.Module):
    """What a network gets of a place and a goal, `GoalObservation`s of numbers: what lies around both, looked up in
    tables, and rows and columns from one to the other.

    Attributes:
        here, there: of every level and cell, for the body and for the goal.
        size: rows and columns.
    """

    here: Float[Array, "levels cells a"]
    there: Float[Array, "levels cells b"]
    size: tuple[int, int] = eqx.field(static=True)

    @classmethod
    def local(cls, course: Course, field: int = 5) -> View:
        """`field` x `field` cells around the body, and around the goal."""
        around = _around(course, field)
        return cls(around, around, course.size)

    @classmethod
    def whole(cls, course: Course) -> View:
        """The whole grid, with the body in the middle."""
        around = _around(course, 2 * max(course.size) - 1)
        return cls(around, around[..., :0], course.size)

    @classmethod
    def map(cls, course: Course) -> View:
        """The whole grid as it lies, and where in it body and goal are."""
        planes = course.planes().reshape(-1, 1, course.cells * 3)
        cells = jnp.broadcast_to(jnp.eye(course.cells), (planes.shape[0], course.cells, course.cells))
        wide = jnp.broadcast_to(planes, (*cells.shape[:2], planes.shape[-1]))
        return cls(jnp.concatenate([wide, cells], -1), cells, course.size)

    def __call__(self, seen: GoalObservation) -> Float[Array, " features"]:
        """Features of one observation: (level, cell, ...) and goal (cell, ...)."""
        level, cell, goal = seen.observation[0], seen.observation[1], seen.goal[0]
        rows, columns = self.size
        down, right = goal // columns - cell // columns, goal % columns - cell % columns
        between = jax.nn.one_hot(down + rows - 1, 2 * rows - 1), jax.nn.one_hot(right + columns - 1, 2 * columns - 1)
        return jnp.concatenate([self.here[level, cell], self.there[level, goal], *between])


def _around(course: Course, field: int) -> Float[Array, "levels cells n"]:
    rows, columns = course.size
    places = jnp.stack(jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij"), -1).reshape(-1, 2)

    def one(planes: Array) -> Array:
        return jax.vmap(lambda place: local_field(planes, place, field).ravel())(places)

    return jax.vmap(one)(course.planes())


def arrived(reached: Int[Array, "*batch 2"], goal: Int[Array, "*batch 2"]) -> tuple[Array, Array]:
    """Whether (cell, status) is the goal and no lava; and whether the episode is over there anyway."""
    status = reached[..., 1]
    return (reached[..., 0] == goal[..., 0]) & (status != LAVA), status != FREE


# Learning ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sighted:
    """A learner whose observations are looked at through a view, wherever it is asked."""

    learner: QLearner
    view: View

    @property
    def members(self) -> int:
        """The learner's."""
        return self.learner.members

    def init(self, key: Key[Array, ""], observation: GoalObservation) -> QState:
        """The untrained state."""
        return self.learner.init(key, self.view(observation))

    def act(
        self, network: QNetwork, observation: GoalObservation, key: Key[Array, ""], epsilon: Any = 0.0,
        member: Int[Array, ""] | None = None,
    ) -> Int[Array, ""]:  # fmt: skip
        """As `QLearner.act`."""
        return self.learner.act(network, self.view(observation), key, epsilon, member)

    def seen(self, batch: Transition) -> Transition:
        """A batch as the learner sees it."""
        look = jax.vmap(self.view)
        return batch._replace(
            observation=look(batch.observation), next_observation=look(batch.next_observation)
        )  # fmt: skip

    def update(self, state: QState, batch: Transition, key: Key[Array, ""]) -> tuple[QState, Float[Array, ""]]:
        """As `QLearner.update`."""
        return self.learner.update(state, self.seen(batch), key)


class SkipperState(NamedTuple):
    """The policy with its own edges, and other estimates of the same policy's edges."""

    policy: QState
    other: QState

    @property
    def network(self) -> QNetwork:
        """What acts."""
        return self.policy.network


@dataclasses.dataclass(frozen=True)
class SkipperAgent:
    """Two `EdgeEstimator`s on the same steps: one is the policy, the other learns through another view how long that
    policy takes."""

    policy: Sighted
    other: Sighted

    @property
    def members(self) -> int:
        """One."""
        return 1

    def init(self, key: Key[Array, ""], observation: GoalObservation) -> SkipperState:
        """The untrained state."""
        first, second = jax.random.split(key)
        return SkipperState(self.policy.init(first, observation), self.other.init(second, observation))

    def act(self, *args: Any) -> Int[Array, ""]:
        """The policy's action."""
        return self.policy.act(*args)

    def update(
        self, state: SkipperState, batch: Transition, key: Key[Array, ""]
    ) -> tuple[SkipperState, Float[Array, ""]]:
        """One update of both; the loss is the policy's."""
        seen, wide = self.policy.seen(batch), self.other.seen(batch)
        values = jax.vmap(lambda o: self.policy.learner.values(state.network, o).mean(0))(seen.next_observation)
        decided = wide._replace(next_observation=Decided(wide.next_observation, values.argmax(-1)))
        policy, loss = self.policy.learner.update(state.policy, seen, key)
        other, _ = self.other.learner.update(state.other, decided, key)
        return SkipperState(policy, other), loss


def fit_generator(
    generator: CheckpointGenerator, course: Course, replay: Replay, key: Key[Array, ""], *, updates: int,
    batch_size: int = 32, learning_rate: float = 3e-3,
) -> CheckpointGenerator:  # fmt: skip
    """Trains a generator on the cells of stored steps, each in its level's layout."""
    optimizer, planes = optax.adam(learning_rate), course.planes()
    arrays, static = eqx.partition(generator, eqx.is_inexact_array)

    def update(carry: Any, key: Array) -> tuple[Any, None]:
        arrays, state = carry
        draw, noise = jax.random.split(key)
        seen = replay[replay.draw(draw, batch_size)].observation.observation

        def loss(arrays: Any) -> Array:
            net = eqx.combine(arrays, static)
            keys = jax.random.split(noise, batch_size)
            return jax.vmap(net.loss)(planes[seen[:, 0]], seen[:, 1], keys).mean()

        change, state = optimizer.update(jax.grad(loss)(arrays), state)
        return (eqx.apply_updates(arrays, change), state), None

    (arrays, _), _ = jax.lax.scan(update, (arrays, optimizer.init(arrays)), jax.random.split(key, updates))
    return eqx.combine(arrays, static)


# Planning ----------------------------------------------------------------------------------------------------


class Edges(NamedTuple):
    """All pairs of cells of one level: expected discount at the arrival, expected steps."""

    arrival: Float[Array, "cells cells"]
    length: Float[Array, "cells cells"]


def all_pairs(look: Callable[[GoalObservation], Any], level: Int[Array, ""], cells: int) -> Any:
    """`look` at every cell and goal of a level; leading axes (cell, goal)."""

    def one(cell: Array, goal: Array) -> Any:
        return look(GoalObservation(jnp.stack([level, cell, jnp.zeros_like(cell)]), jnp.stack([goal, 0 * goal])))

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(jnp.arange(cells), jnp.arange(cells))


def edges_of(
    agent: SkipperAgent, state: SkipperState, level: Int[Array, ""], cells: int, discount: float
) -> tuple[Int[Array, "cells cells"], Edges, Edges]:
    """The policy's move for every cell and goal of a level, and its edges as both estimators see them."""

    def look(sighted: Sighted, network: QNetwork) -> Distribution:
        return all_pairs(lambda seen: sighted.learner.distribution(network, sighted.view(seen)), level, cells)

    own, other = look(agent.policy, state.policy.network), look(agent.other, state.other.network)
    moves = own.mean().mean(-2).argmax(-1)

    def read(steps: Distribution, estimator: Any) -> Edges:
        taken = jax.nn.one_hot(moves, steps.probabilities.shape[-2])[..., None, :, None]
        chosen = Distribution((steps.locations * taken).sum(-2), (steps.probabilities * taken).sum(-2))
        return Edges(estimator.arrival(chosen, discount).mean(-1), estimator.length(chosen).mean(-1))

    return moves, read(own, agent.policy.learner), read(other, agent.other.learner)


class Graph(NamedTuple):
    """Checkpoints of one level and the plan over them. The first is the start, the second the goal, where it ends.

    Attributes:
        cell: of each proposed checkpoint.
        chosen: which of them were kept.
        problem: the graph; ways to the goal pay the discount at the arrival.
        plan: over it.
        target: the checkpoint's cell to aim at, from every cell.
    """

    cell: Int[Array, " vertices"]
    chosen: Bool[Array, " vertices"]
    problem: ProxyProblem
    plan: ProxyPlan
    target: Int[Array, " cells"]


def proxy(arrival: Float[Array, "vertices vertices"], edges: Bool[Array, "vertices vertices"]) -> ProxyProblem:
    """The graph with these discounts whose second vertex pays 1 and ends it."""
    goal = jnp.arange(arrival.shape[0]) == 1
    return ProxyProblem(arrival * goal, arrival * ~goal, edges).ending(goal)


def graph_of(
    edges: Edges, start: Int[Array, ""], goal: Int[Array, ""], proposals: Int[Array, " proposals"], *, vertices: int,
    least: float,
) -> Graph:  # fmt: skip
    """Prunes proposals to `vertices` with start and goal among them, cuts ways whose discount is below `least`, plans.

    From cells without any way left one aims at the goal.
    """
    cell = jnp.concatenate([jnp.stack([start, goal]), proposals])
    fixed = jnp.arange(len(cell)) < 2
    same = cell[:, None] == cell
    chosen = medoids(jnp.where(same, 0.0, edges.length[cell][:, cell]), vertices, fixed)
    arrival = edges.arrival[cell][:, cell]
    problem = proxy(arrival, ~same & (arrival >= least)).only(chosen)
    plan = problem.plan()
    onward = jnp.where(jnp.arange(len(cell)) == 1, 1.0, plan.values)
    ways = edges.arrival[:, cell]
    open_ = chosen & (ways >= least) & (jnp.arange(ways.shape[0])[:, None] != cell)
    worth = jnp.where(open_, ways * onward, 0.0)
    return Graph(cell, chosen, problem, plan, jnp.where(worth.max(1) > 0, cell[worth.argmax(1)], goal))


class Walk(NamedTuple):
    """An episode: the cells, and the steps it took to the goal (infinite where it was not reached)."""

    path: Int[Array, " times"]
    steps: Float[Array, ""]


def walk(
    course: Course, level: Int[Array, ""], moves: Int[Array, "cells cells"], target: Int[Array, " cells"], *,
    horizon: int, patience: int = 8,
) -> Walk:  # fmt: skip
    """From the level's start towards the target of where one is, by the moves for it; a new target is taken when the
    old one is reached, or after `patience` steps."""
    following, status = course.following[level], course.status[level]
    start = course.start[level]

    def step(carry: tuple[Array, ...], time: Array) -> tuple[tuple[Array, ...], Array]:
        cell, aim, since, over, taken = carry
        renew = (cell == aim) | (since >= patience)
        aim, since = jnp.where(renew, target[cell], aim), jnp.where(renew, 0, since)
        after = jnp.where(over, cell, following[cell, moves[cell, aim]])
        home = ~over & (after == course.goal[level])
        return (after, aim, since + 1, over | (status[after] != FREE), jnp.where(home, time + 1.0, taken)), after

    first = start, target[start], jnp.zeros((), int), jnp.array(False), jnp.array(jnp.inf)
    (_, _, _, _, taken), path = jax.lax.scan(step, first, jnp.arange(horizon))
    return Walk(jnp.concatenate([start[None], path]), taken)
