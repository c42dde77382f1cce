"""Levi et al. (2023): delayed accuracy of a linear student, computed beforehand."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge
from unseen.lab.statistics import EventTimes, first_step, mean_interval, r_squared, relative_error, slope
from unseen.measures.grokking import grokking_time_linear, tolerance_accuracy
from unseen.worlds.clusters import TeacherStudent, descent_modes, expected_losses, marchenko_pastur

Scalar = float | Float[Array, ""]


class LinearGrokking(Study):
    """Grokking of a linear student without anything to understand (Levi et al., 2023).

    A linear student learns a noiseless linear teacher from Gaussian inputs by full-batch gradient descent.
    An answer counts as right if its squared error is within a tolerance. Train accuracy then saturates long
    before test accuracy. Measured are losses and accuracies on real samples, iterated exactly in the
    eigenbasis of their covariance; predicted are the same curves from the Marchenko-Pastur law alone.
    """

    dimension: int = 300  # of the inputs
    learning_rate: float = 0.01  # of gradient descent on the squared error
    updates: int = 300_000  # horizon
    per_decade: int = 60  # moments in a factor of ten at which the run is looked at
    test_inputs: int = 1_000  # fresh inputs for test accuracy
    tolerance: float = 1e-3  # squared error (mean over outputs) up to which an answer is right
    strict_tolerance: float = 1e-6  # the same run, looked at a thousand times more strictly
    loose_tolerance: float = 10.0  # control: nearly every answer is right from the start
    seeds: int = 16

    varies = dict(samples=(320, 375, 600, 1500), outputs=(1, 10), weight_decay=(0.0, 1e-3), initial=(1.0, 0.1))
    traced = ("weight_decay", "initial")
    smoke = dict(dimension=30, samples=(32, 37, 150), outputs=(1,), updates=10_000, per_decade=10, seeds=2)
    paper = dict(dimension=1_000, samples=(1060, 1250, 2000, 5000))

    def check(self) -> None:
        if self.per_decade < 1 or self.updates < 10:
            raise UserError(f"updates takes a number from 10 on, got {self.updates} ({self.per_decade} a decade).")

    def times(self) -> Float[np.ndarray, " times"]:
        """Numbers of updates at which a run is looked at: 0, and from 1 on evenly on a log scale."""
        count = math.ceil(self.per_decade * math.log10(self.updates)) + 1
        return np.append(0.0, np.geomspace(1, self.updates, count)).astype(np.float32)

    def learner(self, samples: int, outputs: int, weight_decay: Scalar, initial: Scalar) -> Learner:
        world = TeacherStudent(self.dimension, samples, outputs)
        times = self.times()
        tolerances = (self.strict_tolerance, self.tolerance, self.loose_tolerance)

        def simulate(key: PRNGKeyArray) -> dict[str, Array]:
            data_key, start_key, test_key = jax.random.split(key, 3)
            lesson = world.sample(data_key)
            start = initial * jax.random.normal(start_key, lesson.weights.shape) / jnp.sqrt(self.dimension)
            eigenvalues, basis = jnp.linalg.eigh(lesson.inputs.T @ lesson.inputs / samples)
            modes = descent_modes(eigenvalues, jnp.asarray(times), self.learning_rate, weight_decay)
            error = modes.initial[..., None] * (basis.T @ start) - modes.untaught[..., None] * (
                basis.T @ lesson.weights
            )  # (times, modes, outputs): student minus teacher
            squared = jnp.square(error).mean(-1)
            # Fresh Gaussian inputs have the same law in every basis.
            fresh = jax.random.normal(test_key, (self.test_inputs, self.dimension))
            return {
                "train_loss": squared @ eigenvalues,
                "test_loss": squared.sum(-1),
                "train_accuracy": _within(lesson.inputs @ basis, error, tolerances),
                "test_accuracy": _within(fresh, error, tolerances),
                **self.theory(world, weight_decay, initial, tolerances),
            }

        series = {name: ("update",) for name in ("train_loss", "test_loss")}
        series |= {name: ("update", "limit") for name in ("train_accuracy", "test_accuracy")}
        dims = {**series, **{f"predicted_{name}": own for name, own in series.items()}}
        dims |= {"predicted_fit": ("limit",), "predicted_generalise": ("limit",)}
        coords = {"update": times.astype(float).tolist(), "limit": list(tolerances)}
        return Learner.once(simulate, dims=dims, coords=coords)

    def theory(
        self, world: TeacherStudent, decay: Scalar, initial: Scalar, tolerances: tuple[float, ...]
    ) -> dict[str, Array]:
        """The curves and times that are expected before any data are drawn."""
        settings = {"ratio": world.ratio, "decay": decay, "initial": initial}
        times = jnp.asarray(self.times())
        spectrum = marchenko_pastur(world.ratio)
        train, test = expected_losses(spectrum, times, self.learning_rate, **settings)
        accuracy = [
            jnp.stack([tolerance_accuracy(loss, limit, world.outputs) for limit in tolerances], -1)
            for loss in (train, test)
        ]
        fit, generalise = zip(
            *(
                grokking_time_linear(times, self.learning_rate, tolerance=limit, outputs=world.outputs, **settings)
                for limit in tolerances
            ),
            strict=True,
        )
        return {
            "predicted_train_loss": train,
            "predicted_test_loss": test,
            "predicted_train_accuracy": accuracy[0],
            "predicted_test_accuracy": accuracy[1],
            "predicted_fit": jnp.stack(fit),
            "predicted_generalise": jnp.stack(generalise),
        }

    def reached(self, accuracy: xr.DataArray, level: float = 0.95) -> EventTimes:
        """Updates to an accuracy of every run and tolerance."""
        observed = accuracy.notnull().any("update") & xr.ones_like(accuracy, dtype=bool)
        return first_step(accuracy >= level, observed=observed, dim="update")

    def plain(self, e: xr.Dataset, ratio: float) -> xr.Dataset:
        """The runs with one output, no decay and unit initial scale, at samples that give the ratio."""
        samples = [n for n in self.samples if abs(self.dimension / n / ratio - 1) < 0.02]
        if not samples:
            raise UserError(
                f"samples takes a value near {self.dimension / ratio:.0f} for this claim, got {self.samples}."
            )
        return e.sel(samples=samples[0], outputs=1, weight_decay=0.0, initial=1.0)

    @claim("exact-curves")
    def exact_curves(self, e: xr.Dataset) -> Judgement:
        runs = self.plain(e, 0.8)
        # Until single precision has no smaller number; a log loss that crosses 0 does not move the median.
        runs = runs.where((runs.test_loss > 1e-30) & (runs.train_loss > 1e-30) & (runs.predicted_train_loss > 1e-30))
        errors = {
            side: relative_error(np.log(runs[f"{side}_loss"]), np.log(runs[f"predicted_{side}_loss"])).median("update")
            for side in ("train", "test")
        }
        train, test = (mean_interval(errors[side]) for side in ("train", "test"))
        return judge(
            test,
            supported=train.high < 0.05 and test.high < 0.05,
            refuted=train.low > 0.05 or test.low > 0.05,
            also={"train": train},
        )

    @claim("delay-law")
    def delay_law(self, e: xr.Dataset) -> Judgement:
        cell = ("samples", "outputs", "weight_decay", "initial", "limit")
        fit, generalise = self.reached(e.train_accuracy), self.reached(e.test_accuracy)
        measured = (generalise.time - fit.time).where(fit.reached & generalise.reached).stack(cell=cell)
        predicted = (e.predicted_generalise - e.predicted_fit).isel(seed=0).stack(cell=cell)
        due = np.isfinite(predicted) & (predicted >= 10)
        there = (measured >= 10).all("seed")
        x, y = (delay.isel(cell=(due & there).values) for delay in (predicted, measured))
        slopes, fits = slope(x, y, "cell", log=True), r_squared(x, y, "cell", log=True)
        steepness, explained = mean_interval(slopes), mean_interval(fits)
        return judge(
            steepness,
            supported=0.85 <= steepness.low and steepness.high <= 1.15 and explained.low > 0.9,
            refuted=steepness.high < 0.85 or steepness.low > 1.15 or explained.high < 0.8,
            also={"R^2": explained},
            note=f"{int((due & there).sum())} conditions; {int((due & ~there).sum())} more were predicted to "
            "generalise in time and did not in some run",
        )

    @claim("artefact")
    def artefact(self, e: xr.Dataset) -> Judgement:
        runs = self.plain(e, 0.8)
        strict = runs.test_accuracy.sel(limit=self.strict_tolerance)
        begin, end = (self.reached(strict, level).time for level in (0.05, 0.95))
        log_loss = np.log(runs.test_loss)

        def fall(start: xr.DataArray, stop: xr.DataArray) -> xr.DataArray:
            """Slope of the log loss per update between two times of each seed."""
            values = [
                [
                    np.interp(t, log_loss.update, log_loss.sel(seed=seed))
                    for t in (start.sel(seed=seed), stop.sel(seed=seed))
                ]
                for seed in log_loss.seed
            ]
            return xr.DataArray(np.diff(values)[:, 0], coords={"seed": log_loss.seed}, dims="seed") / (stop - start)

        before = xr.where(2 * begin - end > 0, 2 * begin - end, 0)
        ratio = mean_interval(fall(begin, end) / fall(before, begin))
        times = self.reached(runs.test_accuracy)
        shift = mean_interval(
            times.sel(limit=self.strict_tolerance).log_ratio(times.sel(limit=self.tolerance), base=10)
        )
        return judge(
            ratio,
            supported=0.5 <= ratio.low and ratio.high <= 1.5 and shift.low > 0.15,
            refuted=ratio.low > 2 or shift.high < 0.05,
            also={"log10 shift of the jump": shift},
        )

    def delay_at(self, e: xr.Dataset, ratio: float) -> EventTimes:
        """Updates between train and test accuracy at the usual tolerance."""
        runs = self.plain(e, ratio).sel(limit=self.tolerance)
        fit, generalise = self.reached(runs.train_accuracy), self.reached(runs.test_accuracy)
        return EventTimes(generalise.time - fit.time, generalise.reached, generalise.horizon - fit.time)

    @claim("few-samples-late")
    def few_samples_late(self, e: xr.Dataset) -> Judgement:
        growth = mean_interval(self.delay_at(e, 0.94).log_ratio(self.delay_at(e, 0.2), base=10))
        return judge(growth, supported=growth.low > 1, refuted=growth.high < 0.5)

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, right) = figures.panels(2, height=4.4)
        runs = self.plain(e, 0.8).isel(update=slice(1, None)).rename(update="step")
        for color, side in zip(figures.COLORS, ("train", "test"), strict=False):
            accuracy = runs[f"{side}_accuracy"].sel(limit=self.tolerance)
            predicted = runs[f"predicted_{side}_accuracy"].sel(limit=self.tolerance).isel(seed=0)
            figures.curve(left, accuracy, label=f"{side} accuracy", color=color)
            left.plot(runs.step, predicted, ":", color="black", lw=1.6)
            loss = runs[f"{side}_loss"]
            figures.curve(left, loss / loss.isel(step=0), color=color, lw=1, alpha=0.7)
        left.plot([], [], ":", color="black", lw=1.6, label="theory")
        left.plot([], [], color="0.4", lw=1, label="loss, of its first value")
        left.set(xscale="log", xlabel="update", ylabel="accuracy, loss")
        left.legend(loc="center left")
        left.set_title("The loss only falls; accuracy jumps")

        fit, generalise = self.reached(e.train_accuracy), self.reached(e.test_accuracy)
        measured = (generalise.time - fit.time).where(fit.reached & generalise.reached)
        predicted = (e.predicted_generalise - e.predicted_fit).where(lambda delay: np.isfinite(delay))
        for color, samples in zip(figures.COLORS, e.samples.values, strict=False):
            x, y = (delay.sel(samples=samples).values.ravel() for delay in (predicted, measured))
            right.plot(x, y, "o", ms=4, alpha=0.5, color=color, mew=0, label=f"{samples} samples")
        ends = [10, float(self.updates)]
        right.plot(ends, ends, ":", color="black", lw=1.6)
        right.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        right.set(xlabel="predicted delay, updates", ylabel="measured delay, updates")
        right.legend(loc="upper left", markerscale=2)
        right.set_title("The delay is computed beforehand")
        return fig


def _within(
    inputs: Float[Array, "n modes"], error: Float[Array, "times modes outputs"], tolerances: tuple[float, ...]
) -> Float[Array, "times tolerances"]:
    """Share of inputs whose squared error, averaged over outputs, is within each tolerance."""
    times, modes, outputs = error.shape
    flat = error.transpose(1, 0, 2).reshape(modes, times * outputs)  # one large matrix product
    squared = jnp.square(inputs @ flat).reshape(-1, times, outputs).mean(-1)
    return jnp.stack([(squared <= limit).mean(0) for limit in tolerances], axis=-1)
