"""Parker-Holder et al. (2020): a population that is pushed apart by the volume it spans."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Bool, Float, Key

from unseen.lab import Judgement, Learner, Study, UserError, above, claim, figures, part
from unseen.lab.statistics import mean_interval, paired_difference
from unseen.measures.effective_members import effective_members
from unseen.methods.evolution import ESState, EvolutionStrategies
from unseen.methods.population_diversity import (
    BanditState,
    BehaviorEmbedding,
    DvD,
    NoveltySearchES,
    ThompsonWeight,
    behaviour_kernel,
)
from unseen.worlds.control.maze import PointMaze

# A pocket, open towards the start, lies on the straight way from the start (left) to the goal (right).
TRAP = """\
##############
#............#
#............#
#............#
#....###.....#
#......#.....#
#......#.....#
#......#.....#
#....###.....#
#............#
#............#
#............#
##############"""
START, GOAL = np.array([1.5, 6.5], np.float32), np.array([12.5, 6.5], np.float32)
AROUND = np.array([[4.7, 3.7], [8.2, 3.7], GOAL], np.float32)  # a way past the pocket
RIVALS = ("independent", "novelty")
ALGORITHMS = {"independent": NoveltySearchES, "novelty": NoveltySearchES, "dvd": DvD, "adaptive": DvD}


class Population(NamedTuple):
    """A population in training: its search, the bandit over diversity weights, the observations that members have
    come by (probe states are drawn from them) and a key."""

    search: ESState
    bandit: BanditState
    visited: Float[Array, "states obs"]
    key: Key[Array, ""]


