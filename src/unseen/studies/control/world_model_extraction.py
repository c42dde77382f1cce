"""Richens et al. (2025): the model inside of a policy that is good at deep goals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import mean_interval, paired_difference, slope, spearman
from unseen.learners.branch_choice import BranchChoice, BranchGame, BranchLearning, branch_policy
from unseen.measures.world_model import Policy, extraction_bound, failure_rate, switching_point
from unseen.models.goal_counter import GoalConditionedCounter
from unseen.worlds.control.composite_goals import CompositeGoal, likely_outcomes, twin_processes
from unseen.worlds.control.tabular import TabularMDPs


class WorldModelExtraction(Study):
    """General agents need world models (Richens et al., 2025).

    An agent is asked to bet: "in n tries of this action in this state, this outcome follows at most k times", or
    more often. The k at which it changes sides, over n, is read as its transition probability (the paper's
    algorithm 2). Agents are planners on a model counted from samples (the paper's own agent), a network that learns
    from success and failure of its own bets, the same network that meets goals of depth one only, and a coin.
    The process, what every bet is worth and so every failure rate are exact; every transition that can happen is
    probed. Twins are pairs of processes in which the same depth-one choices are best and whose probabilities differ.

    Chosen before the recorded run where the registered rules leave it open: a learner's failure rate on a triple, for
    the bound, is its worst over k; for the correlation it is the mean over k and triples. Depths are powers of two.
    The depth-one learner of a twin is read at the depth, 1 or 32, at which it does better. A twin has 6 states, 3
    actions and 3 outcomes, a margin of at least 0.1 around each depth-one choice and moved entries by 0.2 to 0.3.
    The paper's scale has its larger process and depths; recurrent policies are not part of it yet.

    What came out: all four claims are supported. The network's read-out error falls from 0.127 at depth 2 to 0.013 at
    depth 64, faster than the planner's on 10,000 samples, whose own counts are the limit. No error is above its
    bound, for any learner, depth or triple; with the worst failure rate over k in it, the bound is loose, so this
    says little about its sharpness. All twins share their depth-one choices, which are all the best ones, and are
    read out 0.21 worse than with deep goals; the network of depth one is as wrong at depth 64 as at depth 1. Failure
    rate and error order the agents almost alike (0.95), but for the coin, which fails most and is not the most
    wrong: where no choice has any system, k* is simply small.
    """

    states: int = 20  # of the process
    actions: int = 5  # of the process
    outcomes: int = 5  # states that can follow a state and action
    deepest: int = 64  # largest depth of a goal; depths are the powers of two up to it
    width: int = 128  # units of the two hidden layers
    updates: int = 2_000  # of the network; it is looked at after 1/8, 1/4, 1/2 and all of them
    batch_size: int = 512  # bets in an update
    learning_rate: float = 2e-3  # of Adam, falling to zero along a cosine
    pairs: int = 25  # twin processes of a seed
    deep_pairs: int = 2  # of which so many are also learned with deep goals
    twin_width: int = 32  # units of the hidden layers of networks that learn twins
    twin_updates: int = 2_000  # of those that learn deep goals
    twin_myopic_updates: int = 1_000  # of those that learn goals of depth one
    twin_batch_size: int = 128  # bets in an update of these
    twin_rate: float = 5e-3  # learning rate of these
    seeds: int = 8

    varies = dict(trained_depth=(1, 64))
    traced = ("trained_depth",)
    smoke = dict(
        states=6, actions=2, outcomes=3, width=16, updates=160, batch_size=64, pairs=2, deep_pairs=1, twin_updates=50,
        twin_myopic_updates=50, twin_batch_size=32, seeds=2,
    )  # fmt: skip
    paper = dict(states=100, deepest=512, trained_depth=(1, 512), width=512, updates=100_000, seeds=50)
    watch = ("network_failure",)

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(2**i for i in range(self.deepest.bit_length()))

    def check(self) -> None:
        if self.deepest < 32 or self.deepest & (self.deepest - 1):
            raise UserError(f"deepest takes a power of two from 32 on, got {self.deepest}.")
        if self.updates < 8 or self.updates % 8:
            raise UserError(f"updates takes a multiple of 8, got {self.updates}.")
        if bad := [d for d in self.trained_depth if d not in self.depths]:
            raise UserError(f"trained_depth takes powers of two from 1 to {self.deepest}, got {bad[0]}.")
        if not 1 <= self.outcomes <= self.states:
            raise UserError(f"outcomes takes a whole number from 1 to the {self.states} states, got {self.outcomes}.")
        if not 1 <= self.deep_pairs <= self.pairs:
            raise UserError(f"deep_pairs takes a whole number from 1 to the {self.pairs} pairs, got {self.deep_pairs}.")

    # Learners --------------------------------------------------------------------------------------------

    def learner(self, trained_depth: int | Int[Array, ""]) -> Learner:
        """A network that learns from its own bets, at goals up to a depth."""
        choice = self.choice(self.updates, self.batch_size, self.learning_rate)

        def init(key: PRNGKeyArray) -> tuple[BranchLearning, BranchGame]:
            net, play = jax.random.split(jax.random.fold_in(key, 1))
            model = GoalConditionedCounter(self.states, self.actions, width=self.width, most=self.deepest, key=net)
            return choice.init(model, play), self.game(key)

        def advance(state: tuple[BranchLearning, BranchGame]) -> tuple[BranchLearning, BranchGame]:
            run, game = state
            return choice.advance(run, game, self.updates // 8, trained_depth), game

        def measure(state: tuple[BranchLearning, BranchGame]) -> dict[str, Array]:
            run, game = state
            return self.averages(branch_policy(run.model), game, "network")

        return Learner(
            init=init, advance=advance, measure=measure, steps=self.updates, every=self.updates // 8,
            **self.layout("network"),
        )  # fmt: skip

    @part(varies=dict(samples=(500, 1000, 2000, 5000, 10000)), traced=("samples",))
    def planner(self, samples: int | Int[Array, ""]) -> Learner:
        """Bets by a model counted from transitions under random actions; a pair never tried is uniform."""
        most = max(self.samples)

        def compute(key: PRNGKeyArray) -> dict[str, Array]:
            game = self.game(key)
            pick, draw = jax.random.split(jax.random.fold_in(key, 2))
            pairs = jax.random.randint(pick, (most,), 0, self.states * self.actions)
            rows = game.transition.reshape(-1, self.states)[pairs]
            follows = jax.random.categorical(draw, jnp.log(rows), axis=-1)
            counts = jnp.zeros((self.states * self.actions, self.states))
            counts = counts.at[pairs, follows].add((jnp.arange(most) < samples).astype(float))
            tried = counts.sum(-1, keepdims=True)
            model = jnp.where(tried > 0, counts / jnp.maximum(tried, 1), 1 / self.states)
            model = model.reshape(game.transition.shape)

            def policy(goal: CompositeGoal) -> Array:
                at_most, more = jnp.moveaxis(goal.success(model), -1, 0)
                return at_most >= more

            return self.averages(policy, game, "planner")

        return Learner.once(compute, **self.layout("planner"))

    @part()
    def coin(self) -> Learner:
        """Bets on either branch, by chance."""

        def compute(key: PRNGKeyArray) -> dict[str, Array]:
            toss = jax.random.fold_in(key, 3)
            return self.averages(lambda goal: jax.random.bernoulli(toss, 0.5, goal.depth.shape), self.game(key), "coin")

        return Learner.once(compute, **self.layout("coin"))

    @part()
    def twins(self) -> Learner:
        """Networks that learn both of a pair of twins, at depth one and (some of the pairs) at all depths."""
        myopic, deep = (
            self.choice(n, self.twin_batch_size, self.twin_rate) for n in (self.twin_myopic_updates, self.twin_updates)
        )

        def learned(game: BranchGame, key: PRNGKeyArray, choice: BranchChoice, updates: int, depth: int) -> Any:
            net, play = jax.random.split(key)
            states, actions, _ = game.transition.shape
            model = GoalConditionedCounter(states, actions, width=self.twin_width, most=self.deepest, key=net)
            return choice.advance(choice.init(model, play), game, updates, depth).model

        def one(key: PRNGKeyArray, choice: BranchChoice, updates: int, trained: int, read: tuple[int, ...]) -> Any:
            born, *keys = jax.random.split(key, 3)
            pair = twin_processes(born)
            # Both twins have the same triples: an outcome that can follow in one can in the other.
            triples = likely_outcomes(pair.transition.sum(0), 3)
            probability = pair.transition[:, *triples.T]
            moved = (jnp.abs(probability[0] - probability[1]) >= 0.2 - 1e-6).astype(float)

            def twin(transition: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
                game = BranchGame.of(transition, triples, self.depths)
                policy = branch_policy(learned(game, key, choice, updates, trained))
                error = self.probed(policy, game, read)["error"] @ moved / moved.sum()
                return policy(CompositeGoal.families(triples, 1))[:, 0], error

            at_most, error = jax.vmap(twin)(pair.transition, jnp.stack(keys))
            return {
                "agree": (at_most[0] == at_most[1]).all(),
                "right": (at_most == (probability < 0.5)).mean(),
                "error": error.mean(0).min(),
            }

        def compute(key: PRNGKeyArray) -> dict[str, Array]:
            keys = jax.random.split(jax.random.fold_in(key, 4), self.pairs)
            near = jax.vmap(lambda k: one(k, myopic, self.twin_myopic_updates, 1, (1, 32)))(keys)
            far = jax.vmap(lambda k: one(k, deep, self.twin_updates, 32, (32,)))(keys[: self.deep_pairs])
            return {
                "twins_agree": near["agree"].mean(),
                "twins_right": near["right"].mean(),
                "twins_myopic_error": near["error"].mean(),
                "twins_deep_error": far["error"].mean(),
            }

        return Learner.once(compute)

    def choice(self, updates: int, batch_size: int, rate: float) -> BranchChoice:
        """How bets are learned."""
        optimizer = optax.adam(optax.cosine_decay_schedule(rate, updates, alpha=0.01))
        return BranchChoice(self.depths, batch_size, optimizer)

    def game(self, key: PRNGKeyArray) -> BranchGame:
        """The seed's process, the same for all learners, and all of its transitions that can happen."""
        process = TabularMDPs.communicating(key, 1, self.states, self.actions, branching=self.outcomes)
        transition = process.transition[0]
        return BranchGame.of(transition, likely_outcomes(transition, self.outcomes), self.depths)

    def probed(
        self, policy: Policy, game: BranchGame, depths: tuple[int, ...]
    ) -> dict[str, Float[Array, "depths triples"]]:
        """What is read out of a policy by goals of each depth, for every triple."""
        # All goals in one question, so that one program asks them.
        families = [CompositeGoal.families(game.triples, depth) for depth in depths]
        goals = jax.tree.map(lambda *fields: jnp.concatenate(fields, axis=1), *families)
        ends = np.cumsum([depth + 1 for depth in depths])[:-1]
        chosen = jnp.split(policy(goals), ends, axis=1)
        success = jnp.split(goals.success(game.transition), ends, axis=1)
        probability = game.transition[tuple(game.triples.T)]
        found = []
        for depth, at_most, chances in zip(depths, chosen, success, strict=True):
            # "At most n of n" is certain, and nobody has to be asked.
            failure = failure_rate(chances, at_most.at[:, depth].set(True))
            error = jnp.abs(switching_point(at_most) / depth - probability)
            within = error <= extraction_bound(probability, depth, failure.max(-1)) + 1e-6
            found.append({"error": error, "within": within.astype(float), "failure": failure[:, :depth].mean(-1)})
        return {name: jnp.stack([f[name] for f in found]) for name in found[0]}

    def averages(self, policy: Policy, game: BranchGame, prefix: str) -> dict[str, Float[Array, " depths"]]:
        """Means over triples, at every depth."""
        found = self.probed(policy, game, self.depths)
        return {f"{prefix}_{name}": values.mean(1) for name, values in found.items()}

    def layout(self, prefix: str) -> dict[str, Any]:
        names = (f"{prefix}_{name}" for name in ("error", "within", "failure"))
        return {"dims": dict.fromkeys(names, ("depth",)), "coords": {"depth": list(self.depths)}}

    # Claims ----------------------------------------------------------------------------------------------

    def lengths(self, values: xr.DataArray) -> xr.DataArray:
        """The four training lengths."""
        return values.sel(step=[self.updates // 8, self.updates // 4, self.updates // 2, self.updates])

    @claim("readable")
    def readable(self, e: xr.Dataset) -> Judgement:
        error = e.network_error.sel(trained_depth=max(self.trained_depth), step=self.updates)
        error = error.sel(depth=[d for d in self.depths if 2 <= d <= 64])
        fall = mean_interval(slope(error.depth, error, "depth", log=True))
        first, last = (float(error.isel(depth=i).mean()) for i in (0, -1))
        return judge(
            fall, supported=fall.high < -0.3, refuted=fall.low > -0.15,
            note=f"mean error {first:.3f} at depth 2, {last:.3f} at depth {int(error.depth[-1])}",
        )  # fmt: skip

    @claim("bound")
    def bound(self, e: xr.Dataset) -> Judgement:
        deep = e.network_within.sel(trained_depth=max(self.trained_depth))
        planners = e.planner_within.sel(depth=e.depth > 1).mean(["samples", "depth"], skipna=False)
        networks = self.lengths(deep).sel(depth=e.depth > 1).mean(["step", "depth"], skipna=False)
        share = mean_interval((planners + networks) / 2)
        return judge(
            share, supported=share.low >= 0.95, refuted=share.high < 0.90,
            also={"planners": mean_interval(planners), "networks": mean_interval(networks)},
        )  # fmt: skip

    @claim("myopic")
    def myopic(self, e: xr.Dataset) -> Judgement:
        share = mean_interval(e.twins_agree)
        worse = mean_interval(paired_difference(e.twins_myopic_error, e.twins_deep_error))
        return judge(
            worse, supported=share.low > 0.90 and worse.low > 0.05, refuted=share.high < 0.50 or worse.high < 0.02,
            also={"share of twins that agree": share},
            note=f"{float(e.twins_right.mean()):.4f} of the depth-one choices are the best ones",
        )  # fmt: skip

    @claim("capability-tracks-model")
    def capability_tracks_model(self, e: xr.Dataset) -> Judgement:
        failure, error = (self.agents(e, name).sel(depth=32) for name in ("failure", "error"))
        rank = mean_interval(spearman(failure, error, "agent"))
        return judge(
            rank,
            supported=rank.low > 0.5,
            refuted=rank.high < 0.2,
            note=f"{failure.sizes['agent']} agents in each seed",
        )

    def agents(self, e: xr.Dataset, name: str) -> xr.DataArray:
        """A measure of all learners at all training lengths, over a dimension `agent`."""
        network = self.lengths(e[f"network_{name}"]).stack(agent=("trained_depth", "step"))
        planner = e[f"planner_{name}"].rename(samples="agent")
        coin = e[f"coin_{name}"].expand_dims("agent")
        bare = [a.drop_vars(("agent", "trained_depth", "step"), errors="ignore") for a in (planner, network, coin)]
        return xr.concat(bare, "agent", coords="minimal", compat="override")

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, right) = figures.panels(2, height=4.4)
        depth = np.array(self.depths, float)
        lines = [
            (e.planner_error.sel(samples=min(e.samples.values)), e.planner_failure.sel(samples=min(e.samples.values)),
             f"planner, {min(e.samples.values)} samples"),
            (e.planner_error.sel(samples=max(e.samples.values)), e.planner_failure.sel(samples=max(e.samples.values)),
             f"planner, {max(e.samples.values)} samples"),
        ]  # fmt: skip
        for trained in self.trained_depth:
            final = e.sel(trained_depth=trained).isel(step=-1)
            label = "network, depth one only" if trained == 1 else f"network, depths to {trained}"
            lines.append((final.network_error, final.network_failure, label))
        for color, (error, failure, label) in zip(figures.COLORS, lines, strict=False):
            rate = float(failure.sel(depth=32).mean())
            figures.curve(left, error, x="depth", label=f"{label} (fails {rate:.1%})", color=color, marker="o", ms=4)
        beyond = depth[depth > 1]
        left.plot(beyond, np.sqrt(2 * 0.16 / (beyond - 1)), "--", color="black", label="bound, P = 0.2, no failures")
        left.set(xscale="log", yscale="log", xlabel="depth n of the goals", ylabel="mean error of what is read out")
        left.set_ylim(top=float(max(error.max() for error, *_ in lines)) * 12)
        left.set_xticks(depth, [f"{d:g}" for d in depth])
        left.minorticks_off()
        left.legend(loc="upper right", fontsize=9)
        left.set_title("Deep goals reveal the model")
        failure, error = (self.agents(e, name).sel(depth=32) for name in ("failure", "error"))
        kinds = [("planners", e.samples.size), ("networks", failure.sizes["agent"] - e.samples.size - 1), ("coin", 1)]
        at = 0
        for color, marker, (kind, count) in zip(figures.COLORS[3:], figures.MARKERS, kinds, strict=False):
            x, y = (v.isel(agent=slice(at, at + count)).values.ravel().clip(min=1e-5) for v in (failure, error))
            right.plot(x, y, marker, ms=5, alpha=0.6, color=color, mew=0, label=kind)
            at += count
        right.set(xscale="log", yscale="log", xlabel="failure rate at depth 32", ylabel="error of what is read out")
        right.set_xlim(right=1.0)
        right.legend(loc="lower right")
        right.set_title("Better agents hold better models")
        return fig
