"""Behaviour as a search that happens in the body: a graph that plans, fails, is edited and plans again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError

# (position, velocity of length 1 at most) -> (next position, push of the contact, zero if there is none)
Body = Callable[[Float[Array, "axes"], Float[Array, "axes"]], tuple[Float[Array, "axes"], Float[Array, "axes"]]]


class HarmonicCode(eqx.Module):
    """A position as the phases of many plane waves, like the grid cells of the entorhinal cortex.

    phi(x) = amplitude * [cos(waves x), sin(waves x)], of length 1 everywhere. The product of two codes depends on the
    displacement alone, phi(x) phi(y) = sum of amplitude^2 cos(waves (x - y)): 1 for the same place and, the more waves
    there are, the closer to 0 far away (within about sqrt(1 / dim)).

    Source: Baranski and Tani (2024, arXiv 2410.01349), abstract; random wave vectors as in random Fourier features.

    Attributes:
        waves: wave vectors in radians per unit of length.
        amplitude: of each wave; their squares sum to 1.
    """

    waves: Float[Array, "waves axes"]
    amplitude: Float[Array, " waves"]

    @classmethod
    def random(
        cls,
        key: Key[Array, ""],
        dim: int,
        wavelengths: tuple[float, float],
        axes: int = 2,
        used: int | Int[Array, ""] | None = None,
    ) -> HarmonicCode:
        """Waves of random directions whose lengths are log-uniform in a range.

        Args:
            dim: numbers in a code, two for each wave.
            wavelengths: shortest and longest, in units of length.
            axes: dimensions of a position.
            used: numbers of the code that are not zero, by default all; may be traced, so that codes of several
                dimensions share a compiled program.

        Raises:
            UserError: on an odd or non-positive dim, or an empty range.
        """
        if dim < 2 or dim % 2:
            raise UserError(f"dim takes an even number from 2 on, got {dim}.")
        shortest, longest = wavelengths
        if not 0 < shortest <= longest:
            raise UserError(f"wavelengths takes 0 < shortest <= longest, got {shortest} and {longest}.")
        to, size = jax.random.split(key)
        direction = jax.random.normal(to, (dim // 2, axes))
        direction /= jnp.linalg.norm(direction, axis=-1, keepdims=True)
        length = shortest * (longest / shortest) ** jax.random.uniform(size, (dim // 2, 1))
        present = jnp.arange(dim // 2) < (dim if used is None else used) // 2
        return cls(2 * jnp.pi / length * direction, jnp.sqrt(present / present.sum()))

    def __call__(self, position: Float[Array, " axes"]) -> Float[Array, " dim"]:
        """The code of a position."""
        phase = self.waves @ position
        return jnp.concatenate([self.amplitude * jnp.cos(phase), self.amplitude * jnp.sin(phase)])

    def similarity(self, positions: Float[Array, "places axes"]) -> Float[Array, "places places"]:
        """Products of the codes of all pairs of positions."""
        codes = jax.vmap(self)(positions)
        return codes @ codes.T


class HebbianEdges(eqx.Module):
    """A matrix of synapses that holds numbers about pairs of places: the sum of outer products of their codes.

    Storing amount a for the pair (x, y) adds a * phi(y) phi(x)^T; reading gives phi(y)^T W phi(x). With orthonormal
    codes that is a table; otherwise a pair also reads what was stored for pairs that are near, and a noise of about
    1/dim for every pair stored. Nothing but W is kept, so what is read is linear in what was stored:
    `CognitiveGraph` makes use of that and keeps the readings of its own edges instead of W.

    Attributes:
        code: position -> code.
        weights: W.
    """

    code: HarmonicCode
    weights: Float[Array, "dim dim"]

    @classmethod
    def empty(cls, code: HarmonicCode) -> HebbianEdges:
        """No edge stored."""
        dim = 2 * code.waves.shape[0]
        return cls(code, jnp.zeros((dim, dim)))

    def store(
        self, source: Float[Array, " axes"], target: Float[Array, " axes"], amount: float | Float[Array, ""]
    ) -> HebbianEdges:
        """The synapses after one Hebbian update."""
        change = amount * jnp.outer(self.code(target), self.code(source))
        return eqx.tree_at(lambda edges: edges.weights, self, self.weights + change)

    def read(self, source: Float[Array, " axes"], target: Float[Array, " axes"]) -> Float[Array, ""]:
        """What the synapses say of a pair."""
        return self.code(target) @ self.weights @ self.code(source)


class CognitiveGraph(eqx.Module):
    """Places and how easily the body gets from one to another.

    The last vertex is the goal. An edge costs its length times exp(-strength), with strengths above 0 counted as 0: a
    new graph is optimistic, all edges are there at full strength. The strength of an edge is what a Hebbian memory
    (`HebbianEdges`) over the code of the vertices reads for it, kept up to date by the products of the codes; with the
    identity for `similarity` it is an explicit table of edges. Edges have no direction: what is stored for one is
    stored for its reverse.

    Attributes:
        vertices: positions.
        neighbours: numbers of the vertices that edges lead to.
        lengths: of the edges, infinite where `neighbours` is padding.
        similarity: products of the vertices' codes.
        strength: of the edges; 0 or more is full strength.
    """

    vertices: Float[Array, "vertices axes"]
    neighbours: Int[Array, "vertices edges"]
    lengths: Float[Array, "vertices edges"]
    similarity: Float[Array, "vertices vertices"]
    strength: Float[Array, "vertices edges"]

    @classmethod
    def lattice(
        cls,
        start: Float[Array, "2"],
        goal: Float[Array, "2"],
        size: float,
        per_side: int,
        similarity: Callable[[Float[Array, "vertices 2"]], Float[Array, "vertices vertices"]] | None = None,
    ) -> CognitiveGraph:
        """A square lattice over [0, size]^2 in which `start` is a vertex, four edges each, and the goal, which the four
        vertices around it lead to.

        Args:
            per_side: vertices of a side, `size / per_side` apart.
            similarity: of codes at positions (`HarmonicCode.similarity`); by default an explicit table.
        """
        if per_side < 2:
            raise UserError(f"per_side takes 2 or more vertices, got {per_side}.")
        apart = size / per_side
        row, column = (a.ravel() for a in np.meshgrid(*[np.arange(per_side)] * 2, indexing="ij"))
        own = np.arange(per_side**2)
        beside = np.stack([own - per_side, own + 1, own + per_side, own - 1], -1)
        there = np.stack([row > 0, column < per_side - 1, row < per_side - 1, column > 0], -1)
        corners = jnp.stack([jnp.asarray(column), jnp.asarray(row)], -1) * apart
        vertices = jnp.concatenate([corners + start % apart, goal[None]])
        last = len(own)
        to_goal = jnp.abs(vertices[:-1] - goal).max(-1) < apart
        distance = jnp.linalg.norm(vertices[:-1] - goal, axis=-1)
        neighbours = np.concatenate([np.where(there, beside, last), np.full((last, 1), last)], -1)
        lengths = jnp.where(jnp.asarray(there), apart, jnp.inf)
        lengths = jnp.concatenate([lengths, jnp.where(to_goal, distance, jnp.inf)[:, None]], -1)
        neighbours = np.concatenate([neighbours, np.full((1, 5), last)])
        lengths = jnp.concatenate([lengths, jnp.full((1, 5), jnp.inf)])
        alike = jnp.eye(last + 1) if similarity is None else similarity(vertices)
        return cls(vertices, jnp.asarray(neighbours), lengths, alike, jnp.zeros_like(lengths))

    def costs(self) -> Float[Array, "vertices edges"]:
        """Of all edges; infinite for padding."""
        return self.lengths * jnp.exp(jnp.clip(-self.strength, 0.0, 30.0))

    def to_goal(self, costs: Float[Array, "vertices edges"] | None = None) -> Float[Array, " vertices"]:
        """Cost of the simplest path from every vertex to the goal: min-plus products until nothing changes."""
        costs = self.costs() if costs is None else costs

        def relax(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            far, _ = carry
            after = jnp.minimum(far, (costs + far[self.neighbours]).min(-1))
            return after, (after < far).any()

        far = jnp.full(len(self.vertices), jnp.inf).at[-1].set(0.0)
        return jax.lax.while_loop(lambda carry: carry[1], relax, (far, jnp.array(True)))[0]

    def nearest(self, position: Float[Array, " axes"]) -> Int[Array, ""]:
        """The vertex, other than the goal, that is nearest to a position."""
        return jnp.argmin(jnp.linalg.norm(self.vertices[:-1] - position, axis=-1))

    def read(self, source: Int[Array, ""], target: Int[Array, ""]) -> Float[Array, ""]:
        """Strength of an edge; minus infinity if there is none."""
        there = (self.neighbours[source] == target) & jnp.isfinite(self.lengths[source])
        return jnp.max(jnp.where(there, self.strength[source], -jnp.inf))

    def edit(
        self, source: Int[Array, ""] | int, target: Int[Array, ""] | int, amount: float | Float[Array, ""]
    ) -> CognitiveGraph:
        """The graph after storing an amount for the edge between two vertices: below 0 weakens, above strengthens.

        The edge itself changes by exactly the amount. The same as `HebbianEdges.store` for the edge and for its
        reverse, of equal parts of the amount, read at every edge.
        """
        to_source, to_target = self.similarity[source], self.similarity[target]
        change = to_source[:, None] * to_target[self.neighbours] + to_target[:, None] * to_source[self.neighbours]
        # An edge also reads a little of what is stored for its reverse.
        own = 1 + to_source[target] ** 2
        return self.with_strength(self.strength + amount / own * change)

    def with_strength(self, strength: Float[Array, "vertices edges"]) -> CognitiveGraph:
        """The same graph with other strengths."""
        return eqx.tree_at(lambda graph: graph.strength, self, strength)


class SearchResult(NamedTuple):
    """A finished search.

    Attributes:
        graph: what was learned.
        solved: whether the goal was reached within the budget.
        steps: of the body, the budget if it was not.
        failures: edges that the body could not follow.
        path: positions, one every `stride` steps; the last one repeated after the end.
    """

    graph: CognitiveGraph
    solved: Bool[Array, ""]
    steps: Int[Array, ""]
    failures: Int[Array, ""]
    path: Float[Array, "points axes"]


_FAILED, _WORKED = 1, 2  # events: the body could not follow an edge; it could follow a weakened one


class _Walk(NamedTuple):
    """The body in the middle of a search: where it is, the vertex that it left and the one that it goes to."""

    position: Array
    left: Array
    aim: Array
    stuck: Array  # steps without progress
    steps: Array
    event: Array  # what ended the behaviour, if anything
    solved: Array


@dataclasses.dataclass(frozen=True)
class BehaviorSearch:
    """Enumerates behaviours, the simplest first, by carrying them out.

    A behaviour is the simplest path in the cognitive graph from where the body is. The body moves straight from vertex
    to vertex. Where it makes no progress for `patience` steps the behaviour has failed: the edge is weakened, the body
    goes back to the vertex that it left, and the path that is the simplest now is next. An edge that was weak and works
    all the same is strengthened to its full strength. Since every failure makes the failed behaviour dearer, every
    other one becomes the simplest in turn: none is left out for ever. Paths that are equally simple are tried in random
    order.

    Source: Baranski and Tani (2024, arXiv 2410.01349), abstract. The numbers below are ours.

    Attributes:
        weaken: what a failure takes from the strength of an edge: its cost grows by exp(weaken). 0 is a planner that
            does not learn.
        strengthen: share of the missing strength that an edge which worked gets back.
        patience: steps with less than half of the wanted progress after which an edge has failed.
        speed: length of a step.
        tolerance: distance at which a vertex counts as reached.
        tie_break: random share of the costs that differs from plan to plan.
        surprise: an edge that is weaker than minus this and works is strengthened.
        block: most steps between two looks at the graph; changes nothing but the speed of the program.
        stride: steps between two points of the recorded path.
    """

    weaken: float | Float[Array, ""] = 3.0
    strengthen: float | Float[Array, ""] = 1.0
    patience: int = 3
    speed: float = 0.1
    tolerance: float = 0.05
    tie_break: float = 0.01
    surprise: float = 1.0
    block: int = 32
    stride: int = 5

    def __post_init__(self) -> None:
        if self.patience < 1 or self.block < 1 or self.stride < 1:
            raise UserError(
                f"patience, block and stride take 1 or more, got {self.patience}, {self.block} and {self.stride}."
            )
        if not self.tolerance > 0 or not self.speed > 0:
            raise UserError(f"speed and tolerance take more than 0, got {self.speed} and {self.tolerance}.")

    def run(
        self,
        key: Key[Array, ""],
        graph: CognitiveGraph,
        body: Body,
        start: Float[Array, " axes"],
        reached: Callable[[Float[Array, " axes"]], Bool[Array, ""]],
        budget: int,
    ) -> SearchResult:
        """Searches until the goal is reached or the steps are used up.

        Args:
            graph: its last vertex is the goal.
            body: (position, velocity of length 1 at most) -> (next position, push of a contact).
            reached: position -> whether this is the goal.
            budget: steps of the body.
        """
        first = graph.nearest(start)
        zero = jnp.zeros((), int)
        walk = _Walk(start, first, first, zero, zero, zero, reached(start))
        path = jnp.broadcast_to(start, (-(-budget // self.stride), len(start)))

        def going(carry: tuple) -> Array:
            walk = carry[0]
            return ~walk.solved & (walk.steps < budget)

        def attempt(carry: tuple) -> tuple:
            walk, strength, path, key, failures = carry
            key, ties, lost = jax.random.split(key, 3)
            known = graph.with_strength(strength)
            costs = known.costs() * (1 + self.tie_break * jax.random.uniform(ties, strength.shape))
            after, (points, positions) = self._execute(known, costs, walk, body, reached, budget)
            path = path.at[points].set(positions, mode="drop")
            source, target = after.left, after.aim
            failed, worked = after.event == _FAILED, after.event == _WORKED
            astray = failed & (source == target)  # a body that cannot get back looks for a vertex nearby
            failures = failures + (failed & ~astray)
            amount = jnp.where(worked, -self.strengthen * known.read(source, target), 0.0)
            amount = jnp.where(failed & ~astray, -self.weaken, amount)
            strength = known.edit(source, target, amount).strength
            shaken = after.position + 2 * self.speed * jax.random.normal(lost, after.position.shape)
            here = jnp.where(astray, graph.nearest(shaken), jnp.where(worked, target, source))
            ended = failed | worked
            walk = after._replace(
                left=here, aim=jnp.where(ended, here, target), stuck=jnp.where(ended, 0, after.stuck), event=zero
            )
            return walk, strength, path, key, failures

        carry = walk, graph.strength, path, key, zero
        walk, strength, path, _, failures = jax.lax.while_loop(going, attempt, carry)
        gone = jnp.arange(len(path)) * self.stride < walk.steps
        path = jnp.where(gone[:, None], path, walk.position)
        return SearchResult(graph.with_strength(strength), walk.solved, walk.steps, failures, path)

    def _execute(
        self, graph: CognitiveGraph, costs: Array, walk: _Walk, body: Body, reached: Callable, budget: int
    ) -> tuple[_Walk, tuple[Array, Array]]:
        """Acts on the simplest paths until an edge fails or surprises, `block` steps at most; also the positions, with
        their places in the path (beyond its end where nothing was done)."""
        beyond = costs + graph.to_goal(costs)[graph.neighbours]
        following = graph.neighbours[jnp.arange(len(beyond)), beyond.argmin(-1)]

        def step(walk: _Walk, _: None) -> tuple[_Walk, tuple[Array, Array]]:
            active = (walk.event == 0) & ~walk.solved & (walk.steps < budget)
            # At the vertex that was left (after a failure, or at the start): choose anew.
            back = (walk.aim == walk.left) & self._at(graph, walk.aim, walk.position)
            aim = jnp.where(back, following[walk.left], walk.aim)
            way = graph.vertices[aim] - walk.position
            far = jnp.linalg.norm(way)
            position = body(walk.position, way / jnp.maximum(far, self.speed))[0]
            gained = far - jnp.linalg.norm(graph.vertices[aim] - position)
            stuck = jnp.where(gained < 0.5 * jnp.minimum(far, self.speed), walk.stuck + 1, 0)
            arrived = self._at(graph, aim, position)
            failed = ~arrived & (stuck >= self.patience)
            onward = arrived & (aim != walk.left)
            worked = onward & (graph.read(walk.left, aim) < -self.surprise)
            go_on = onward & ~worked
            after = _Walk(
                position,
                jnp.where(go_on, aim, walk.left),
                jnp.where(go_on, following[aim], aim),
                stuck,
                walk.steps + 1,
                jnp.where(failed, _FAILED, jnp.where(worked, _WORKED, 0)),
                reached(position),
            )
            point = jnp.where(active & (walk.steps % self.stride == 0), walk.steps // self.stride, budget)
            return jax.tree.map(lambda new, old: jnp.where(active, new, old), after, walk), (point, walk.position)

        return jax.lax.scan(step, walk, None, self.block)

    def _at(self, graph: CognitiveGraph, vertex: Array, position: Array) -> Array:
        return jnp.linalg.norm(graph.vertices[vertex] - position) < self.tolerance


def momentum_walk(
    key: Key[Array, ""],
    body: Body,
    start: Float[Array, "2"],
    reached: Callable[[Float[Array, "2"]], Bool[Array, ""]],
    budget: int,
    *,
    turn: float = 0.1,
    stride: int = 5,
) -> tuple[Bool[Array, ""], Int[Array, ""], Float[Array, "points 2"]]:
    """An undirected random walk that keeps its heading: solved or not, the steps that it took, and the path.

    Args:
        turn: standard deviation of the change of heading in a step, in radians. A contact draws a heading anew.
        budget: steps at most.
        stride: steps between two points of the path.
    """

    def step(carry: tuple, key: Array) -> tuple:
        position, heading, solved, steps = carry
        drift, anew = jax.random.split(key)
        heading = heading + turn * jax.random.normal(drift)
        after, push = body(position, jnp.stack([jnp.cos(heading), jnp.sin(heading)]))
        heading = jnp.where((push != 0).any(), jax.random.uniform(anew, maxval=2 * jnp.pi), heading)
        after = jnp.where(solved, position, after)
        return (after, heading, solved | reached(after), steps + ~solved), after

    def some(carry: tuple, key: Array) -> tuple:
        carry, positions = jax.lax.scan(step, carry, jax.random.split(key, stride))
        return carry, positions[-1]

    key, first = jax.random.split(key)
    carry = start, jax.random.uniform(first, maxval=2 * jnp.pi), reached(start), jnp.zeros((), int)
    (_, _, solved, steps), path = jax.lax.scan(some, carry, jax.random.split(key, -(-budget // stride)))
    return solved & (steps <= budget), jnp.minimum(steps, budget), jnp.concatenate([start[None], path])[:-1]
