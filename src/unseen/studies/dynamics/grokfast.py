"""Lee et al. (2024): amplifying slow gradients, against baselines that get the same decay and tuning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import Censored, EventTimes, first_step, mean_interval
from unseen.learners import classifier
from unseen.methods import GrokfastEMA, GrokfastMA, amplify_fast
from unseen.models import FeatureNet, QuadraticMLP
from unseen.models.batched import Batched
from unseen.worlds.algorithms import ModularArithmetic
from unseen.worlds.clusters.digit_split import Digits

Scalar = float | Float[Array, ""]
FILTERS = {"none": optax.identity, "ema": GrokfastEMA, "ma": GrokfastMA, "fast": amplify_fast}


class Grokfast(Study):
    """Adding a slow copy of the gradient to the gradient (Lee et al., 2024).

    Two tasks that are grokked late: real digits with a network whose first weights are far too large, trained on
    squared error (the paper's MNIST task), and modular addition. Compared are AdamW, AdamW behind the paper's
    filters, and AdamW behind the same filter turned round, which amplifies what is fast. A run's time is the first
    evaluation at which test accuracy is at its task's level; it is stopped there.

    Chosen before the recorded run where the registered rules leave it open: the first claim's filter at decay 2 is
    the paper's own for MNIST, ema-0.8-0.1, and the slow part that the last claim compares with is ema-0.98-2, whose
    factor the fast one shares. Settings are chosen by the geometric mean time over the first half of the seeds, a
    run that does not get there counting as its horizon, and judged on the others.

    What came out: against the paper's kind of baseline the filter with strong decay is 25 times as fast or more (no
    baseline run gets there in 30,000 updates), and AdamW alone with the same strong decay is as fast as that (its
    log ratio is 3.29, the filter's 3.22). At equal decay the best filter gains nothing (-2% on digits, nothing on
    addition), the stronger ones lose: on addition 1,050 updates without, 1,600 with ema-0.98-2, 2,200 with ma-100-5.
    Tuned as often, AdamW is nearly twice as fast, by its larger learning rate. Whether the slow or the fast part is
    amplified makes no difference (`slow-part`, inconclusive). The likely reason is that Adam divides by the size of
    what it is given: a filter that multiplies a steady gradient by 1 + factor changes nothing, and what is left of
    it is more inertia.
    """

    training: int = 200  # digits to train on
    width: int = 128  # units in each of two hidden layers
    initial: float = 8.0  # factor on all initial weights
    digits_level: float = 0.85  # test accuracy that ends a run on digits
    steps: int = 6_000  # horizon on digits
    every: int = 50  # updates between two evaluations
    low_decay: float = 0.01  # of the paper's baseline on digits
    low_decay_steps: int = 30_000  # its horizon
    modulus: int = 31  # of the addition
    train_fraction: float = 0.45  # of the table
    addition_width: int = 128  # hidden units of the quadratic network
    addition_rate: float = 3e-3  # learning rate, with betas 0.9 and 0.98
    addition_decay: float = 1.0  # weight decay
    addition_level: float = 0.95  # test accuracy that ends a run on addition
    addition_steps: int = 4_000  # horizon on addition
    seeds: int = 6

    varies = dict(
        filter=("none", "ema-0.8-0.1", "ema-0.98-2", "ma-100-5", "fast-0.98-2"),
        weight_decay=(0.1, 0.5, 2.0),
        learning_rate=(3e-4, 1e-3, 3e-3),
    )
    traced = ("weight_decay", "learning_rate")
    smoke = dict(
        training=50,
        width=16,
        steps=100,
        low_decay_steps=100,
        modulus=7,
        addition_width=16,
        addition_steps=100,
        filter=("none", "ema-0.98-2", "ma-3-5"),
        weight_decay=(0.5, 2.0),
        learning_rate=(1e-3,),
        seeds=2,
    )
    paper = dict(
        training=1_000,
        width=200,
        steps=100_000,
        low_decay_steps=100_000,
        modulus=97,
        addition_rate=1e-3,
        addition_steps=100_000,
        every=100,
        seeds=5,
    )
    watch = ("test_accuracy",)

    def check(self) -> None:
        for name in self.filter:
            self.link(name)
        for name in ("steps", "low_decay_steps", "addition_steps"):
            if getattr(self, name) < 1 or getattr(self, name) % self.every:
                raise UserError(f"{name} takes a multiple of every, {self.every}, got {getattr(self, name)}.")

    @staticmethod
    def link(name: str) -> optax.GradientTransformation:
        """A filter from its name and numbers, e.g. "ema-0.98-2"."""
        kind, *numbers = name.split("-")
        try:
            if len(numbers) != 2 * (kind != "none"):
                raise ValueError(name)
            return FILTERS[kind](*map(float, numbers))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"filter takes none, ema-ALPHA-FACTOR, fast-ALPHA-FACTOR and ma-WINDOW-FACTOR, got {name!r}."
            ) from error

    def includes(self, filter: str, weight_decay: float, learning_rate: float) -> bool:
        """Rates for AdamW alone, which gets as many settings as the filters; the fast one at the middle decay."""
        if filter == "none":
            return True
        middle = learning_rate == near(self.learning_rate, 1e-3)
        return middle and (not filter.startswith("fast") or weight_decay == near(self.weight_decay, 0.5))

    def learner(self, filter: str, weight_decay: Scalar, learning_rate: Scalar) -> Learner:
        return self.on_digits(self.link(filter), weight_decay, learning_rate, self.steps)

    def on_digits(
        self, link: optax.GradientTransformation, decay: Scalar, rate: Scalar, steps: int, prefix: str = ""
    ) -> Learner:
        """Full-batch training on digits; of the batch only the training digits are computed."""
        digits, rows = Digits.of("digits", self.training), jnp.arange(self.training)

        def model(key: PRNGKeyArray) -> Batched:
            net = FeatureNet.mlp(digits.images.shape[1], 10, widths=(self.width, self.width), key=key)
            return Batched(jax.tree.map(lambda x: self.initial * x if isinstance(x, jax.Array) else x, net))

        me = classifier(
            model,
            digits.split,
            optax.chain(link, optax.adamw(rate, weight_decay=decay)),
            steps=steps,
            every=self.every,
            loss=squared_error,
            gradient=lambda objective, net, _: jax.grad(lambda net: objective(net, rows))(net),
        )
        return until(me, self.digits_level, prefix)

    @part()
    def low(self) -> Learner:
        """The baseline of the paper's kind: AdamW with hardly any decay."""
        rate = near(self.learning_rate, 1e-3)
        return self.on_digits(optax.identity(), self.low_decay, rate, self.low_decay_steps, "low_")

    @part(varies=dict(filter=varies["filter"]), includes=lambda self, filter: not filter.startswith("fast"))
    def addition(self, filter: str) -> Learner:
        """Modular addition at one decay."""
        world = ModularArithmetic(self.modulus)
        optimizer = optax.adamw(self.addition_rate, b1=0.9, b2=0.98, weight_decay=self.addition_decay)
        me = classifier(
            lambda key: QuadraticMLP(self.modulus, self.addition_width, key=key),
            lambda key: world.split(key, self.train_fraction),
            optax.chain(self.link(filter), optimizer),
            steps=self.addition_steps,
            every=self.every,
        )
        return until(me, self.addition_level, "addition_")

    # Times -------------------------------------------------------------------------------------------------------

    def on_task_a(self, e: xr.Dataset) -> EventTimes:
        """Updates to the level on digits, of all filters, decays and rates."""
        return reached(e.test_accuracy, self.digits_level)

    def on_task_b(self, e: xr.Dataset) -> EventTimes:
        """Updates to the level on addition, of all filters."""
        return reached(e.addition_test_accuracy, self.addition_level)

    def low_times(self, e: xr.Dataset) -> EventTimes:
        """Updates to the level on digits with hardly any decay."""
        return reached(e.low_test_accuracy, self.digits_level)

    def at_rate(self, times: EventTimes) -> EventTimes:
        """At the learning rate that the filters have."""
        return times.sel(learning_rate=near(self.learning_rate, 1e-3))

    def slow_filters(self, e: xr.Dataset) -> list[str]:
        """The filters that amplify what is slow."""
        return [name for name in e["filter"].values.tolist() if name.split("-")[0] in ("ema", "ma")]

    def best(self, times: EventTimes) -> tuple[EventTimes, str]:
        """Times, on the second half of the seeds, of the cell that is the fastest on the first half; its name."""
        half = times.time.sizes["seed"] // 2
        cells = [dim for dim in times.time.dims if dim != "seed"]
        mean = np.log(times.time.isel(seed=slice(None, half))).mean("seed", skipna=False).stack(cell=cells)
        chosen = mean.dropna("cell")
        cell = dict(zip(cells, chosen.cell.values[int(chosen.argmin("cell"))], strict=True))
        said = " ".join(str(value) if isinstance(value, str) else f"{value:g}" for value in cell.values())
        return bare(times.sel(**cell).isel(seed=slice(half, None))), said

    def gain(self, slow: EventTimes, fast: EventTimes) -> tuple[Censored, str]:
        """Log ratio of the two best cells, judged on the second half of the seeds."""
        (a, name), (b, other) = self.best(slow), self.best(fast)
        return a.log_ratio(b), f"{name} against {other}"

    def equal_decay(self, e: xr.Dataset) -> dict[str, tuple[Censored, str]]:
        """AdamW over the best filter at the same decay, on both tasks."""
        a, b, slow = self.at_rate(self.on_task_a(e)).sel(weight_decay=[0.5]), self.on_task_b(e), self.slow_filters(e)
        return {
            "digits": self.gain(a.sel(filter=["none"]), a.sel(filter=slow)),
            "addition": self.gain(b.sel(filter=["none"]), b.sel(filter=slow)),
        }

    def tuned(self, e: xr.Dataset) -> tuple[Censored, str]:
        """Best AdamW over best filter on digits, each out of its decays and rates, or filters and decays."""
        times = self.on_task_a(e)
        return self.gain(times.sel(filter=["none"]), self.at_rate(times).sel(filter=self.slow_filters(e)))

    # Claims ------------------------------------------------------------------------------------------------------

    @claim("faster-than-reported-baseline")
    def faster_than_reported(self, e: xr.Dataset) -> Judgement:
        low = self.low_times(e)
        fast = bare(self.at_rate(self.on_task_a(e)).sel(filter="ema-0.8-0.1", weight_decay=2.0))
        alone = bare(self.at_rate(self.on_task_a(e)).sel(filter="none", weight_decay=2.0))
        ci = mean_interval(low.log_ratio(fast))
        return judge(
            ci,
            supported=ci.low > math.log(10),
            refuted=ci.high < math.log(10) and low.censored <= 1,
            note=f"{low.censored} of {low.time.size} baseline runs censored at {self.low_decay_steps:,} updates; "
            f"AdamW alone at decay 2: {mean_interval(low.log_ratio(alone))}",
        )

    @claim("faster-at-equal-decay")
    def faster_at_equal_decay(self, e: xr.Dataset) -> Judgement:
        gains = {task: (mean_interval(ratio), said) for task, (ratio, said) in self.equal_decay(e).items()}
        (digits, _), (addition, _) = gains["digits"], gains["addition"]
        return judge(
            digits,
            supported=min(digits.low, addition.low) > math.log(1.5),
            refuted=min(digits.high, addition.high) < math.log(1.2),
            also={"addition": addition},
            note="; ".join(f"{task}: {said}" for task, (_, said) in gains.items()),
        )

    @claim("faster-when-tuned")
    def faster_when_tuned(self, e: xr.Dataset) -> Judgement:
        ratio, said = self.tuned(e)
        ci = mean_interval(ratio)
        return judge(ci, supported=ci.low > math.log(1.2), refuted=ci.high < math.log(1.2), note=said)

    @claim("slow-part")
    def slow_part(self, e: xr.Dataset) -> Judgement:
        times = self.at_rate(self.on_task_a(e)).sel(weight_decay=0.5)
        fast, slow = (bare(times.sel(filter=f"{kind}-0.98-2")) for kind in ("fast", "ema"))
        ci = mean_interval(fast.log_ratio(slow))
        return judge(
            ci,
            supported=ci.low > math.log(1.2),
            refuted=ci.high < 0,
            note=f"censored: {fast.censored} fast, {slow.censored} slow of {slow.time.size}",
        )

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, right) = figures.panels(2, width=5.4, height=4.6)
        times, low = self.at_rate(self.on_task_a(e)), self.low_times(e)
        filters = e["filter"].values.tolist()
        offsets = np.linspace(-0.3, 0.3, len(filters))
        for i, name in enumerate(filters):
            runs = times.sel(filter=name)
            color, marker = figures.COLORS[i % 8] if name != "none" else "black", figures.MARKERS[i % 8]
            for j, decay in enumerate(self.weight_decay):
                draw(left, j + 1 + offsets[i], runs.sel(weight_decay=decay), color, marker)
            left.plot([], [], marker, color=color, ms=7, label=name)
        draw(left, 0, low, "black", figures.MARKERS[0])
        left.set_xticks(range(len(self.weight_decay) + 1), [f"{d:g}" for d in (self.low_decay, *self.weight_decay)])
        left.set(yscale="log", xlabel="weight decay", ylabel=f"updates to {self.digits_level:.0%} on unseen digits")
        left.legend(fontsize=10)
        left.set_title("Time to generalise (hollow: not by then)")

        rows = self.speed_ups(e)
        for i, ratio in enumerate(rows.values()):
            bounded = (ratio.is_lower_bound | ratio.is_upper_bound).values
            for value, bound in zip(np.exp(ratio.values.values.ravel()), bounded.ravel(), strict=True):
                right.plot(value, i, "o", ms=8, color=figures.COLORS[1], mfc="white" if bound else None, alpha=0.7)
        right.axvline(1, color="0.3", lw=1.4)
        right.set_yticks(range(len(rows)), list(rows))
        right.set(xscale="log", ylim=(len(rows) - 0.5, -0.5), xlabel="times faster with the filter, each seed")
        right.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["½", "1", "2", "5", "10", "20", "50"])
        right.minorticks_off()
        right.set_title("What it is compared with matters")
        return fig

    def speed_ups(self, e: xr.Dataset) -> dict[str, Censored]:
        """Log ratios that the figure shows, as far as their cells are in the evidence."""
        found: dict[str, Censored] = {}
        times = self.at_rate(self.on_task_a(e))
        if {"ema-0.8-0.1"} <= set(self.filter) and 2.0 in self.weight_decay:
            fast = bare(times.sel(filter="ema-0.8-0.1", weight_decay=2.0))
            found[f"digits,\nAdamW at\ndecay {self.low_decay:g}"] = self.low_times(e).log_ratio(fast)
        if "none" in self.filter and self.slow_filters(e) and self.seeds > 1:
            if 0.5 in self.weight_decay:
                gains = self.equal_decay(e)
                found |= {f"{task},\nAdamW at\nequal decay": ratio for task, (ratio, _) in gains.items()}
            found["digits,\nboth tuned"] = self.tuned(e)[0]
        return found


