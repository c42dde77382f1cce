"""Varma et al. (2023): grokking as a change to the circuit that gives more logit for its norm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from matplotlib.ticker import LogLocator, StrMethodFormatter

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import equivalent, first_step, log_ratio, mean_interval, paired_difference, slope
from unseen.learners import UngrokkingProtocol, classifier
from unseen.learners.ungrokking import keep_training
from unseen.measures.circuit_efficiency import circuit_efficiency, critical_fraction, efficiency_crossing
from unseen.models import PairTransformer, QuadraticMLP
from unseen.worlds.algorithms import ModularArithmetic, PairSplit

Scalar = float | Float[Array, ""]


class CircuitEfficiency(Study):
    """Memorising and generalising circuits compete for parameter norm (Varma et al., 2023).

    Three kinds of runs on modular addition. *Ungrokking*: a net is trained on a large share of the table until it
    generalises, and goes on with a small share of its training pairs; what it is tested on, no stage has seen.
    *From scratch*: nets near the critical share. *Memorising*: nets on tables without structure, whose efficiency
    (logit margin for parameters of root mean square 1) is compared with that of the nets that generalise.

    Chosen before the recorded run where the registered rules leave it open: the efficiency is the mean margin over
    the largest other logit on the training pairs. Generalising nets are those of decay 1 whose test accuracy is at
    least 0.95 for every seed. "Changes by less than 0.02" means that the largest and the smallest test accuracy of
    the last quarter are that close. Critical shares are fitted over the logarithm of the share.

    What came out: nets forget what they had understood (`ungrokking`, 1.00 to 0.04 with 5% of the pairs left, while
    they fit them), and memorising gets less efficient with more data, as size^-0.71 (`efficiency-slopes`; the
    generalising nets' own slope is not 0 but -0.16). `decay-independent` is refuted: the critical share is 0.157 at
    decay 1 and 0.212 at half the decay and twice the updates. The likely reason is that neither has come to rest:
    between 15% and 25% test accuracy is still falling at the end (0.47 to 0.38 and 0.79 to 0.70 over the last
    quarter), and a weaker decay has got further by the same number of decay times. Both are below the 0.28 at which
    the efficiencies cross. `semi-grokking` is refuted for the same reason: from scratch at 30% test accuracy is at
    0.57 after 4,000 updates and has risen by 0.16 in the last quarter; no run rests at a partial level.
    """

    model: Literal["quadratic", "transformer"] = "quadratic"  # network on pairs of one-hot operands
    degree: float = 3.0  # of homogeneity in its parameters: exactly 3 for the quadratic one
    modulus: int = 31  # p; operands and classes are 0..p-1
    width: int = 128  # hidden units
    learning_rate: float = 3e-3  # of full-batch AdamW with betas 0.9 and 0.98
    first_fraction: float = 0.7  # of all pairs, trained on before the change of data
    first_steps: int = 1_200  # updates before the change of data, at decay 1
    steps: int = 3_000  # updates after it at decay 1; at another decay in inverse proportion
    scratch_steps: int = 4_000  # updates of the nets that are trained from scratch
    every: int = 20  # updates between two evaluations

    # Conditions: the share of the table that the second stage keeps, and its decay.
    varies = dict(share=(0.05, 0.1, 0.15, 0.25, 0.4, 0.7), weight_decay=(0.5, 1.0))
    traced = ("share",)
    smoke = dict(modulus=7, width=16, first_steps=40, steps=40, scratch_steps=60, share=(0.1, 0.4, 0.7), seeds=2)
    paper = dict(
        model="transformer",
        degree=1.0,
        modulus=113,
        learning_rate=1e-3,
        first_steps=10_000,
        steps=100_000,
        scratch_steps=100_000,
        every=100,
        share=(0.04, 0.08, 0.12, 0.16, 0.2, 0.3, 0.7),
        weight_decay=(0.1, 0.5, 1.0),
        fraction=(0.14, 0.16, 0.18, 0.6),
        seeds=3,
    )
    watch = ("train_accuracy", "test_accuracy")

    def check(self) -> None:
        for name in ("share", "fraction", "random_fraction"):
            if not all(0 < value < 1 for value in getattr(self, name)):
                raise UserError(f"{name} takes numbers between 0 and 1, got {getattr(self, name)}.")
        if not max(self.share) <= self.first_fraction < 1:
            raise UserError(f"first_fraction takes a number from {max(self.share)} to 1, got {self.first_fraction}.")
        if min(self.weight_decay) <= 0:
            raise UserError(f"weight_decay takes numbers above 0, got {self.weight_decay}.")

    def includes(self, share: float, weight_decay: float) -> bool:
        """The control, all of the first stage's pairs, at decay 1 only."""
        return share < self.first_fraction or weight_decay == 1 or len(self.weight_decay) == 1

    def training(self, operation: str, fraction: Scalar, decay: float, steps: float | int, prefix: str = "") -> Learner:
        """Full-batch AdamW on a share of a table; the efficiency on the training pairs at the end."""
        world = ModularArithmetic(self.modulus, operation)
        network = QuadraticMLP if self.model == "quadratic" else partial(PairTransformer, layers=1)

        def final(model: Any, data: PairSplit) -> Mapping[str, Array]:
            logits = model(*data.inputs)
            return {
                "efficiency": circuit_efficiency(logits, data.labels, model, degree=self.degree, weights=data.train)
            }

        me = classifier(
            lambda key: network(self.modulus, self.width, key=key),
            lambda key: world.split(key, fraction),
            optax.adamw(self.learning_rate, b1=0.9, b2=0.98, weight_decay=decay),
            steps=self.every * math.ceil(steps / self.every),
            every=self.every,
            final=final,
        )

        def named(measures: Mapping[str, Array]) -> dict[str, Array]:
            return {prefix + name: value for name, value in measures.items()}

        return dataclasses.replace(
            me, measure=lambda state: named(me.measure(state)), final=lambda state: named(me.final(state))
        )

    def learner(self, share: Scalar, weight_decay: float) -> Learner:
        return UngrokkingProtocol(
            before=self.training("add", self.first_fraction, 1.0, self.first_steps),
            after=self.training("add", self.first_fraction, weight_decay, self.steps / weight_decay),
            shrink=keep_training(share * self.modulus**2),
        ).learner()

    @part(varies=dict(fraction=(0.25, 0.3, 0.35, 0.6)), traced=("fraction",))
    def scratch(self, fraction: Scalar) -> Learner:
        """Nets trained on one share from the start."""
        return self.training("add", fraction, 1.0, self.scratch_steps, "scratch_")

    @part(varies=dict(random_fraction=(0.1, 0.3, 0.6)), traced=("random_fraction",))
    def memorise(self, random_fraction: Scalar) -> Learner:
        """Nets on tables without structure, which can only be memorised."""
        return self.training("random", random_fraction, 1.0, self.steps, "random_")

    def at_end(self, e: xr.Dataset, name: str, decay: float) -> xr.DataArray:
        """A measure at the last update of the second stage, which comes later at a smaller decay."""
        runs = e[name].sel(weight_decay=decay)
        return runs.isel(step=int(runs.notnull().any([d for d in runs.dims if d != "step"]).values.nonzero()[0][-1]))

    def generalising(self, e: xr.Dataset) -> xr.DataArray:
        """Efficiencies of the nets of decay 1 that generalise for every seed, over the `size` of the training set as
        a share of the table."""
        regressed = self.at_end(e, "test_accuracy", 1.0), e.efficiency.sel(weight_decay=1.0)
        scratch = e.scratch_test_accuracy.isel(scratch_step=-1), e.scratch_efficiency
        test, efficiency = (
            xr.concat([a.rename(share="size"), b.rename(fraction="size")], "size", join="outer", coords="minimal",
                      compat="override")
            for a, b in zip(regressed, scratch, strict=True)
        )  # fmt: skip
        return efficiency.isel(size=(test >= 0.95).all("seed").values).sortby("size")

    @claim("ungrokking")
    def ungrokking(self, e: xr.Dataset) -> Judgement:
        test, train = (self.at_end(e, f"{side}_accuracy", 1.0) for side in ("test", "train"))
        fall = mean_interval(paired_difference(test.sel(share=0.4), test.sel(share=0.05)))
        before = mean_interval(e.before_test_accuracy.sel(share=0.4, weight_decay=1.0))
        fitted = {share: mean_interval(train.sel(share=share)) for share in (0.4, 0.05)}
        control = mean_interval(test.sel(share=self.first_fraction))
        return judge(
            fall,
            supported=fall.low > 0.6 and all(ci.low > 0.98 for ci in (before, *fitted.values())),
            refuted=fall.high < 0.3,
            also={"test accuracy before": before}
            | {f"train accuracy at share {share}": ci for share, ci in fitted.items()},
            note=f"control with all pairs: test accuracy {control}",
        )

    @claim("decay-independent")
    def decay_independent(self, e: xr.Dataset) -> Judgement:
        test = [self.at_end(e, "test_accuracy", decay).drop_vars("weight_decay") for decay in (0.5, 1.0)]
        both = [share for share in e.share.values if all(t.sel(share=share).notnull().any() for t in test)]
        weak, strong = (critical_fraction(t.sel(share=both), "share") for t in test)
        ci, margin = mean_interval(log_ratio(weak, strong)), math.log(1.25)
        return judge(
            ci,
            supported=equivalent(ci, margin),
            refuted=ci.low > margin or ci.high < -margin,
            also={"critical share at decay 1": mean_interval(strong), "at decay 0.5": mean_interval(weak)},
        )

    @claim("efficiency-slopes")
    def efficiency_slopes(self, e: xr.Dataset) -> Judgement:
        memorising = slope(e.random_fraction, e.random_efficiency, "random_fraction", log=True)
        nets = self.generalising(e)
        generalising = slope(nets["size"], nets, "size", log=True)
        ci, difference = mean_interval(memorising), mean_interval(paired_difference(memorising, generalising))
        return judge(
            ci,
            supported=ci.high < -0.1 and difference.high < -0.1,
            refuted=ci.low > -0.1 or difference.low > 0,
            also={"minus slope of generalising nets": difference, "their slope": mean_interval(generalising)},
            note=f"generalising nets at shares {', '.join(f'{size:g}' for size in nets['size'].values)}",
        )

    @claim("semi-grokking")
    def semi_grokking(self, e: xr.Dataset) -> Judgement:
        partly = self.partly(e)
        ci = mean_interval(
            paired_difference(partly.sel(fraction=[0.25, 0.3, 0.35]).mean("fraction"), partly.sel(fraction=0.6))
        )
        last = e.scratch_test_accuracy.isel(scratch_step=-1)
        said = ", ".join(f"{float(last.sel(fraction=f).mean()):.2f} at {f:g}" for f in last.fraction.values)
        return judge(ci, supported=ci.low > 0.3, refuted=ci.high < 0.1, note=f"mean final test accuracy {said}")

    def partly(self, e: xr.Dataset) -> xr.DataArray:
        """1 for each run from scratch that generalised late and stopped at a partial level, else 0."""
        test = e.scratch_test_accuracy
        quarter = test.isel(scratch_step=slice(-(test.sizes["scratch_step"] // 4) - 1, None))
        still = quarter.max("scratch_step") - quarter.min("scratch_step") < 0.02
        last = test.isel(scratch_step=-1)
        fit = first_step(e.scratch_train_accuracy >= 0.99, dim="scratch_step")
        then = test.where(test.scratch_step == fit.time).max("scratch_step")
        found = still & (last >= 0.15) & (last <= 0.9) & fit.reached & (then < 0.1)
        return found.astype(float).where(last.notnull())

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, right) = figures.panels(2, height=4.4)
        for color, decay in zip(figures.COLORS, sorted(self.weight_decay, reverse=True), strict=False):
            test = self.at_end(e, "test_accuracy", decay).dropna("share", how="all")
            left.plot(test.share, test.mean("seed"), color=color, label=f"decay {decay:g}")
            for seed in test.seed:
                left.plot(test.share, test.sel(seed=seed), "o", color=color, ms=5, alpha=0.5, mew=0)
            if test.sizes["share"] > 1 and np.isfinite(at := float(critical_fraction(test.mean("seed"), "share"))):
                left.axvline(at, color=color, ls=":", lw=1.6)
        left.axhline(float(e.before_test_accuracy.mean()), color="0.4", ls="--", lw=1.4)
        left.annotate("before", (min(self.share), 1.01), color="0.4", size=12, va="bottom")
        left.set(xscale="log", ylim=(-0.03, 1.13), xlabel="share of the table left to train on")
        left.set(ylabel="accuracy on pairs never seen", title="Trained on with too few pairs, it forgets")
        left.legend(loc="lower right", title="dotted: critical share")

        random = e.random_efficiency
        groups = [(random, "random_fraction", "memorise a random table", figures.COLORS[1], "s")]
        if 1.0 in self.weight_decay:
            groups.append((self.generalising(e), "size", "generalise addition", figures.COLORS[2], "o"))
        for values, dim, label, color, marker in groups:
            if values.sizes[dim]:
                right.plot(values[dim], values.mean("seed"), color=color, label=label)
                spread = np.broadcast_to(values[dim].values[:, None], values.transpose(dim, "seed").shape)
                right.plot(spread.ravel(), values.transpose(dim, "seed").values.ravel(), marker, color=color, ms=5,
                           alpha=0.5, mew=0)  # fmt: skip
        if len(groups) == 2 and min(values.sizes[dim] for values, dim, *_ in groups) and random.sizes[groups[0][1]] > 1:
            mean = groups[1][0].mean()
            at = float(efficiency_crossing(random.mean("seed"), mean, "random_fraction"))
            if 0.01 < at < 1:
                right.axvline(at, color="0.4", ls=":", lw=1.6)
                low = ("data", "axes fraction")
                right.annotate(f"equal at {at:.2f}", (at, 0.03), (-5, 0), low, "offset points", size=12, ha="right")
        right.set(xscale="log", yscale="log", xlabel="share of the table trained on")
        right.set(ylabel="margin at parameters of size 1", title="What a unit of norm buys")
        right.legend()
        for axis in (left, right):
            axis.set_xticks([0.05, 0.1, 0.2, 0.4, 0.7], ["0.05", "0.1", "0.2", "0.4", "0.7"])
            axis.minorticks_off()
        right.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        right.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        return fig
