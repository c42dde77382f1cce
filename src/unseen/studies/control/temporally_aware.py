"""Jackson et al. (2024): update rules that know how much of a learner's life is left."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Key

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import mean_interval, paired_difference
from unseen.learners.lifetimes import DriftRule, HorizonSweep, Lives, horizon_sweep
from unseen.learners.meta_training import LifetimeEvolution, TruncatedDescent
from unseen.measures.schedule_index import schedule_index
from unseen.methods.evolution import EvolutionStrategies
from unseen.methods.learned_objective import LPO, lifetime_inputs, ppo_clip_drift, surrogate_weight
from unseen.worlds.control.compiled_levels import CompiledLevel
from unseen.worlds.control.first_pays import FirstPays
from unseen.worlds.control.grid_levels import RewardObjects, level_keys

TRAIN_LEVELS, TEST_LEVELS = 1024, 256
MOMENTS = 20  # points of life at which the figure shows entropy
CONDITIONS = {"aware, ES": ("es", 1.0), "blind, ES": ("es", 0.0), "aware, gradient": ("gradient", 1.0)}


class Searched(NamedTuple):
    """Meta-training in its middle, and the luck of the tests."""

    training: Any
    luck: Key[Array, ""]


class TemporallyAware(Study):
    """Discovering temporally-aware reinforcement learning algorithms (Jackson et al., 2024).

    A drift for policy optimisation (LPO) is meta-learned on small grids with objects of random rewards: tabular softmax
    policies, lives of 20 or 80 updates. Evolution strategies score whole lives by the exact return of the final policy;
    meta-gradients look through five updates, with as many simulated steps. Aware rules see the fraction of life that
    has passed and its length; the blind rule has the same weights with zeros there. Tested on levels and lifetimes that
    were not in meta-training, beside PPO with and without a linearly annealed step size. Returns are divided by the
    exact optimum of the levels. The notes also tell what meta-training gained on levels kept aside, and what the aware
    rule earns when its clock always shows the middle of a life of 40 updates.

    Sizes were chosen on pilots (seeds 0 and 1, training levels) so that evolution learns at all. Rollouts are 4
    walkers of 10 steps for 8 of 20: a life costs a quarter, and a rate of 10 in four epochs does harm without a drift.
    The drift has one hidden layer of 4 instead of two of 32: 16 pairs a generation could not move hundreds of weights.
    Its activation is arcsinh: tanh is flat at the large ratios of tabular steps, and at a rate of 20 such drifts were
    hardly learned. A pair counts by the difference of its returns, not by its sign. Adam's rates fall to 0. Rates of
    the controls are those with the best return: PPO's 20 of 3, 8, 13, 20, 30 and 50, annealed PPO's 30 of 8, 13, 20
    and 30, meta-gradients' 0.001 of 0.001, 0.005 and 0.02 (after 40 generations' steps none earned more than its
    start, and schedule indices were 0.04, 0.11 and 0.15).

    What came out: evolution learns (on kept training levels the blind rule gains 0.13, with all four seeds, to 0.82;
    the aware one 0.08, three seeds to 0.79 and one nothing), meta-gradients hardly do (0.68 to 0.71). But the rule
    that sees time earns less at all four horizons, most of all at 320 updates (0.71, blind 0.85; PPO, tuned, 0.88), so
    `horizons` is refuted. The likely reasons lie in the search. The blind rule is one of the aware ones, but the aware
    search has three times as many weights to find with the same pairs, and it stays below the blind rule even at the
    lifetimes of its training (0.74 and 0.79, blind 0.80 and 0.84). Its weights are linear in log N, so 320 lies three
    times as far out as 80: with the clock stopped the same rules earn 0.75 there, and 0.03 more over all horizons
    (that interval includes 0). There is also little to gain: in a sweep by hand PPO's best rates for 20 and for 80
    updates differ, but either loses 0.04 at most at the other, and annealing costs. Evolution does find rules that
    change more (index 0.19) than meta-gradients (0.05, from 0.03), but the lower bound of the difference, 0.07, misses
    0.10; that a stopped clock costs nothing says that much of the change is wandering. It is no schedule towards a
    deadline: with one far off, learners are a little more decided, with all seeds (refuted, but only just: the upper
    bound is 0.0198, the rule's 0.02). In pilots a larger sigma, 0.2, moved a blind seed that 0.1 did not, and 0.3 did
    not; this was seen when the recording had begun. More pairs for the aware rule are untried. `paper` is the paper's
    population on larger levels of the same kind.
    """

    side: int = 5  # of a grid, inside of its border
    objects: int = 2  # of a level
    meta_horizons: tuple[int, ...] = (20, 80)  # lifetimes in meta-training, in updates
    horizons: tuple[int, ...] = (10, 40, 160, 320)  # lifetimes in the test
    deadline: int = 20  # update at which near and far deadlines are compared
    pairs: int = 64  # antithetic pairs of a generation
    generations: int = 100
    every: int = 20  # generations between two looks
    width: int = 4  # of the drift's hidden layers
    depth: int = 1  # how many
    sigma: float = 0.1  # of the perturbations
    es_rate: float = 0.1  # of Adam, for evolution strategies; it ends at 0
    gradient_rate: float = 1e-3  # of Adam, for meta-gradients; it ends at 0
    learners: int = 32  # that a meta-gradient is the mean of
    updates: int = 5  # that it sees
    bonus: float = 0.01  # weight of the policy's entropy in its loss
    rate: float = 10.0  # of the tabular policies, each epoch
    epochs: int = 4  # on a rollout
    ppo_rate: float = 20.0  # of PPO
    annealed_rate: float = 30.0  # of PPO whose rate falls to 0
    clip: float = 0.2  # of PPO
    walkers: int = 4  # copies of the level in a rollout
    time: int = 10  # steps of a rollout
    limit: int = 25  # steps of an episode
    levels: int = 128  # of a test
    seeds: int = 4

    varies = dict(search=("es", "gradient"), aware=(1.0, 0.0))
    traced = ("aware",)
    smoke = dict(
        search=("es",), side=3, objects=1, meta_horizons=(2, 4), horizons=(2, 4), deadline=2, pairs=2, generations=2,
        every=2, es_rate=0.01, epochs=2, walkers=2, time=8, levels=4, seeds=2,
    )  # fmt: skip
    # The paper's population and lives of a million steps; its MinAtar and Brax are not built here.
    paper = dict(
        side=11, objects=3, meta_horizons=(1_500, 6_000), horizons=(750, 3_000, 12_000, 24_000), deadline=1_500,
        pairs=256, generations=1_500, every=50, width=32, depth=2, learners=512, walkers=8, time=20, limit=50,
        levels=256, seeds=10,
    )  # fmt: skip
    watch = ("training_return", "schedule")

    def includes(self, search, aware) -> bool:
        """Meta-gradients only search for an aware rule."""
        return search == "es" or aware == 1

    def check(self) -> None:
        """Sizes that fit each other."""
        for name, known in (("search", ("es", "gradient")), ("aware", (0.0, 1.0))):
            if bad := [value for value in getattr(self, name) if value not in known]:
                raise UserError(f"{name} takes {' or '.join(map(str, known))}, got {bad[0]!r}.")
        for name in ("horizons", "meta_horizons"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise UserError(f"{name} takes lifetimes from 1 update on, got {getattr(self, name)}.")
        if not 1 <= self.deadline <= max(self.horizons):
            raise UserError(f"deadline takes an update within the longest of horizons, got {self.deadline}.")
        if self.pairs < 1 or self.pairs % len(self.meta_horizons):
            raise UserError(f"pairs takes a multiple of the {len(self.meta_horizons)} meta_horizons, got {self.pairs}.")
        if self.every < 1 or self.generations < 1 or self.generations % self.every:
            raise UserError(f"generations takes a multiple of every, {self.every}, got {self.generations}.")
        if not 1 <= self.levels <= TEST_LEVELS:
            raise UserError(f"levels takes 1 to {TEST_LEVELS}, got {self.levels}.")
        for name in ("width", "depth"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")

    # Lives -----------------------------------------------------------------------------------------------

    @property
    def lives(self) -> Lives:
        """How learners live."""
        return Lives(self.walkers, self.time, self.limit)

    @property
    def sweep(self) -> tuple[int, ...]:
        """All lifetimes of the test."""
        return tuple(sorted({self.deadline, *self.horizons}))

    def pool(self, split: Literal["train", "test"]) -> CompiledLevel:
        """Levels of one side of the split, whose first object pays."""
        return _pool(FirstPays(RewardObjects(self.side + 2, self.objects)), split)

    def rule(self, drift: Any, aware: float | Float[Array, ""]) -> DriftRule:
        """A learned drift at work; lifetimes are measured by the geometric mean of those in meta-training."""
        return DriftRule(drift, self.rate, aware=aware, reference=self.reference, epochs=self.epochs)

    @property
    def reference(self) -> float:
        """Unit of lifetimes: the geometric mean of those in meta-training."""
        return float(np.exp(np.mean(np.log(self.meta_horizons))))

    # Meta-training ---------------------------------------------------------------------------------------

    def evolution(self, aware: float | Float[Array, ""]) -> LifetimeEvolution:
        """The search that sees whole lives."""
        search = EvolutionStrategies(
            pairs=self.pairs, sigma=self.sigma, optimizer=_adam(self.es_rate, self.generations), shaping=None
        )
        return LifetimeEvolution(horizons=self.meta_horizons, search=search, **self.shared(aware))

    def descent(self, aware: float | Float[Array, ""]) -> TruncatedDescent:
        """The search that sees a few updates."""
        steps = self.generations // self.every * self.meta_steps
        optimizer = optax.chain(optax.clip_by_global_norm(0.5), _adam(self.gradient_rate, steps))
        return TruncatedDescent(
            horizons=self.meta_horizons, optimizer=optimizer, learners=self.learners, updates=self.updates,
            bonus=self.bonus, **self.shared(aware),
        )  # fmt: skip

    def shared(self, aware: float | Float[Array, ""]) -> dict[str, Any]:
        """What both searches have in common."""
        return dict(
            lives=self.lives,
            levels=jax.tree.map(lambda leaf: leaf[: -self.levels], self.pool("train")),
            rule=lambda drift: self.rule(drift, aware),
        )

    @property
    def meta_steps(self) -> int:
        """Meta-gradients that simulate as many steps as `every` generations."""
        lives = 2 * self.pairs * float(np.mean(self.meta_horizons)) * self.every
        return max(1, round(lives / (self.learners * (self.updates + 1))))

    def learner(self, search, aware) -> Learner:
        """Meta-training of one drift, and its test."""
        trainer = self.evolution(aware) if search == "es" else self.descent(aware)
        steps = self.every if search == "es" else self.meta_steps
        kept, test = jax.tree.map(lambda leaf: leaf[-self.levels :], self.pool("train")), self.pool("test")

        def init(key: Array) -> Searched:
            drift = LPO(self.width, self.depth, jnp.arcsinh, key=key)
            return Searched(trainer.init(drift, key), jax.random.fold_in(key, 1))

        def advance(state: Searched) -> Searched:
            return state._replace(training=trainer.advance(state.training, steps))

        def measure(state: Searched) -> dict[str, Array]:
            drift = trainer.current(state.training)
            seen = horizon_sweep(self.lives, self.rule(drift, aware), kept, state.luck, self.meta_horizons)
            return {"training_return": seen.value / seen.optimum, "schedule": self.schedule(drift, aware)}

        def final(state: Searched) -> dict[str, Array]:
            return self.tested(self.rule(trainer.current(state.training), aware), test, state.luck)

        return Learner(
            init=init, advance=advance, measure=measure, final=final, steps=self.generations, every=self.every,
            dims={"training_return": ("lifetime",), **_DIMS},
            coords={"horizon": list(self.sweep), "lifetime": list(self.meta_horizons)},
        )  # fmt: skip

    @part(varies=dict(anneal=(0.0, 1.0)), traced=("anneal",))
    def designed(self, anneal) -> Learner:
        """PPO on the same test; `anneal` is the share of the step size that is gone at the end of life."""
        rate = self.ppo_rate + anneal * (self.annealed_rate - self.ppo_rate)
        test = self.pool("test")
        rule = DriftRule(
            lambda ratio, gain, when: ppo_clip_drift(ratio, gain, self.clip), rate, anneal, epochs=self.epochs
        )

        def compute(key: Array) -> dict[str, Array]:
            seen = self.tested(rule, test, jax.random.fold_in(key, 1), (False,))
            return {"ppo_normalised": seen["normalised"]}

        return Learner.once(compute, dims={"ppo_normalised": ("horizon",)}, coords={"horizon": list(self.sweep)})

    def tested(
        self, rule: DriftRule, test: CompiledLevel, key: Array, stopped: tuple[bool, ...] = (False, True)
    ) -> dict[str, Array]:
        """Lives of all lengths on unseen levels; also with a clock that always shows the middle of a usual life."""
        some, own = jax.random.split(key)
        which = jax.random.permutation(some, TEST_LEVELS)[: self.levels]
        levels = jax.tree.map(lambda leaf: leaf[which], test)
        middle = lifetime_inputs(0.5 * self.reference, self.reference, rule.aware, self.reference)

        def swept(stopped: Array) -> HorizonSweep:
            def drift(ratio: Array, gain: Array, when: Array) -> Array:
                return rule.drift(ratio, gain, jnp.where(stopped, middle, when))

            told = dataclasses.replace(rule, drift=drift)
            return horizon_sweep(self.lives, told, levels, own, self.sweep)

        seen = jax.vmap(swept)(jnp.array(stopped))
        value = seen.value / seen.optimum[:, None]
        last = np.asarray(self.sweep)[:, None] * np.linspace(1 / MOMENTS, 1, MOMENTS)
        moment = np.maximum(np.ceil(last).astype(int), 1) - 1
        return {
            "normalised": value[0],
            "without_clock": value[-1],
            "entropy": jnp.take_along_axis(seen.entropy[0], jnp.asarray(moment), 1),
            "decided": seen.entropy[0, :, self.deadline - 1],
        }

    def schedule(self, drift: LPO, aware: float | Float[Array, ""]) -> Float[Array, ""]:
        """How much the objective's gradient changes over life, mean over the lifetimes of meta-training."""

        def index(lifetime: int) -> Array:
            def gradient(ratio: Array, advantage: Array, fraction: float) -> Array:
                when = lifetime_inputs(fraction * lifetime, lifetime, aware, self.reference)
                return surrogate_weight(drift, ratio, advantage, when)

            return schedule_index(gradient)

        return jnp.stack([index(lifetime) for lifetime in self.meta_horizons]).mean()

    # Claims ----------------------------------------------------------------------------------------------

    @claim("horizons")
    def lifetimes(self, e: xr.Dataset) -> Judgement:
        """Normalised return over the test's lifetimes, aware minus blind, both by evolution strategies."""
        es = e.sel(search="es", horizon=list(self.horizons))
        score = es.normalised
        gap = paired_difference(score.sel(aware=1.0), score.sel(aware=0.0))
        also = {f"N={n}": mean_interval(gap.sel(horizon=n)) for n in self.horizons}
        clock = (score - es.without_clock).sel(aware=1.0)
        also["clock running minus stopped"] = mean_interval(clock.mean("horizon", skipna=False))
        for aware, name in ((1.0, "aware"), (0.0, "blind")):
            curve = es.training_return.sel(aware=aware).mean("lifetime", skipna=False)
            also[f"{name}, gained in meta-training"] = mean_interval(curve.isel(step=-1) - curve.isel(step=0))
        note = f"aware {float(score.sel(aware=1.0).mean()):.3f}, blind {float(score.sel(aware=0.0).mean()):.3f}"
        if "ppo_normalised" in e:
            hand = e.ppo_normalised.sel(horizon=list(self.horizons)).mean(("horizon", "seed"))
            note += "".join(f", {_ppo(share)} {float(hand.sel(anneal=share)):.3f}" for share in e.anneal.values)
        effect = mean_interval(gap.mean("horizon", skipna=False))
        return judge(effect, supported=effect.low > 0, refuted=effect.high < 0, also=also, note=note)

    @claim("es-dynamic")
    def dynamic(self, e: xr.Dataset) -> Judgement:
        """Schedule index, evolution strategies minus meta-gradients; zero for a blind rule."""
        index = e.schedule.isel(step=-1)
        blind = float(np.abs(index.sel(search="es", aware=0.0)).max(skipna=False))
        es, gradient = index.sel(search="es", aware=1.0), index.sel(search="gradient", aware=1.0)
        effect = mean_interval(paired_difference(es, gradient))
        start = float(e.schedule.isel(step=0).sel(search="es", aware=1.0).mean())
        found = f"ES {float(es.mean()):.3f}, meta-gradients {float(gradient.mean()):.3f}"
        note = f"{found}, both at first {start:.3f}, blind {blind:.3g}"
        kept = blind == 0
        return judge(effect, supported=effect.low > 0.1 and kept, refuted=effect.high < 0.02 and kept, note=note)

    @claim("deadline")
    def decision(self, e: xr.Dataset) -> Judgement:
        """Entropy at one update number, far deadline minus near; zero for a blind rule."""
        entropy = e.decided.sel(search="es")
        gap = entropy.sel(horizon=max(self.horizons)) - entropy.sel(horizon=self.deadline)
        blind = float(np.abs(gap.sel(aware=0.0)).max(skipna=False))
        effect = mean_interval(gap.sel(aware=1.0))
        near = float(entropy.sel(aware=1.0, horizon=self.deadline).mean())
        note = f"aware, near deadline: {near:.3f} nats; blind differs by {blind:.3g}"
        return judge(
            effect, supported=effect.low > 0.05 and blind == 0, refuted=effect.high < 0.02 and blind == 0, note=note
        )

    def figure(self, e: xr.Dataset) -> Any:
        """Entropy over life by horizon, aware and blind; return against horizon; return over meta-training."""
        fig, axes = figures.panels(2, 2, width=4.6, height=3.6)
        (aware_ax, blind_ax), (test_ax, curve_ax) = axes
        life = np.linspace(1 / MOMENTS, 1, MOMENTS)
        for ax, name in ((aware_ax, "aware, ES"), (blind_ax, "blind, ES")):
            ax.set(title=f"Policy entropy, {name}", xlabel="fraction of life", ylabel="nats", ylim=(0, 1.45))
            found = _cell(e, name)
            for color, n in zip(figures.COLORS, self.horizons, strict=False):
                if found is not None:
                    ax.plot(life, found.entropy.sel(horizon=n).mean("seed"), color=color, label=f"N = {n}")
        aware_ax.legend()
        horizons = sorted(self.horizons)
        for color, name in zip(figures.COLORS, CONDITIONS, strict=False):
            if (found := _cell(e, name)) is not None:
                test_ax.plot(
                    horizons, found.normalised.sel(horizon=horizons).mean("seed"), marker="o", color=color, label=name
                )
                figures.curve(curve_ax, found.training_return.mean("lifetime"), color=color, label=name)
        for color, share in zip(figures.COLORS[3:], e.anneal.values if "ppo_normalised" in e else (), strict=False):
            values = e.ppo_normalised.sel(anneal=share, horizon=horizons).mean("seed")
            test_ax.plot(horizons, values, marker="o", ls="--", color=color, label=_ppo(share))
        test_ax.set(title="Return at end of life / optimum", xlabel="lifetime, updates", xscale="log")
        test_ax.set_xticks(horizons, [str(n) for n in horizons])
        test_ax.minorticks_off()
        test_ax.legend()
        curve_ax.set(title="The same on kept training levels", xlabel="generation (gradient: as many steps)")
        return fig


_DIMS = {
    "normalised": ("horizon",),
    "without_clock": ("horizon",),
    "entropy": ("horizon", "moment"),
    "decided": ("horizon",),
}


def _adam(rate: float, steps: int) -> optax.GradientTransformation:
    """Adam whose rate falls to 0 along a cosine."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


@functools.lru_cache(maxsize=4)
def _pool(kind: FirstPays, split: Literal["train", "test"]) -> CompiledLevel:
    keys = level_keys(TRAIN_LEVELS if split == "train" else TEST_LEVELS, split)
    return jax.jit(jax.vmap(lambda key: CompiledLevel.of(kind(key))))(keys)


def _ppo(anneal: float) -> str:
    return "PPO, annealed" if anneal else "PPO"


def _cell(e: xr.Dataset, name: str) -> xr.Dataset | None:
    search, aware = CONDITIONS[name]
    return e.sel(search=search, aware=aware) if search in e.search.values and aware in e.aware.values else None
