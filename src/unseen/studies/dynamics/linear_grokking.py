"""Levi et al. (2023): delayed accuracy of a linear student, computed beforehand."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import Censored, EventTimes, first_step, mean_interval, r_squared, relative_error, slope
from unseen.measures.grokking import grokking_time_linear, tolerance_accuracy
from unseen.worlds.clusters import Lesson, TeacherStudent, descent_modes, expected_losses, marchenko_pastur

Scalar = float | Float[Array, ""]


class LinearGrokking(Study):
    """Grokking of a linear student without anything to understand (Levi et al., 2023).

    A linear student learns a noiseless linear teacher from Gaussian inputs by full-batch gradient descent.
    An answer counts as right if its squared error is within a tolerance. Train accuracy then saturates long
    before test accuracy. Measured are losses and accuracies on real samples, iterated exactly in the
    eigenbasis of their covariance (a plain loop checks its first updates); predicted are the same curves from
    the Marchenko-Pastur law alone, as in the paper's equations 8, 13 and 15, never from the sample's own
    eigenvalues. A ReLU student in a plain loop, with the first weights of the paper's two-layer networks
    (section 4.1) times the initial scale, repeats the last claim on inputs of a lower dimension.

    Chosen before the recorded run where the registered rules leave it open: curves are compared at moments
    that are even in log time, while both losses exceed 1e-30. The break in the loss is measured per update at
    the strict tolerance, 1e-6. Weight decay is the paper's gamma, which adds gamma times the student to the
    gradient. A teacher's output has variance 1 (the paper's, 1/2) and every output its own squared error (the
    paper averages, which slows ten outputs down tenfold). A delay too short to be seen between two looks
    counts as at most their distance.

    What came out: `exact-curves` is refuted, by the test curve (0.074, not below 0.05). The likely reason is that
    the closed form is an average over teachers and first weights, and one output in 300 dimensions is a single
    draw: with ten outputs the pilots (seeds 2 to 9) gave 0.027 for train and 0.045 for test. The iteration is not
    at fault: a plain loop agrees to 1e-4. `artefact` stays inconclusive at the edge of its range (0.498): per
    update the log loss slows down smoothly, to about half in a window as long as the jump, without any break.
    The ReLU student does not generalise at ratio 0.94 within its horizon, so its delay is only bounded.
    """

    dimension: int = 300  # of the inputs
    learning_rate: float = 0.01  # of gradient descent on the squared error
    updates: int = 300_000  # horizon
    per_decade: int = 60  # moments in a factor of ten at which the run is looked at
    test_inputs: int = 1_000  # fresh inputs for test accuracy
    tolerance: float = 1e-3  # squared error (mean over outputs) up to which an answer is right
    strict_tolerance: float = 1e-6  # the same run, looked at a thousand times more strictly
    loose_tolerance: float = 10.0  # control: nearly every answer is right from the start
    loop_updates: int = 5_000  # of the plain loop that checks the exact iteration
    relu_dimension: int = 60  # of the ReLU student's inputs
    relu_width: int = 128  # of its hidden layer
    relu_rate: float = 0.1  # its learning rate
    relu_updates: int = 5_000  # its horizon; by then its losses stand still
    relu_every: int = 20  # updates between two looks at it
    seeds: int = 16

    varies = dict(samples=(320, 375, 600, 1500), outputs=(1, 10), weight_decay=(0.0, 1e-3), initial=(1.0, 0.1))
    traced = ("weight_decay", "initial")
    smoke = dict(
        dimension=30,
        samples=(32, 37, 150),
        outputs=(1,),
        updates=10_000,
        per_decade=10,
        loop_updates=200,
        relu_dimension=15,
        relu_samples=(16, 75),
        relu_width=16,
        relu_updates=200,
        seeds=2,
    )
    paper = dict(dimension=1_000, samples=(1060, 1250, 2000, 5000), relu_dimension=1_000, relu_samples=(1060, 5000))

    def check(self) -> None:
        for name in ("per_decade", "loop_updates", "relu_dimension", "relu_width", "relu_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")
        if self.updates < 10:
            raise UserError(f"updates takes a number from 10 on, got {self.updates}.")
        if self.relu_updates < 1 or self.relu_updates % self.relu_every:
            raise UserError(f"relu_updates takes a multiple of relu_every, {self.relu_every}, got {self.relu_updates}.")

    def times(self) -> Float[np.ndarray, " times"]:
        """Numbers of updates at which a run is looked at: 0, and from 1 on evenly on a log scale."""
        count = math.ceil(self.per_decade * math.log10(self.updates)) + 1
        return np.append(0.0, np.geomspace(1, self.updates, count)).astype(np.float32)

    def learner(self, samples: int, outputs: int, weight_decay: Scalar, initial: Scalar) -> Learner:
        world = TeacherStudent(self.dimension, samples, outputs)
        times = self.times()
        tolerances = (self.strict_tolerance, self.tolerance, self.loose_tolerance)

        def simulate(key: PRNGKeyArray) -> dict[str, Array]:
            lesson, start, test_key = self.begin(key, world, initial)
            eigenvalues, basis, error = self.descend(lesson, start, jnp.asarray(times), weight_decay)
            # Fresh Gaussian inputs have the same law in every basis.
            fresh = jax.random.normal(test_key, (self.test_inputs, self.dimension))
            train_loss, test_loss = _losses(eigenvalues, error)
            return {
                "train_loss": train_loss,
                "test_loss": test_loss,
                "train_accuracy": _within(lesson.inputs @ basis, error, tolerances),
                "test_accuracy": _within(fresh, error, tolerances),
                **self.theory(world, weight_decay, initial, tolerances),
            }

        series = dict.fromkeys(("train_loss", "test_loss"), ("update",))
        series |= dict.fromkeys(("train_accuracy", "test_accuracy"), ("update", "limit"))
        dims = {**series, **{f"predicted_{name}": own for name, own in series.items()}}
        dims |= {"predicted_fit": ("limit",), "predicted_generalise": ("limit",)}
        coords = {"update": times.astype(float).tolist(), "limit": list(tolerances)}
        return Learner.once(simulate, dims=dims, coords=coords)

    def begin(
        self, key: PRNGKeyArray, world: TeacherStudent, initial: Scalar
    ) -> tuple[Lesson, Float[Array, "dimension outputs"], PRNGKeyArray]:
        """A training set, the student's first weights and a key for the test."""
        data_key, start_key, test_key = jax.random.split(key, 3)
        lesson = world.sample(data_key)
        start = initial * jax.random.normal(start_key, lesson.weights.shape) / jnp.sqrt(world.dimension)
        return lesson, start, test_key

    def descend(
        self, lesson: Lesson, start: Float[Array, "dimension outputs"], times: Float[Array, " times"], decay: Scalar
    ) -> tuple[Float[Array, " modes"], Float[Array, "modes modes"], Float[Array, "times modes outputs"]]:
        """Eigenvalues and eigenvectors of the sample's covariance, and student minus teacher in that basis."""
        eigenvalues, basis = jnp.linalg.eigh(lesson.inputs.T @ lesson.inputs / len(lesson.inputs))
        modes = descent_modes(eigenvalues, times, self.learning_rate, decay / 2)
        kept, untaught = modes.initial[..., None], modes.untaught[..., None]
        return eigenvalues, basis, kept * (basis.T @ start) - untaught * (basis.T @ lesson.weights)

    def theory(
        self, world: TeacherStudent, decay: Scalar, initial: Scalar, tolerances: tuple[float, ...]
    ) -> dict[str, Array]:
        """The curves and times that are expected before any data are drawn."""
        settings = {"ratio": world.ratio, "decay": decay / 2, "initial": initial}
        times, limits = jnp.asarray(self.times()), jnp.asarray(tolerances)
        losses = jnp.stack(expected_losses(marchenko_pastur(world.ratio), times, self.learning_rate, **settings))
        train, test = jax.vmap(lambda limit: tolerance_accuracy(losses, limit, world.outputs), out_axes=-1)(limits)
        fit, generalise = jax.vmap(
            lambda limit: grokking_time_linear(
                times, self.learning_rate, tolerance=limit, outputs=world.outputs, **settings
            )
        )(limits)
        return {
            "predicted_train_loss": losses[0],
            "predicted_test_loss": losses[1],
            "predicted_train_accuracy": train,
            "predicted_test_accuracy": test,
            "predicted_fit": fit,
            "predicted_generalise": generalise,
        }

    @part()
    def loop(self) -> Learner:
        """Largest relative difference of train or test loss between plain gradient descent and the exact
        iteration, over the first updates of the runs that `exact-curves` reads, with the largest decay."""
        world = TeacherStudent(self.dimension, min(self.samples, key=lambda n: abs(self.dimension / n - 0.8)))
        decay = max(self.weight_decay)

        def compare(key: PRNGKeyArray) -> dict[str, Array]:
            lesson, start, _ = self.begin(key, world, 1.0)

            def objective(student: Array) -> Array:
                return _mean_square(lesson.inputs @ student - lesson.targets) + decay / 2 * jnp.sum(student**2)

            def update(student: Array, _: None) -> tuple[Array, Array]:
                student = student - self.learning_rate * jax.grad(objective)(student)
                train = _mean_square(lesson.inputs @ student - lesson.targets)
                return student, jnp.stack([train, jnp.sum((student - lesson.weights) ** 2)])

            _, losses = jax.lax.scan(update, start, length=self.loop_updates)
            times = jnp.arange(1.0, self.loop_updates + 1)
            eigenvalues, _, error = self.descend(lesson, start, times, decay)
            exact = jnp.stack(_losses(eigenvalues, error), -1)
            return {"loop_deviation": jnp.abs(losses / exact - 1).max()}

        return Learner.once(compare)

    @part(varies=dict(relu_samples=(64, 300), initial=(1.0, 0.1)), traced=("initial",))
    def relu(self, relu_samples: int, initial: Scalar) -> Learner:
        """Plain gradient descent of a ReLU network without biases on the same linear teacher."""
        world = TeacherStudent(self.relu_dimension, relu_samples)
        sizes = (self.relu_dimension, self.relu_width, world.outputs)

        def init(key: PRNGKeyArray) -> ReluRun:
            data_key, start_key, test_key = jax.random.split(key, 3)
            weights = tuple(
                initial * jax.random.normal(k, (a, b)) / jnp.sqrt(2 * a * b)
                for k, a, b in zip(jax.random.split(start_key), sizes[:-1], sizes[1:], strict=True)
            )
            fresh = jax.random.normal(test_key, (self.test_inputs, self.relu_dimension))
            return ReluRun(weights, world.sample(data_key), fresh)

        def advance(run: ReluRun) -> ReluRun:
            def objective(weights: tuple[Array, ...]) -> Array:
                return _mean_square(_relu_network(weights, run.lesson.inputs) - run.lesson.targets)

            def update(weights: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], None]:
                gradient = jax.grad(objective)(weights)
                return jax.tree.map(lambda w, g: w - self.relu_rate * g, weights, gradient), None

            weights, _ = jax.lax.scan(update, run.weights, length=self.relu_every)
            return run._replace(weights=weights)

        def measure(run: ReluRun) -> dict[str, Array]:
            sides = {
                "train": (run.lesson.inputs, run.lesson.targets),
                "test": (run.fresh, run.fresh @ run.lesson.weights),
            }
            found = {}
            for side, (x, y) in sides.items():
                squared = jnp.square(_relu_network(run.weights, x) - y)
                found[f"relu_{side}_loss"] = squared.mean()
                found[f"relu_{side}_accuracy"] = (squared.mean(-1) <= self.tolerance).mean()
            return found

        return Learner(init=init, advance=advance, measure=measure, steps=self.relu_updates, every=self.relu_every)

    def reached(self, accuracy: xr.DataArray, level: float = 0.95, dim: str = "update") -> EventTimes:
        """Updates to an accuracy of every run and tolerance."""
        observed = accuracy.notnull().any(dim) & xr.ones_like(accuracy, dtype=bool)
        return first_step(accuracy >= level, observed=observed, dim=dim)

    def log_delay(self, train: xr.DataArray, test: xr.DataArray, dim: str = "update") -> Censored:
        """log10 of the updates between train and test accuracy, in each run.

        A run that does not generalise has at least the time that was left. One that generalises between the
        same two looks as it fits, or before, has at most the distance of those looks.
        """
        fit, generalise = self.reached(train, dim=dim), self.reached(test, dim=dim)
        delay, looks = generalise - fit, train[dim].values
        after = np.maximum(np.searchsorted(looks, generalise.time), 1).clip(max=len(looks) - 1)
        distance = generalise.time.copy(data=looks[after] - looks[after - 1])
        short = delay.values < distance
        return Censored(
            np.log10(delay.values.where(~short, distance)).where(~(short & delay.is_lower_bound)),
            delay.is_lower_bound,
            delay.is_upper_bound | short,
        )

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
            note=f"{self.loop_updates} updates of plain gradient descent deviate from the exact iteration by "
            f"{float(e.loop_deviation.max()):.1g} of the loss at most",
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
        unforeseen = int((~np.isfinite(predicted) & there).sum())
        return judge(
            steepness,
            supported=steepness.low >= 0.85 and steepness.high <= 1.15 and explained.low > 0.9,
            refuted=steepness.high < 0.85 or steepness.low > 1.15 or explained.high < 0.8,
            also={"R^2": explained},
            note=f"{int((due & there).sum())} conditions; {int((due & ~there).sum())} more were predicted to "
            f"generalise 10 updates late or more and did not in some run, {unforeseen} did and were predicted not to",
        )

    @claim("artefact")
    def artefact(self, e: xr.Dataset) -> Judgement:
        runs = self.plain(e, 0.8)
        strict = runs.test_accuracy.sel(limit=self.strict_tolerance)
        begin, end = (times.time.where(times.reached) for times in (self.reached(strict, 0.05), self.reached(strict)))
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
            supported=ratio.low >= 0.5 and ratio.high <= 1.5 and shift.low > 0.15,
            refuted=ratio.low > 2 or shift.high < 0.05,
            also={"log10 shift of the jump": shift},
        )

    @claim("few-samples-late")
    def few_samples_late(self, e: xr.Dataset) -> Judgement:
        few, many = (self.plain(e, ratio).sel(limit=self.tolerance) for ratio in (0.94, 0.2))
        growth = mean_interval(
            self.log_delay(few.train_accuracy, few.test_accuracy)
            - self.log_delay(many.train_accuracy, many.test_accuracy)
        )
        return judge(growth, supported=growth.low > 1, refuted=growth.high < 0.5, note=self.relu_note(e))

    def relu_note(self, e: xr.Dataset) -> str:
        """The same comparison for the ReLU student, which the rule does not read."""
        train, test = e.relu_train_accuracy, e.relu_test_accuracy
        near = [
            [n for n in self.relu_samples if abs(self.relu_dimension / n / ratio - 1) < 0.02] for ratio in (0.94, 0.2)
        ]
        if not all(near):
            return ""
        few, many = (numbers[0] for numbers in near)
        delay = self.log_delay(train, test, "relu_step")
        right = self.reached(test, dim="relu_step").reached.sum("seed")
        notes = []
        for scale in self.initial:
            first, second = (dict(relu_samples=n, initial=scale) for n in (few, many))
            growth = mean_interval(delay.sel(**first) - delay.sel(**second))
            notes.append(
                (f"{growth}, n = {growth.n}," if growth.n else "no delay to compare")
                + f" at initial scale {scale}, where "
                f"{int(right.sel(**first))} runs with few and {int(right.sel(**second))} with many samples generalise"
            )
        return f"ReLU student, {test.sizes['seed']} runs each: " + "; ".join(notes)

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


