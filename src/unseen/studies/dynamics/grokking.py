"""Power et al. (2022): generalization long after the training set is fitted."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge
from unseen.lab.statistics import mean_interval, paired_difference, spearman
from unseen.learners import classifier
from unseen.measures.grokking import GrokkingClock, GrokkingTimes, steps_to_generalise_curve
from unseen.models import EmbeddingMLP, PairTransformer, QuadraticMLP
from unseen.worlds.algorithms import OPERATIONS, ModularArithmetic, PairList, PairSplit

Scalar = float | Float[Array, ""]


class GrokkingStudy(Study):
    """Delayed generalization on operation tables (Power et al., 2022).

    A network is trained on part of the table of a binary operation and tested on the other pairs. It fits its
    training pairs within a hundred updates and answers the others at chance for long after; then test
    accuracy rises to one. Measured is the wait, and how it depends on the training fraction, on weight decay
    and on the operation; a table without structure is the control.

    At laptop scale the network is the quadratic one of Gromov (2023) and training is full-batch AdamW, with
    decay on all weights and LeCun-normal initial values; the paper's own is a two-layer transformer.
    """

    model: Literal["quadratic", "relu", "transformer"] = "quadratic"  # network on pairs of one-hot operands
    modulus: int = 31  # p; operands and classes are 0..p-1 (S5 has its own 120)
    width: int = 128  # hidden units
    learning_rate: float = 3e-3  # of AdamW with betas 0.9 and 0.98
    warmup: int = 0  # updates over which the learning rate rises from 0
    batch_size: int | None = None  # pairs in an update; none for all of them
    steps: int = 4_000  # updates
    every: int = 20  # updates between two evaluations

    varies = dict(
        operation=("add", "subtract", "x^2+xy+y^2", "random"),
        train_fraction=(0.35, 0.45, 0.6, 0.75),
        weight_decay=(0.0, 0.3, 1.0),
    )
    traced = ("train_fraction", "weight_decay")
    smoke = dict(modulus=7, width=16, steps=60, seeds=2)
    paper = dict(
        model="transformer",
        modulus=97,
        learning_rate=1e-3,
        warmup=10,
        batch_size=512,
        steps=100_000,
        every=100,
        seeds=3,
        operation=(*(name for name in OPERATIONS if name != "multiply"), "random"),
        train_fraction=(0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.75),
    )
    watch = ("train_accuracy", "test_accuracy")

    def check(self) -> None:
        for operation in self.operation:
            ModularArithmetic(self.modulus, operation)
        if not all(0 < fraction < 1 for fraction in self.train_fraction):
            raise UserError(f"train_fraction takes numbers between 0 and 1, got {self.train_fraction}.")

    def includes(self, operation: str, train_fraction: float, weight_decay: float) -> bool:
        """A star: at most one condition differs from the centre."""
        cell = (operation, train_fraction, weight_decay)
        return sum(value != middle for value, middle in zip(cell, self.centre, strict=True)) <= 1

    @property
    def centre(self) -> tuple[str, float, float]:
        """Operation, training fraction and decay that the others are compared with: the first operation, and
        what is nearest to a fraction of 0.45 and a decay of 1."""
        fraction = min(self.train_fraction, key=lambda value: abs(value - 0.45))
        return self.operation[0], fraction, min(self.weight_decay, key=lambda value: abs(value - 1.0))

    def learner(self, operation: str, train_fraction: Scalar, weight_decay: Scalar) -> Learner:
        world = ModularArithmetic(self.modulus, operation)
        network = {"quadratic": QuadraticMLP, "relu": EmbeddingMLP, "transformer": PairTransformer}[self.model]

        def data(key: PRNGKeyArray) -> PairSplit | PairList:
            split = world.split(key, train_fraction)
            return split if self.batch_size is None else split.listed()

        rate = optax.linear_schedule(0, self.learning_rate, self.warmup) if self.warmup else self.learning_rate
        return classifier(
            lambda key: network(world.size, self.width, key=key),
            data,
            optax.adamw(rate, b1=0.9, b2=0.98, weight_decay=weight_decay),
            batch_size=self.batch_size,
            steps=self.steps,
            every=self.every,
        )

    def times(self, e: xr.Dataset) -> GrokkingTimes:
        """Steps to 0.99 train and 0.95 test accuracy of every run, held for three evaluations."""
        return GrokkingClock(train=0.99, test=0.95, hold=3).read(e.train_accuracy, e.test_accuracy)

    @claim("delay")
    def delay(self, e: xr.Dataset) -> Judgement:
        times = self.times(e).sel(**ADDITION, train_fraction=0.45, weight_decay=1.0)
        runs, censored = times.fit.time.size, times.generalise.censored
        ci = mean_interval(times.delay)
        return judge(
            ci,
            supported=ci.low > 0.7 and censored <= runs / 8,
            refuted=ci.high < 0.7 or runs - censored < runs / 2,
            note=f"{runs - censored} of {runs} runs generalise",
        )

    @claim("less-data-longer")
    def less_data_longer(self, e: xr.Dataset) -> Judgement:
        steps = self.times(e).generalise.sel(**ADDITION, weight_decay=1.0)
        ratio = mean_interval(steps.sel(train_fraction=0.45).log_ratio(steps.sel(train_fraction=0.75)))
        over = steps.time_or_inf.sel(train_fraction=[0.35, 0.45, 0.6, 0.75])
        correlation = mean_interval(spearman(over.train_fraction, over, "train_fraction"))
        return judge(
            ratio,
            supported=ratio.low > math.log(2) and correlation.high < -0.8,
            refuted=ratio.high < math.log(2),
            also={"rank correlation with the fraction": correlation},
        )

    @claim("decay-helps")
    def decay_helps(self, e: xr.Dataset) -> Judgement:
        steps = self.times(e).generalise.sel(**ADDITION, train_fraction=0.45)
        ratio = mean_interval(steps.sel(weight_decay=0.3).log_ratio(steps.sel(weight_decay=1.0)))
        last = e.test_accuracy.sel(**ADDITION, train_fraction=0.45).isel(step=-1)
        gain = mean_interval(paired_difference(last.sel(weight_decay=1.0), last.sel(weight_decay=0.0)))
        return judge(
            ratio,
            supported=ratio.low > math.log(1.5) and gain.low > 0.3,
            refuted=gain.high < 0.1,
            also={"final test accuracy, decay 1 minus decay 0": gain},
        )

    @claim("structure-needed")
    def structure_needed(self, e: xr.Dataset) -> Judgement:
        last = e.isel(step=-1).sel(operation="random", train_fraction=0.45, weight_decay=1.0)
        test, train = mean_interval(last.test_accuracy), mean_interval(last.train_accuracy)
        return judge(
            test,
            supported=test.high < 0.10 and train.low > 0.95,
            refuted=test.low > 0.10,
            also={"train accuracy": train},
        )

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, right) = figures.panels(2, height=4.4)
        seen, unseen, control = figures.COLORS[0], figures.COLORS[1], "0.45"
        operation, fraction, decay = self.centre
        times = self.times(e).sel(operation=operation, weight_decay=decay)
        cells = e.sel(train_fraction=fraction, weight_decay=decay).isel(step=slice(1, None))
        figures.curve(left, cells.train_accuracy.sel(operation=operation), color=seen)
        figures.curve(left, cells.test_accuracy.sel(operation=operation), color=unseen)
        left.annotate("pairs it was\ntrained on", (110, 0.8), color=seen, size=13)
        left.annotate("pairs it has\nnever seen", (800, 0.42), color=unseen, size=13)
        if "random" in e.operation and operation != "random":
            figures.curve(left, cells.test_accuracy.sel(operation="random"), color=control, lw=1.5)
            left.annotate("never seen, random table", (22, 0.08), color=control, size=12)
        centre = times.sel(train_fraction=fraction)
        if centre.generalise.reached.mean() > 0.5:
            fit, generalise = (float(t.time.median()) for t in (centre.fit, centre.generalise))
            left.annotate("", (generalise, 1.07), (fit, 1.07), arrowprops={"arrowstyle": "<->", "color": "0.3"})
            middle = (math.sqrt(fit * generalise), 1.1)
            left.annotate(f"{generalise / fit:.0f} times as long", middle, ha="center", size=13)
        left.set(xscale="log", xlabel="update", ylabel="accuracy", ylim=(-0.03, 1.2), yticks=np.linspace(0, 1, 6))
        left.set_title(f"{operation} mod {self.modulus}, {fraction:.0%} of the table")

        curve = steps_to_generalise_curve(times.generalise)
        right.plot(curve.train_fraction, curve["median"].where(np.isfinite(curve["median"])), color=unseen)
        for share in curve.train_fraction.values:
            runs = times.generalise.sel(train_fraction=share)
            there = runs.time.where(runs.reached)
            right.plot(np.full(there.size, share), there, "o", ms=7, alpha=0.5, color=unseen, mew=0)
            if runs.censored:
                horizon = float(runs.horizon.max())
                right.plot(share, horizon, "^", ms=11, mfc="white", color=unseen, clip_on=False)
                said = f"{runs.censored} of {runs.time.size} runs not by {horizon:,.0f}"
                right.annotate(said, (share, horizon), (11, -5), textcoords="offset points", color=unseen, size=12)
        right.set(yscale="log", xlabel="share of the table trained on", ylabel="updates to 95% on unseen pairs")
        right.set(xticks=curve.train_fraction.values)
        right.set_title("The wait, by how much it has seen")
        for axis in (left.xaxis, right.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axis.set_minor_formatter(NullFormatter())
        return fig


ADDITION = {"operation": "add"}
