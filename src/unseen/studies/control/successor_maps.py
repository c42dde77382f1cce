"""Carvalho et al. (2024): what a map of predicted states carries over to, and what it does not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, PRNGKeyArray

from unseen.lab import Judgement, Learner, Study, UserError, above, claim, figures, judge, part
from unseen.lab.statistics import mean_interval, paired_difference
from unseen.learners.successor_features import SuccessorFeatures
from unseen.learners.tabular_agents import ModelBased, SuccessorRepresentation, TabularQ, revaluation_protocol
from unseen.measures.exact import policy_evaluation
from unseen.measures.place_fields import place_field_skew
from unseen.worlds.control.revaluation import four_rooms_changes, two_stage_graph
from unseen.worlds.control.tabular import TabularMDPs

EXPLORE = {"q-learning": 0.2, "sr-walk": 1.0, "sr-learned": 0.2, "model-based": 1.0}  # share of random actions
SITES = ((1, 1), (1, 9), (9, 1), (9, 9))  # of the four features that rewards are mixed from: a corner of each room


class SuccessorMaps(Study):
    """Predictive representations: building blocks of intelligence (Carvalho et al., 2024).

    Q-learning, the successor representation (SR, by temporal differences) and a model-based learner learn a task;
    then its reward site moves or a path closes, they are shown the changed site and nothing else, and probed: the
    exact value of the greedy policy in the new task, 0 a random walk's, 1 the optimum. Two worlds, four rooms and a
    two-stage graph, weigh the same. Generalised policy improvement (GPI) over four stored policies, one for each
    corner, meets new mixtures of rewards; all values are exact. On a linear track the SR of one-way runs is compared
    with that of a random walk.

    Chosen before the recorded run where the registered rules leave it open: the SR of the claims predicts a random
    walk, as in the review's revaluation experiments, and the one that predicts the learned policy is in the note.
    The model-based learner explores at random and remembers twenty tries. The best single policy is the best one for
    each state where the minimum is meant, and for the average state where the mean is. Mixtures have standard normal
    weights. Shifts are those of the field's centre of mass relative to the cell, mean over the track, in states.
    Deep successor features on pixels and continuous tasks, the catalogue's paper scale, are not part of it yet; the
    paper's scale here is a longer one of the same tables.

    What came out: all four claims are supported, by wide margins. The SR of a random walk plans as well as the model
    after a change of reward (1.00), where Q-learning goes on to where the reward was, worse than a random walk
    (-0.17); the SR of the learned policy knows other places less well (0.87). After a change of transitions both are
    where Q-learning is, and in four rooms they stay stuck at the shut door for hundreds of episodes: around the door
    the map is corrected, but its old predictions farther away lead back to it, and away from the goal a random walk
    seldom passes. GPI is never below a stored policy (least difference -6e-14) and worth 0.42 more than the best
    single one. One-way fields move back by 2.0 of 20 places and are skewed by -0.6.
    """

    discount: float = 0.95  # of future rewards and visits
    episodes: int = 3_000  # of learning, from random states
    length: int = 30  # steps of an episode
    presentations: int = 1_000  # of the changed sites, one step each
    probes: int = 12  # after further experience in the changed task
    probe_episodes: int = 25  # between two of them
    mixtures: int = 50  # new mixtures of rewards
    track: int = 20  # states of the linear track
    laps: int = 50  # runs along it
    track_discount: float = 0.9  # of the visits that the track's map predicts
    track_rate: float = 0.1  # learning rate of the track's map
    seeds: int = 20

    varies = dict(agent=("q-learning", "sr-walk", "sr-learned", "model-based"), world=("four-rooms", "two-stage"))
    smoke = dict(episodes=40, presentations=60, probes=2, probe_episodes=2, mixtures=3, laps=5, seeds=2)
    paper = dict(episodes=30_000, mixtures=1_000, track=100, laps=500, seeds=100)

    def check(self) -> None:
        if bad := [a for a in self.agent if a not in EXPLORE]:
            raise UserError(f"agent takes {', '.join(EXPLORE)}, got {bad[0]!r}.")
        if bad := [w for w in self.world if w not in ("four-rooms", "two-stage")]:
            raise UserError(f"world takes four-rooms or two-stage, got {bad[0]!r}.")
        for name in ("discount", "track_discount"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name} takes a number between 0 and 1, got {getattr(self, name)}.")
        if self.track < 3:
            raise UserError(f"track takes a whole number from 3 on, got {self.track}.")

    def learner(self, agent: str, world: str) -> Learner:
        """One agent in one world, through both changes."""
        kinds = {
            "q-learning": TabularQ(self.discount),
            "sr-walk": SuccessorRepresentation(self.discount),
            "sr-learned": SuccessorRepresentation(self.discount, greedy=1.0),
            "model-based": ModelBased(self.discount),
        }

        def compute(key: PRNGKeyArray) -> dict[str, Array]:
            born, live = jax.random.split(key)
            tasks = two_stage_graph() if world == "two-stage" else four_rooms_changes(born)
            found = [
                revaluation_protocol(
                    kinds[agent], live, tasks.old, change, discount=self.discount, explore=EXPLORE[agent],
                    episodes=self.episodes, length=self.length, presentations=self.presentations,
                    probes=self.probes, probe_episodes=self.probe_episodes,
                )
                for change in (tasks.reward, tasks.transition)
            ]  # fmt: skip
            return {"learned": found[0].before, "regained": jnp.stack([f.probes for f in found])}

        after = [self.probe_episodes * i for i in range(self.probes + 1)]
        return Learner.once(
            compute, dims={"regained": ("change", "after")}, coords={"change": ["reward", "transition"], "after": after}
        )

    @part()
    def improvement(self) -> Learner:
        """Exact values of GPI and of the stored policies, in double precision."""

        def compute(key: PRNGKeyArray) -> dict[str, Any]:
            with jax.enable_x64(True):
                rooms = TabularMDPs.four_rooms(SITES, slip=0.1)
                transition, start = rooms.transition[0].astype(float), rooms.start.astype(float)
                transition = transition / transition.sum(-1, keepdims=True)
                features = jnp.moveaxis(rooms.reward, 0, -1).astype(float)
                stored, policies = SuccessorFeatures.of_tasks(transition, features, jnp.eye(4), self.discount)

                def gains(mixture: Array) -> tuple[Array, Array]:
                    def value(policy: Array) -> Array:
                        return policy_evaluation(transition, features @ mixture, policy, self.discount)

                    improved = value(jax.nn.one_hot(stored.policy(mixture), 4, dtype=float))
                    singles = jax.vmap(value)(policies)
                    return (improved - singles.max(0)).min(), start @ improved - (singles @ start).max()

                worst, mean = jax.vmap(gains)(jax.random.normal(key, (self.mixtures, 4)).astype(float))
                return {"improvement_least": np.asarray(worst.min()), "improvement_mean": np.asarray(mean.mean())}

        return Learner.once(compute, host=True)

    @part(varies=dict(runs=("one-way", "random walk")))
    def place_fields(self, runs: str) -> Learner:
        """A map of the track by temporal differences, from self-prediction to the end of the last run."""
        steps = self.track - 1

        def walk(here: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
            there = jnp.clip(here + 2 * jax.random.bernoulli(key).astype(int) - 1, 0, steps)
            return there, there

        def compute(key: PRNGKeyArray) -> dict[str, Array]:
            first, rest = jax.random.split(key)
            if runs == "one-way":
                here = jnp.tile(jnp.arange(steps), self.laps)
                there, last = here + 1, jnp.tile(jnp.arange(steps) == steps - 1, self.laps)
            else:  # as many steps, cut into runs of the same length that begin anywhere
                begin = jax.random.randint(first, (self.laps,), 0, self.track)
                draws = jax.random.split(rest, (self.laps, steps))
                there = jax.vmap(lambda s, k: jax.lax.scan(walk, s, k)[1])(begin, draws)
                here = jnp.concatenate([begin[:, None], there[:, :-1]], 1).ravel()
                there, last = there.ravel(), jnp.zeros(here.size, bool)

            def learn(visits: Array, step: tuple[Array, Array, Array]) -> tuple[Array, None]:
                here, there, last = step
                # The end of a one-way run is seen once itself, and nothing follows it.
                follows = jnp.where(last, jax.nn.one_hot(there, self.track), visits[there])
                target = jax.nn.one_hot(here, self.track) + self.track_discount * follows
                return visits.at[here].add(self.track_rate * (target - visits[here])), None

            visits, _ = jax.lax.scan(learn, jnp.eye(self.track), (here, there, last))
            shape = place_field_skew(visits)
            return {"field": visits, "shift": shape.shift.mean(), "skew": shape.skew.mean()}

        return Learner.once(compute, dims={"field": ("place", "cell")})

    # Claims ----------------------------------------------------------------------------------------------

    def first_probe(self, e: xr.Dataset, agent: str, change: str) -> xr.DataArray:
        """Normalised return after the relearning at the site, mean of the worlds."""
        return e.regained.sel(agent=agent, change=change, after=0).mean("world", skipna=False)

    @claim("reward-revaluation")
    def reward_revaluation(self, e: xr.Dataset) -> Judgement:
        flat, walk, learned = (self.first_probe(e, a, "reward") for a in ("q-learning", "sr-walk", "sr-learned"))
        return above(
            mean_interval(paired_difference(walk, flat)), 0.30, refuted_below=0.10,
            also={"with the SR of the learned policy": mean_interval(paired_difference(learned, flat))},
            note=", ".join(f"{agent} had learned {float(v.mean()):.2f}" for agent, v in e.learned.groupby("agent")),
        )  # fmt: skip

    @claim("transition-revaluation")
    def transition_revaluation(self, e: xr.Dataset) -> Judgement:
        def deficit(change: str, agent: str = "sr-walk") -> xr.DataArray:
            return paired_difference(self.first_probe(e, "model-based", change), self.first_probe(e, agent, change))

        after, before = deficit("transition"), deficit("reward")
        learned = deficit("transition", "sr-learned") - deficit("reward", "sr-learned")
        return above(
            mean_interval(paired_difference(after, before)), 0.20, refuted_below=0.05,
            note=f"deficit {float(after.mean()):.2f} after transition change, {float(before.mean()):.2f} after reward "
            f"change; the difference with the SR of the learned policy is {float(learned.mean()):.2f}",
        )  # fmt: skip

    @claim("gpi")
    def gpi(self, e: xr.Dataset) -> Judgement:
        mean, least = mean_interval(e.improvement_mean), e.improvement_least
        return judge(
            mean,
            supported=(least > -1e-4).all() and mean.low > 0.01,
            refuted=(least < -1e-2).any() or mean.high < 0,
            note=f"least over mixtures, states and seeds {float(least.min()):.2g}",
        )

    @claim("predictive-skew")
    def predictive_skew(self, e: xr.Dataset) -> Judgement:
        shift = mean_interval(paired_difference(e["shift"].sel(runs="one-way"), e["shift"].sel(runs="random walk")))
        skews = ", ".join(f"{float(v.mean()):.2f} {runs}" for runs, v in e["skew"].groupby("runs"))
        return judge(shift, supported=shift.high < -0.5, refuted=shift.low > -0.1, note=f"skewness {skews}")

    def figure(self, e: xr.Dataset) -> Any:
        fig, axes = figures.panels(3, width=4.4, height=4.2)
        for ax, change in zip(axes, ("reward", "transition"), strict=False):
            # Thin dashes over thick lines: learners that do exactly as well must all be seen.
            styles = [dict(lw=6, alpha=0.5), dict(lw=4, alpha=0.7), dict(lw=2.5, ls="--"), dict(lw=3, ls=":")]
            for color, style, agent in zip(figures.COLORS, styles, self.agent, strict=False):
                values = e.regained.sel(agent=agent, change=change).mean("world", skipna=False)
                figures.curve(ax, values, x="after", label=agent, color=color, **style)
            ax.axhline(0, color="0.5", lw=1, ls=":")
            ax.set(xlabel="episodes after the change", ylim=(-0.35, 1.05), title=f"After a change of {change}")
        axes[0].set_ylabel("normalised return (1 = optimum)")
        axes[1].legend(loc="lower right")
        cell = self.track // 2
        for color, runs in zip(figures.COLORS, e.runs.values, strict=False):
            field = e.field.sel(runs=runs).isel(cell=cell)
            figures.curve(axes[2], field / field.max("place"), x="place", label=f"after {runs} runs", color=color)
        axes[2].axvline(cell, color="0.5", lw=1, ls=":")
        axes[2].set(xlabel="place on the track", ylabel=f"field of cell {cell}, of its peak", ylim=(0, 1.35))
        axes[2].legend(loc="upper left")
        axes[2].set_title("Place fields reach backwards")
        return fig