def near(values: tuple[float, ...], value: float) -> float:
    """The nearest of some values, on a log scale."""
    return min(values, key=lambda v: abs(math.log(v / value)) if v > 0 else math.inf)


def reached(accuracy: xr.DataArray, level: float) -> EventTimes:
    """First evaluations at a level; nothing for cells that were not run."""
    dim = next(str(d) for d in accuracy.dims if str(d).endswith("step"))
    return first_step(accuracy >= level, observed=accuracy.notnull().any(dim) & (accuracy[dim] >= 0), dim=dim)


def bare(times: EventTimes) -> EventTimes:
    """Without the coordinates that selecting one cell leaves behind."""
    return EventTimes(*(a.reset_coords(drop=True) for a in (times.time, times.reached, times.horizon)))


def until(me: Learner, level: float, prefix: str = "") -> Learner:
    """The learner, stopped at a test accuracy, its measures with a prefix."""

    def measure(state: Any) -> Mapping[str, Array]:
        return {prefix + name: value for name, value in me.measure(state).items()}

    return dataclasses.replace(me, measure=measure, done=lambda state: me.measure(state)["test_accuracy"] >= level)


def squared_error(outputs: Float[Array, "*batch classes"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Squared distance to the target's unit vector, averaged over classes, as in the official code."""
    return jnp.square(outputs - jax.nn.one_hot(targets, outputs.shape[-1])).mean(-1)


def draw(ax: Any, x: float | int, times: EventTimes, color: str, marker: str) -> None:
    """One mark a seed; hollow where the level was not reached."""
    there = times.time.values[~np.isnan(times.time.values)]
    if not there.size:
        return
    hollow = ~times.reached.values[~np.isnan(times.time.values)]
    spread = x + np.linspace(-0.05, 0.05, there.size)
    ax.plot(spread[~hollow], there[~hollow], marker, color=color, ms=6, alpha=0.75, mew=0)
    ax.plot(spread[hollow], there[hollow], marker, color=color, ms=7, mfc="white")
