"""Power et al. (2022): generalization long after the training set is fitted."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge
from unseen.lab.statistics import mean_interval, paired_difference, spearman
from unseen.learners import classifier
from unseen.measures.grokking import GrokkingClock, GrokkingTimes, steps_to_generalise_curve
from unseen.models import EmbeddingMLP, QuadraticMLP
from unseen.worlds.algorithms import ModularArithmetic

Scalar = float | Float[Array, ""]


class GrokkingStudy(Study):
    """Delayed generalization on operation tables (Power et al., 2022).

    A network is trained on part of the table of a binary operation and tested on the other pairs. It fits its
    training pairs within a hundred updates and answers the others at chance for long after; then test accuracy
    rises to one. Measured is the wait, and how it depends on the training fraction, on weight decay and on the
    operation; a table without structure is the control.

    At laptop scale the network is the quadratic one of Gromov (2023) and training is full-batch AdamW, with
    decay on all weights and LeCun-normal initial values; the paper's own is a two-layer transformer.
    """

    model: Literal["quadratic", "relu"] = "quadratic"  # network: quadratic MLP or ReLU MLP on embeddings
    modulus: int = 31  # p; operands and classes are 0..p-1 (S5 has its own 120)
    width: int = 128  # hidden units
    learning_rate: float = 3e-3  # of AdamW with betas 0.9 and 0.98
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
    watch = ("train_accuracy", "test_accuracy")

    def check(self) -> None:
        for operation in self.operation:
            ModularArithmetic(self.modulus, operation)
        if not all(0 < fraction < 1 for fraction in self.train_fraction):
            raise UserError(f"train_fraction takes numbers between 0 and 1, got {self.train_fraction}.")

    def includes(self, operation: str, train_fraction: float, weight_decay: float) -> bool:
        """A star: at most one condition differs from the centre (by default addition, 0.45, decay 1)."""
        centre = (
            self.operation[0],
            min(self.train_fraction, key=lambda fraction: abs(fraction - 0.45)),
            min(self.weight_decay, key=lambda decay: abs(decay - 1.0)),
        )
        cell = (operation, train_fraction, weight_decay)
        return sum(value != middle for value, middle in zip(cell, centre, strict=True)) <= 1

    def learner(self, operation: str, train_fraction: Scalar, weight_decay: Scalar) -> Learner:
        world = ModularArithmetic(self.modulus, operation)
        network = {"quadratic": QuadraticMLP, "relu": EmbeddingMLP}[self.model]

        def data(key):
            split = world.split(key, train_fraction)
            return split if self.batch_size is None else split.listed()

        return classifier(
            lambda key: network(world.size, self.width, key=key),
            data,
            optax.adamw(self.learning_rate, b1=0.9, b2=0.98, weight_decay=weight_decay),
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
        train, test, control, _, *_ = figures.COLORS
        cell = e.sel(**ADDITION, train_fraction=0.45, weight_decay=1.0).isel(step=slice(1, None))
        figures.curve(left, cell.train_accuracy, label="train", color=train)
        figures.curve(left, cell.test_accuracy, label="test", color=test)
        if "random" in e.operation:
            random = e.test_accuracy.sel(operation="random", train_fraction=0.45, weight_decay=1.0)
            figures.curve(left, random.isel(step=slice(1, None)), label="test, random table", color=control)
        left.set(xscale="log", xlabel="update", ylabel="accuracy", ylim=(-0.03, 1.04))
        left.set_title("The same table, pairs seen and unseen")
        left.legend(loc="center left")

        steps = self.times(e).generalise.sel(**ADDITION, weight_decay=1.0)
        curve = steps_to_generalise_curve(steps)
        right.plot(curve.train_fraction, curve["median"].where(np.isfinite(curve["median"])), color=test)
        for fraction in curve.train_fraction.values:
            runs = steps.sel(train_fraction=fraction)
            there = runs.time.where(runs.reached)
            right.plot(np.full(there.size, fraction), there, "o", ms=6, alpha=0.6, color=test)
            if runs.censored:
                right.plot(fraction, runs.horizon.max(), "^", ms=11, mfc="white", color=test, clip_on=False)
                right.annotate(f"{runs.censored} not yet", (fraction, runs.horizon.max()), (10, -4), textcoords="offset points")
        right.set(yscale="log", xlabel="share of the table trained on", ylabel="updates to 95% test accuracy")
        right.set_title("Less data, longer wait")
        return fig


ADDITION = {"operation": "add"}