class ReluRun(NamedTuple):
    """A two-layer student in training.

    Attributes:
        weights: of its two layers.
        lesson: its training set and teacher.
        fresh: inputs that it is tested on.
    """

    weights: tuple[Float[Array, "dimension width"], Float[Array, "width outputs"]]
    lesson: Lesson
    fresh: Float[Array, "n dimension"]


def _relu_network(
    weights: tuple[Float[Array, "dimension width"], Float[Array, "width outputs"]], inputs: Float[Array, "n dimension"]
) -> Float[Array, "n outputs"]:
    return jax.nn.relu(inputs @ weights[0]) @ weights[1]


def _mean_square(error: Float[Array, "n outputs"]) -> Float[Array, ""]:
    """Squared error of all outputs, averaged over examples."""
    return jnp.square(error).sum(-1).mean()


def _losses(
    eigenvalues: Float[Array, " modes"], error: Float[Array, "times modes outputs"]
) -> tuple[Float[Array, " times"], Float[Array, " times"]]:
    """Train and test loss of a student that misses its teacher by `error`, averaged over outputs."""
    squared = jnp.square(error).mean(-1)
    return squared @ eigenvalues, squared.sum(-1)


def _within(
    inputs: Float[Array, "n modes"], error: Float[Array, "times modes outputs"], tolerances: tuple[float, ...]
) -> Float[Array, "times tolerances"]:
    """Share of inputs whose squared error, averaged over outputs, is within each tolerance."""
    times, modes, outputs = error.shape
    flat = error.transpose(1, 0, 2).reshape(modes, times * outputs)  # one large matrix product
    squared = jnp.square(inputs @ flat).reshape(-1, times, outputs).mean(-1)
    return jnp.stack([(squared <= limit).mean(0) for limit in tolerances], axis=-1)
