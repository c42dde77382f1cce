"""Ai et al. (2025): more bodies, or more data of the same bodies?"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import xarray as xr
from jaxtyping import Array, Float, Int

from unseen.lab import Judgement, Learner, Study, UserError, above, claim, figures
from unseen.lab.statistics import bootstrap_interval, mean_interval, paired_difference
from unseen.learners.distil import distances, distil, relative_distance
from unseen.measures.scaling import scaling_slope
from unseen.models.joint_attention import JointAttentionPolicy
from unseen.worlds.control.embodiments import generate_bodies
from unseen.worlds.control.gaits import Bodies

SHORT = 5  # links that a short body has at most


class EmbodimentScaling(Study):
    """Towards Embodiment Scaling Laws in Robot Locomotion (Ai et al., 2025).

    Planar swimmers with 3 to 7 links that differ in lengths, drag ratio and gears, each with an expert: a wave found
    by cross-entropy search. One policy that is told how each joint is built (attention over joint descriptions)
    imitates the experts of some bodies and is then let loose on 64 bodies that nobody trained on. The number of
    training bodies grows from 1 to 128 at a fixed amount of data (128 episodes of 120 steps). The controls: four
    bodies with one episode each (a 32nd of the data), and 64 bodies of at most five links.

    A score is the distance swum relative to the body's own expert from the same starts, clipped to [-1, 1.2].
    Training bodies are the first of one random order of the pool, drawn by each seed, so conditions are nested; the
    192 bodies themselves and the test starts are the same for all seeds: intervals are over training sets,
    demonstrations and first weights, not over test bodies.

    The paper's bodies are legged robots in Isaac Lab with PPO experts; here every scale has swimmers, and the scale
    `paper` has its number of bodies, not its simulator or its 1e9 samples.

    What came out: all three claims are supported. At 128 episodes in all, 1, 4, 16, 64 and 128 bodies give scores of
    0.06, 0.41, 0.71, 0.88 and 0.93 on bodies never seen, 0.12 a doubling, and the curve bends towards the expert from
    64 on. Four bodies with 32 times the data gain 0.10 [-0.05, 0.26], 32 times the bodies gain 0.62. Policies trained
    on short bodies do as well as mixed ones on short unseen bodies and lose 0.26 on those with 6 and 7 links.
    """

    pool: int = 128  # bodies to train on
    test_bodies: int = 64  # bodies that no one trains on
    total: int = 128  # episodes of every condition but the smallest
    short_bodies: int = 64  # training bodies of the cross-class condition
    steps: int = 120  # of an episode
    width: int = 96  # of the policy
    updates: int = 2_500  # of behaviour cloning
    batch_size: int = 256
    learning_rate: float = 2e-3  # first of a cosine schedule
    test_episodes: int = 2  # starts of each test body
    body_seed: int = 0  # of the bodies
    seeds: int = 5

    varies = dict(
        bodies=(1, 4, 16, 64, 128),
        episodes=(1, 2, 8, 32, 128),  # of each body
        short=(0.0, 1.0),  # 1: only bodies of at most five links to train on
    )
    traced = ("bodies", "episodes", "short")
    smoke = dict(
        pool=20, test_bodies=10, total=8, bodies=(1, 4, 8), episodes=(1, 2, 8), short_bodies=4, steps=120, width=16,
        updates=40, batch_size=64, test_episodes=1, seeds=2,
    )  # fmt: skip
    paper = dict(
        pool=800, test_bodies=200, total=6_400, bodies=(1, 4, 16, 80, 400, 800),
        episodes=(1, 8, 16, 80, 400, 1600, 6400), short_bodies=400, width=256, updates=100_000, batch_size=4_096,
    )  # fmt: skip
    watch = ("train_loss", "test_loss")

    def check(self) -> None:
        if self.pool < 5 or self.test_bodies < 5:
            raise UserError(f"pool and test_bodies take numbers from 5 on, got {self.pool} and {self.test_bodies}.")
        if bad := [n for n in self.bodies if not 1 <= n <= min(self.pool, self.total)]:
            raise UserError(f"bodies takes numbers from 1 to {min(self.pool, self.total)}, got {bad[0]:g}.")
        if self.short_bodies > 3 * (self.pool // 5):
            raise UserError(f"short_bodies takes at most {3 * (self.pool // 5)} of the pool, got {self.short_bodies}.")
        if self.updates % 5:
            raise UserError(f"updates takes a multiple of 5, got {self.updates}.")
        if bad := [v for v in self.short if v not in (0.0, 1.0)]:
            raise UserError(f"short takes 0 and 1, got {bad[0]:g}.")

    def includes(self, bodies, episodes, short) -> bool:
        """All the data divided among the bodies; four bodies with one episode each; one cross-class condition."""
        if short:
            return bodies == self.short_bodies and bodies * episodes == self.total
        return bodies * episodes == self.total or (bodies, episodes) == (4, 1)

    def learner(self, bodies, episodes, short) -> Learner:
        everyone = generate_bodies(self.pool + self.test_bodies, steps=self.steps, seed=self.body_seed)
        unseen = everyone[self.pool :]
        starts = jax.random.key(self.body_seed)  # test starts are one fixed set, the same for all policies
        expert = self.distances(unseen, starts)
        is_long = everyone.swimmers.links[: self.pool] > SHORT
        held_out = self.pool + jnp.arange(min(8, self.test_bodies))

        def choose(key: Any) -> tuple[Int[Array, " episodes"], Float[Array, " episodes"]]:
            order = jnp.argsort(jax.random.uniform(key, (self.pool,)) + 2 * short * is_long)
            episode = jnp.arange(self.total)
            which = order[episode % jnp.asarray(bodies, int)]
            return which, (episode < jnp.asarray(bodies * episodes, int)).astype(jnp.float32)

        def final(policy: Any, _: Any) -> dict[str, Array]:
            score = relative_distance(self.distances(unseen, starts, policy), expert)
            return {"score": score, "links": unseen.swimmers.links}

        return distil(
            lambda key: JointAttentionPolicy(self.width, key=key), everyone, choose, held_out,
            updates=self.updates, every=self.updates // 5, batch_size=self.batch_size,
            learning_rate=self.learning_rate, steps=self.steps, final=final,
            dims={"score": ("body",), "links": ("body",)},
        )  # fmt: skip

    def distances(self, bodies: Bodies, starts: Any, policy: Any = None) -> Float[Array, " bodies"]:
        """How far the test bodies swim, under a policy or their experts."""
        return distances(starts, bodies, policy, episodes=self.test_episodes, steps=self.steps)

    # Claims ----------------------------------------------------------------------------------------------

    def scaling_curve(self, e: xr.Dataset) -> xr.DataArray:
        """Mean score over unseen bodies by the number of training bodies, all of the data in each, per seed."""
        cells = [n for n in e.bodies.values.tolist() if self.has(e, n, self.total / n)]
        if not cells:
            raise UserError("bodies takes at least one number with total / bodies among the episodes.")
        rows = [self.cell(e, n, self.total / n).mean("body", skipna=False) for n in cells]
        return xr.concat(rows, "bodies").assign_coords(bodies=cells)

    def has(self, e: xr.Dataset, bodies: int | float, episodes: int | float, short: float = 0.0) -> bool:
        """Whether a condition is in the evidence."""
        return bodies in e.bodies and episodes in e.episodes and short in e.short

    def cell(self, e: xr.Dataset, bodies: int | float, episodes: int | float, short: float = 0.0) -> xr.DataArray:
        """Scores of one condition."""
        return e.score.sel(bodies=bodies, episodes=episodes, short=short, drop=True)

    @claim("scaling")
    def scaling(self, e: xr.Dataset) -> Judgement:
        curve = self.scaling_curve(e)
        effect = bootstrap_interval(lambda c: scaling_slope(c, "bodies").mean("seed", skipna=False), curve)
        means = ", ".join(f"{m:.2f}" for m in curve.mean("seed").values)
        return above(effect, 0.05, refuted_below=0.02, note=f"scores with {_list(curve.bodies)} bodies: {means}")

    @claim("bodies-not-data")
    def bodies_not_data(self, e: xr.Dataset) -> Judgement:
        many, data, base = (
            self.cell(e, n, k).mean("body", skipna=False) for n, k in ((self.total, 1), (4, self.total // 4), (4, 1))
        )
        gains = {f"gain of {name} over 4 bodies with one episode each": mean_interval(paired_difference(x, base))
                 for name, x in (("bodies", many), ("data", data))}  # fmt: skip
        note = "; ".join(f"{name}: {gain}" for name, gain in gains.items())
        return above(mean_interval(paired_difference(many, data)), 0.20, refuted_below=0.05, note=note)

    @claim("class-gap")
    def class_gap(self, e: xr.Dataset) -> Judgement:
        each = self.total / self.short_bodies
        mixed, short = (self.cell(e, self.short_bodies, each, s) for s in (0.0, 1.0))
        links = e.links.max([d for d in e.links.dims if d != "body"])
        gap = paired_difference(_of(mixed, links > SHORT), _of(short, links > SHORT))
        own = mean_interval(paired_difference(_of(mixed, links <= SHORT), _of(short, links <= SHORT)))
        return above(mean_interval(gap), 0.05, refuted_below=0.0, note=f"on short unseen bodies: {own}")

    def figure(self, e: xr.Dataset) -> Any:
        """Scores by the number of training bodies, with the flat line of data; scores by links, mixed and short."""
        fig, (left, right) = figures.panels(2, width=5.2, height=4.4)
        blue, orange, green, *_ = figures.COLORS
        curve = self.scaling_curve(e)
        figures.curve(left, curve, x="bodies", color=blue, marker="o", label=f"{self.total} episodes in all")
        for seed in curve.seed:
            left.plot(curve.bodies, curve.sel(seed=seed), ".", color=blue, alpha=0.4)
        for k, style in ((1, ":"), (self.total // 4, "--")):
            if self.has(e, 4, k):
                label = f"4 bodies, {k} episode{'s' if k > 1 else ''} each"
                left.axhline(float(self.cell(e, 4, k).mean()), color=orange, linestyle=style, label=label)
        left.set_xscale("log", base=2)
        left.set_xticks(curve.bodies.values, [f"{n:g}" for n in curve.bodies.values])
        left.set(xlabel="training bodies", ylabel="distance / expert's, unseen bodies", ylim=(-0.2, 1.1))
        left.legend(loc="upper left")
        links = e.links.max([d for d in e.links.dims if d != "body"])
        each, numbers = self.total / self.short_bodies, sorted(set(links.values[links.notnull().values].tolist()))
        for short, color, name in ((0.0, blue, "mixed"), (1.0, green, f"up to {SHORT} links")):
            if not self.has(e, self.short_bodies, each, short):
                continue
            score = self.cell(e, self.short_bodies, each, short)
            by_links = xr.concat([_of(score, links == n) for n in numbers], "links").assign_coords(links=numbers)
            label = f"{self.short_bodies} bodies, {name}"
            figures.curve(right, by_links, x="links", color=color, marker="o", label=label)
        right.axvspan(SHORT + 0.5, max(numbers) + 0.3, color="0.5", alpha=0.12, linewidth=0)
        right.set(xlabel="links of the unseen body", xticks=numbers, ylim=(-0.2, 1.1))
        if right.get_legend_handles_labels()[0]:
            right.legend(loc="lower left")
        return fig


def _of(score: xr.DataArray, which: xr.DataArray) -> xr.DataArray:
    return score.isel(body=which.values.nonzero()[0]).mean("body", skipna=False)


def _list(values: Any) -> str:
    return ", ".join(f"{v:g}" for v in values.values)