class Dvd(Study):
    """Effective diversity in population-based reinforcement learning (Parker-Holder et al., 2020).

    A point mass is paid minus its distance to a goal at every step. With the wall, the straight way ends in a
    pocket; without it, it is the best. Populations of policies are searched by evolution strategies: independently,
    with the mean distance of behaviours as novelty, or with the log-determinant of their kernel (DvD), at a fixed
    weight or one that a bandit chooses. A behaviour is the actions on states that the population has visited.
    Returns are normalised: 0 for staying at the start, 1 for a controller that knows the way. The
    reward-free part has diversity alone as its aim and asks how many members really differ.

    What came out: any diversity helps past the pocket (independent search fails with three of six seeds), and the
    volume is no better than the mean distance: both find the way with all six seeds at a fixed weight. The bandit
    costs: with one seed it settled on the weight 0 while every member was still in the pocket, and the population
    stayed there. Where nothing deceives it loses nothing (supported). Without
    reward the determinant fills 5.8 of 6 members, the mean distance 4.9: the redundancy is there, smaller than the one
    member that the rule asks for, in an embedding of 20 states with two actions, which six members hardly crowd.
    """

    members: int = 5
    free_members: int = 6  # of the reward-free part
    pairs: int = 40  # antithetic perturbations of each member in an update
    updates: int = 150
    sigma: float = 0.1  # standard deviation of a perturbation
    learning_rate: float = 0.05  # of Adam
    weight_of_diversity: float = 0.5  # where it is fixed; also the bandit's second arm
    width: int = 16  # of a policy's two hidden layers
    horizon: int = 60  # steps of an episode
    probes: int = 20  # states on which behaviours are compared
    every: int = 10  # updates between two looks
    seeds: int = 6

    varies = dict(algorithm=tuple(ALGORITHMS), wall=(0.0, 1.0))
    traced = ("wall",)
    smoke = dict(
        algorithm=("independent", "adaptive"), score=("determinant",), pairs=4, updates=4, every=2, horizon=20,
        members=3, free_members=3, seeds=2,
    )  # fmt: skip
    paper = dict(pairs=100, updates=1_000, seeds=10)
    watch = ("best_return", "effective")

    def check(self) -> None:
        """Known algorithms; sizes that fit."""
        if bad := [name for name in self.algorithm if name not in ALGORITHMS]:
            raise UserError(f"algorithm takes {', '.join(ALGORITHMS)}, got {bad[0]!r}.")
        if bad := [value for value in self.wall if value not in (0.0, 1.0)]:
            raise UserError(f"wall takes 0 (none) or 1, got {bad[0]}.")
        if self.updates < 1 or self.updates % self.every:
            raise UserError(f"updates takes a multiple of every, {self.every}, got {self.updates}.")
        if not 0 <= self.weight_of_diversity <= 1:
            raise UserError(f"weight_of_diversity takes a share from 0 to 1, got {self.weight_of_diversity}.")

    def learner(self, algorithm, wall) -> Learner:
        """A population under one algorithm, with or without the wall."""
        still, best = (jnp.stack(values) for values in zip(*map(self.references, (False, True)), strict=True))
        which = jnp.asarray(wall, int)
        return self.population(
            ALGORITHMS[algorithm], self.members, _maze(which > 0), still[which], best[which],
            None if algorithm == "adaptive" else {"independent": 0.0}.get(algorithm, self.weight_of_diversity),
        )  # fmt: skip

    @part(varies=dict(score=("determinant", "pairwise")))
    def reward_free(self, score) -> Learner:
        """Diversity alone, without the wall."""
        if score not in ("determinant", "pairwise"):
            raise UserError(f"score takes determinant or pairwise, got {score!r}.")
        still, best = self.references(False)
        kind = DvD if score == "determinant" else NoveltySearchES
        return self.population(kind, self.free_members, _maze(False), still, best, 1.0, "free_")

    def references(self, wall: bool) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns of staying at the start and of a controller that knows the way."""
        maze = _maze(wall)

        def follow(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
            state, aim = carry
            way = jnp.asarray(AROUND if wall else AROUND[-1:])
            aim = jnp.minimum(aim + (jnp.abs(way[aim] - state[:2]).max() < maze.speed), len(way) - 1)
            velocity = jnp.clip(way[aim] - state[:2], -maze.speed, maze.speed)
            action = (velocity - (1 - maze.drag) * state[2:]) / (maze.speed * maze.drag)
            state = maze.step(state, action)
            return (state, aim), -jnp.linalg.norm(state[:2] - GOAL)

        start = maze.start(jnp.asarray(START)), jnp.zeros((), int)
        still = -self.horizon * jnp.linalg.norm(jnp.asarray(START - GOAL))
        return still, jax.lax.scan(follow, start, None, self.horizon)[1].sum()

    def episode(self, act: Any, maze: PointMaze) -> tuple[Float[Array, ""], Float[Array, "t s"]]:
        """Sum of minus the distance to the goal, and the states after each step."""

        def step(state: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            state = maze.step(state, act(_observation(maze, state)))
            return state, (-jnp.linalg.norm(state[:2] - GOAL), state)

        _, (rewards, states) = jax.lax.scan(step, maze.start(jnp.asarray(START)), None, self.horizon)
        return rewards.sum(), states

    def population(
        self, kind: type[NoveltySearchES], members: int, maze: PointMaze, still: Array, best: Array,
        weight: float | None, prefix: str = "",
    ) -> Learner:  # fmt: skip
        """A population's training; `weight` None leaves it to the bandit."""
        method = kind(
            EvolutionStrategies(
                pairs=self.pairs, sigma=self.sigma, optimizer=optax.adam(self.learning_rate), shaping=None,
                centres=members,
            )
        )  # fmt: skip
        bandit = ThompsonWeight((0.0, self.weight_of_diversity))

        def policy(key: Array) -> eqx.nn.MLP:
            return eqx.nn.MLP(4, 2, self.width, 2, jnp.tanh, jnp.tanh, key=key)

        def run(net: eqx.nn.MLP) -> tuple[Array, Array]:
            total, states = self.episode(net, maze)
            return (total - still) / (best - still), states

        runs = eqx.filter_vmap(run)

        def seen(states: Array) -> Array:
            return jax.vmap(lambda state: _observation(maze, state))(states.reshape(-1, states.shape[-1]))

        def init(key: Array) -> Population:
            key, own = jax.random.split(key)
            search = method.search.init(eqx.filter_vmap(policy)(jax.random.split(own, members)))
            returns, states = runs(search.centre)
            return Population(search, bandit.init(returns.mean()), seen(states), key)

        def update(population: Population) -> Population:
            search, choice, visited, key = population
            key, probe_key, ask_key, bandit_key = jax.random.split(key, 4)
            embed = BehaviorEmbedding(jax.random.choice(probe_key, visited, (self.probes,), replace=False))
            used = bandit.weight(choice) if weight is None else weight
            search = method.update(ask_key, search, lambda net: (run(net)[0], embed(net)), used)
            returns, states = runs(search.centre)
            return Population(search, bandit.observe(bandit_key, choice, returns.mean()), seen(states), key)

        def advance(population: Population) -> Population:
            arrays, static = eqx.partition(population, eqx.is_array)

            def body(arrays: Any, _: None) -> tuple[Any, None]:
                return eqx.filter(update(eqx.combine(arrays, static)), eqx.is_array), None

            arrays, _ = jax.lax.scan(body, arrays, None, self.every)
            return eqx.combine(arrays, static)

        def measure(population: Population) -> dict[str, Array]:
            returns, _ = runs(population.search.centre)
            embeddings = eqx.filter_vmap(BehaviorEmbedding(population.visited))(population.search.centre)
            used = bandit.weight(population.bandit) if weight is None else jnp.asarray(weight)
            return {
                f"{prefix}best_return": returns.max(),
                f"{prefix}mean_return": returns.mean(),
                f"{prefix}effective": effective_members(behaviour_kernel(embeddings)),
                f"{prefix}weight": used,
            }

        def final(population: Population) -> dict[str, Array]:
            return {f"{prefix}path": runs(population.search.centre)[1][..., :2]}

        return Learner(
            init=init, advance=advance, measure=measure, final=final, steps=self.updates, every=self.every,
            dims={f"{prefix}path": (f"{prefix}member", "time", "axis")}, coords={"axis": ["x", "y"]},
        )  # fmt: skip

    # Claims ----------------------------------------------------------------------------------------------

    def last(self, e: xr.Dataset, wall: float) -> xr.DataArray:
        """Best member's normalised return after the last update."""
        return e.best_return.isel(step=-1).sel(wall=wall)

    @claim("escape")
    def escape(self, e: xr.Dataset) -> Judgement:
        """With the wall, adaptive DvD minus the better of independent search and novelty."""
        score = self.last(e, 1.0)
        rivals = {
            name: float(score.sel(algorithm=name).mean("seed", skipna=False)) for name in ("independent", "novelty")
        }
        rival = max(rivals, key=lambda name: np.inf if np.isnan(rivals[name]) else rivals[name])
        effect = mean_interval(paired_difference(score.sel(algorithm="adaptive"), score.sel(algorithm=rival)))
        means = ", ".join(f"{name} {float(score.sel(algorithm=name).mean()):.2f}" for name in e.algorithm.values)
        return above(effect, 0.05, refuted_below=0.0, note=f"against {rival}; means: {means}")

    @claim("no-cost")
    def no_cost(self, e: xr.Dataset) -> Judgement:
        """Without the wall, adaptive DvD minus independent search."""
        score = self.last(e, 0.0)
        effect = mean_interval(paired_difference(score.sel(algorithm="adaptive"), score.sel(algorithm="independent")))
        return above(effect, -0.05)

    @claim("redundancy")
    def redundancy(self, e: xr.Dataset) -> Judgement:
        """Effective members without any reward, determinant minus mean distance."""
        count = e.free_effective.isel(reward_free_step=-1)
        effect = mean_interval(paired_difference(count.sel(score="determinant"), count.sel(score="pairwise")))
        means = {name: float(count.sel(score=name).mean()) for name in ("determinant", "pairwise")}
        note = f"of {self.free_members}: determinant {means['determinant']:.2f}, pairwise {means['pairwise']:.2f}"
        return above(effect, 1.0, refuted_below=0.3, note=note)

    def figure(self, e: xr.Dataset) -> Any:
        """Final paths of one population for each algorithm; effective members and best returns over all seeds."""
        names, wall = list(e.algorithm.values), max(self.wall)
        fig, axes = figures.panels(-(-len(names) // 2) + 1, 2, width=4.2, height=3.8)
        maps, (middle, right) = axes[:, :-1].ravel(), axes[:, -1]
        for unused in maps[len(names) :]:
            unused.remove()
        walls = np.asarray(_maze(wall > 0).walls)
        for color, name, ax in zip(figures.COLORS, names, maps, strict=False):
            ax.imshow(walls, origin="lower", extent=(0, walls.shape[1], 0, walls.shape[0]), cmap="Greys", vmax=2)
            for path in (
                e.path.sel(algorithm=name, wall=wall).stack(run=("seed", "member")).transpose("run", "time", "axis")
            ):
                ax.plot(*np.vstack([START, path.values]).T, color=color, lw=1, alpha=0.6)
            ax.plot(*START, "o", color="black", ms=6)
            ax.plot(*GOAL, "*", color="black", ms=11)
            ax.set(title=name, xticks=[], yticks=[])
            ax.grid(False)
        for i, (color, name) in enumerate(zip(figures.COLORS, names, strict=False)):
            figures.curve(middle, e.effective.sel(algorithm=name, wall=wall), color=color)
            figures.dots(right, i, e.best_return.isel(step=-1).sel(algorithm=name, wall=wall), color=color)
        middle.set(xlabel="update", title="effective members")
        right.set(title="best member's return", xticks=range(len(names)), ylim=(None, 1.05))
        right.set_xticklabels(names, fontsize=10)
        return fig


def _maze(wall: bool | Bool[Array, ""]) -> PointMaze:
    maze = PointMaze.from_text(TRAP, mode="force")
    border = jnp.zeros_like(maze.walls).at[jnp.array([0, -1])].set(True).at[:, jnp.array([0, -1])].set(True)
    return eqx.tree_at(lambda m: m.walls, maze, border | (maze.walls & wall))


def _observation(maze: PointMaze, state: Float[Array, "4"]) -> Float[Array, "4"]:
    """Position and velocity, each about in [-1, 1]."""
    rows, columns = maze.walls.shape
    return jnp.concatenate([state[:2] / jnp.array([columns / 2, rows / 2]) - 1, state[2:] / maze.speed])
