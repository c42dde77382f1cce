"""Optimism over a class of shared representations: exact where the class is finite, by ascent where it is neural."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from unseen.worlds.clusters.multitask_bandit import MultitaskBandit


def joint_radius(tasks: int, dims: int, maps: int, noise: float, confidence: float = 0.05) -> float:
    """How far the truth's squared error may lie above the least one: noise variance times a bound on a chi-square
    with `tasks * dims` degrees of freedom (Laurent and Massart, 2000) that holds for all maps at once.

    One representation, paid once (log of the class), and one head a task: the two terms of the paper's regret bound.

    Args:
        maps: size of the class, or of a cover of it.
    """
    level = math.log(maps / confidence)
    freedom = tasks * dims
    return noise**2 * (freedom + 2 * math.sqrt(freedom * level) + 2 * level)


class FiniteBelief(NamedTuple):
    """Ridge regressions of every task on every map of a class.

    Attributes:
        inverse: of the regularised Gram matrices.
        moment: sums of features times rewards.
        squares: sums of squared rewards.
    """

    inverse: Float[Array, "maps tasks dims dims"]
    moment: Float[Array, "maps tasks dims"]
    squares: Float[Array, " tasks"]


class FiniteGFUCB(eqx.Module):
    """GFUCB over a finite class of representations, whose confidence set is enumerated.

    All tasks' value functions together, one map with one head for each task, stay possible while their squared error
    on all data is within `radius` of the least one. In each round the possible functions and candidates with the
    largest sum of promised rewards are chosen. For one map the possible heads are an ellipsoid whose radius all tasks
    share, so the largest sum for given candidates is `sum_i a_i + sqrt(rho sum_i c_i)` (a: predicted, c: squared
    width); candidates are searched along eight multipliers of c. The paper's set, by distance to the least-squares
    function, is this one up to constants.

    Attributes:
        features: of each context under each map.
        radius: of the confidence set; 0 is the greedy learner that trusts its best fit.
        ridge: of the regressions.

    Source: Lu et al. (2022), algorithm 1.
    """

    features: Float[Array, "maps pool dims"]
    radius: float | Float[Array, ""]
    ridge: float = eqx.field(static=True, default=0.1)

    def begin(self, tasks: int) -> FiniteBelief:
        """Before the first round."""
        maps, _, dims = self.features.shape
        inverse = jnp.broadcast_to(jnp.eye(dims) / self.ridge, (maps, tasks, dims, dims))
        return FiniteBelief(inverse, jnp.zeros((maps, tasks, dims)), jnp.zeros(tasks))

    def choose(self, belief: FiniteBelief, shown: Int[Array, "tasks candidates"]) -> Int[Array, " tasks"]:
        """The candidates of the most promising possible functions, by place among those shown."""
        x = self.features[:, shown]
        head = jnp.einsum("fmde,fme->fmd", belief.inverse, belief.moment)
        errors = (belief.squares - jnp.einsum("fmd,fmd->fm", head, belief.moment)).sum(1)
        room = jnp.maximum(self.radius - (errors - errors.min()), 0)
        possible = errors <= errors.min() + self.radius
        predicted = jnp.einsum("fmkd,fmd->fmk", x, head)
        width = jnp.einsum("fmkd,fmde,fmke->fmk", x, belief.inverse, x)
        largest = width.max(-1).sum(-1)

        def along(share: Array) -> tuple[Array, Array]:
            # At the optimum the multiplier is sqrt(rho / S) / 2, with S the sum of squared widths that is chosen.
            multiplier = jnp.sqrt(room / jnp.maximum(share * largest, 1e-9)) / 2
            place = (predicted + multiplier[:, None, None] * width).argmax(-1)
            a, c = (jnp.take_along_axis(v, place[..., None], -1)[..., 0].sum(-1) for v in (predicted, width))
            return jnp.where(possible, a + jnp.sqrt(room * c), -jnp.inf), place

        promise, place = jax.vmap(along)(0.5 ** jnp.arange(8.0))
        best = promise.reshape(-1).argmax()
        return place.reshape(-1, place.shape[-1])[best]

    def update(self, belief: FiniteBelief, chosen: Int[Array, " tasks"], paid: Float[Array, " tasks"]) -> FiniteBelief:
        """After a round: rank-one updates of all regressions."""
        x = self.features[:, chosen]
        turned = jnp.einsum("fmde,fme->fmd", belief.inverse, x)
        scale = 1 + jnp.einsum("fmd,fmd->fm", turned, x)
        inverse = belief.inverse - turned[..., :, None] * turned[..., None, :] / scale[..., None, None]
        return FiniteBelief(inverse, belief.moment + x * paid[:, None], belief.squares + paid**2)


class NeuralBelief(NamedTuple):
    """A network and all that was chosen and paid so far.

    Attributes:
        net: parameters of the least-squares fit, carried on from round to round.
        moments: of its optimizer.
        chosen, paid: contexts (by number) and rewards of each round; zeros for rounds to come.
        played: number of rounds.
    """

    net: Any
    moments: optax.OptState
    chosen: Int[Array, "rounds tasks"]
    paid: Float[Array, "rounds tasks"]
    played: Int[Array, ""]


class NeuralGFUCB(eqx.Module):
    """GFUCB with a neural representation: least squares by Adam, then ascent of the promised rewards within the
    confidence set.

    From the fit, a copy ascends the sum over tasks of the largest value among the candidates by normalised gradient
    steps; a step that would leave the set (its predictions on data further than `radius` from the fit's, in summed
    squares, estimated on a batch) is scaled back towards the fit. Candidates are then chosen by the copy.

    Attributes:
        contexts: the pool.
        radius: of the confidence set.
        width, dims: of the hidden layer and the representation.
        batch_size: rounds (of all tasks) in an update.
        fits, ascents: updates of the fit and of the optimistic copy in each round.
        learning_rate: of Adam.
        step: length of an ascent step, as a share of the parameters' norm.

    Source: Lu et al. (2022), section 6, on images; the neural confidence set by gradients is theirs in kind.
    """

    contexts: Float[Array, "pool inputs"]
    radius: float | Float[Array, ""]
    width: int = eqx.field(static=True, default=32)
    dims: int = eqx.field(static=True, default=8)
    batch_size: int = eqx.field(static=True, default=32)
    fits: int = eqx.field(static=True, default=10)
    ascents: int = eqx.field(static=True, default=5)
    learning_rate: float = eqx.field(static=True, default=5e-3)
    step: float = eqx.field(static=True, default=0.02)

    def begin(self, key: Key[Array, ""], tasks: int, rounds: int) -> NeuralBelief:
        """A random network without data."""
        inputs = self.contexts.shape[1]
        keys = jax.random.split(key, 3)
        sizes = ((inputs, self.width), (self.width, self.dims), (self.dims, tasks))
        net = [jax.random.normal(k, s) * (2 / s[0]) ** 0.5 for k, s in zip(keys, sizes, strict=True)]
        net[2] = 0.1 * net[2]  # first promises are small next to what is learned
        zeros = jnp.zeros((rounds, tasks))
        return NeuralBelief(net, optax.adam(self.learning_rate).init(net), zeros.astype(int), zeros, jnp.array(0))

    def values(self, net: Any, places: Int[Array, "tasks candidates"]) -> Float[Array, "tasks candidates"]:
        """What a network says of contexts, each in its own task."""
        first, second, heads = net
        features = jax.nn.relu(self.contexts[places] @ first) @ second
        return jnp.einsum("mkd,dm->mk", features, heads)

    def fit(self, belief: NeuralBelief, key: Key[Array, ""]) -> NeuralBelief:
        """Further updates of the least-squares fit on the data so far."""
        optimizer = optax.adam(self.learning_rate)

        def error(net: Any, key: Array) -> Array:
            rows, real = self._rows(belief, key)
            misses = self.values(net, belief.chosen[rows].T) - belief.paid[rows].T
            return jnp.mean(real * misses**2) + 1e-4 * sum(jnp.sum(w**2) for w in net)

        def update(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], None]:
            net, moments = carry
            change, moments = optimizer.update(jax.grad(error)(net, key), moments)
            return (optax.apply_updates(net, change), moments), None

        (net, moments), _ = jax.lax.scan(update, (belief.net, belief.moments), jax.random.split(key, self.fits))
        return belief._replace(net=net, moments=moments)

    def choose(
        self, belief: NeuralBelief, shown: Int[Array, "tasks candidates"], key: Key[Array, ""]
    ) -> Int[Array, " tasks"]:
        """The candidates that an optimistic network within the confidence set likes best, by place."""
        rows, real = self._rows(belief, key)
        seen = belief.chosen[rows].T
        fitted = self.values(belief.net, seen)

        def promise(net: Any) -> Array:
            return self.values(net, shown).max(1).sum()

        def ascend(net: Any, _: None) -> tuple[Any, None]:
            slope = jax.grad(promise)(net)
            length = self.step * optax.tree.norm(net) / jnp.maximum(optax.tree.norm(slope), 1e-9)
            moved = jax.tree.map(lambda w, g: w + length * g, net, slope)
            apart = (real * (self.values(moved, seen) - fitted) ** 2).mean() * belief.played * seen.shape[0]
            back = jnp.minimum(1, jnp.sqrt(self.radius / jnp.maximum(apart, 1e-9)))
            return jax.tree.map(lambda w, m: w + back * (m - w), belief.net, moved), None

        net, _ = jax.lax.scan(ascend, belief.net, length=self.ascents)
        return self.values(net, shown).argmax(1)

    def update(self, belief: NeuralBelief, chosen: Int[Array, " tasks"], paid: Float[Array, " tasks"]) -> NeuralBelief:
        """After a round: one more row of data."""
        t = belief.played
        return belief._replace(chosen=belief.chosen.at[t].set(chosen), paid=belief.paid.at[t].set(paid), played=t + 1)

    def _rows(self, belief: NeuralBelief, key: Key[Array, ""]) -> tuple[Array, Array]:
        """Rounds drawn from those played, and whether there were any."""
        rows = jnp.floor(jax.random.uniform(key, (self.batch_size,)) * belief.played).astype(int)
        return rows, (belief.played > 0).astype(float)


def play(
    bandit: MultitaskBandit,
    key: Key[Array, ""],
    rounds: int,
    begin: Any,
    choose: Callable[[Any, Int[Array, "tasks candidates"], Key[Array, ""]], Int[Array, " tasks"]],
    update: Callable[[Any, Int[Array, " tasks"], Float[Array, " tasks"], Key[Array, ""]], Any],
) -> Float[Array, "{rounds} tasks"]:
    """Cumulative regret of each task after each round. The same key shows the same candidates and noise to every
    learner."""

    def one(carry: tuple[Any, Array], key: Array) -> tuple[tuple[Any, Array], Array]:
        belief, regret = carry
        show, pay, think, learn = jax.random.split(key, 4)
        shown = bandit.show(show)
        place = choose(belief, shown, think)
        chosen = jnp.take_along_axis(shown, place[:, None], 1)[:, 0]
        regret = regret + bandit.loss(shown, chosen)
        return (update(belief, chosen, bandit.pay(pay, chosen), learn), regret), regret

    return jax.lax.scan(one, (begin, jnp.zeros(bandit.tasks)), jax.random.split(key, rounds))[1]


def per_task_regret(regret: Float[Array, "rounds tasks"]) -> Float[Array, " rounds"]:
    """Mean over tasks of cumulative regrets."""
    return regret.mean(1)
