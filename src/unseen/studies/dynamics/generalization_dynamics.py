"""Advani and Saxe (2017): test error during training, when parameters are as many as examples."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import bootstrap_interval, mean_interval, paired_difference, ratio
from unseen.learners import classifier
from unseen.measures import advani_saxe_curve, frozen_error, frozen_subspace, overtraining_penalty
from unseen.models import ReluStudent
from unseen.worlds.clusters import Lesson, TeacherNetwork, TeacherStudent

Scalar = float | Float[Array, ""]


class GeneralizationDynamics(Study):
    """Overtraining is worst where parameters equal examples (Advani and Saxe, 2017).

    A linear student learns a noisy linear teacher by gradient flow on the summed squared error, computed exactly in
    the eigenbasis of its sample (a plain loop of small steps checks it), for seven numbers of examples per input and
    three sizes of the first weights; beside it stands what random-matrix theory predicts before any data are drawn.
    Then ReLU students of growing width learn a noisy two-layer teacher by full-batch descent. Measured is the error on
    fresh noisy samples at all times; the control of every run is its own best moment, an oracle of early stopping.

    What came out: all four claims hold. The closed form is 2% off in the median; where parameters equal examples the
    simulation ends above it (14% at time 3,000), since the smallest eigenvalue of 200 inputs is a random number and
    the theory an average. The ReLU students' final error has its peak at 20 to 50 units; the best mid-sized one is
    the smallest, of 5 units, which cannot overfit, and 1,000 units are as good without any stopping.
    """

    dimension: int = 200  # N, inputs of the linear student
    snr: float = 5.0  # signal-to-noise ratio of every teacher
    horizon: float = 3_000.0  # of the flow, in units of its time constant
    moments: int = 100  # at which a flow is looked at, evenly on a log scale from 0.01 on
    loop_rate: float = 0.002  # time of one step in the plain loop
    loop_updates: int = 5_000  # of the plain loop
    relu_dimension: int = 15  # inputs of the ReLU networks
    relu_samples: int = 150  # their training examples
    teacher_units: int = 30  # of the ReLU teacher
    relu_initial: float = 0.1  # standard deviation of what the ReLU student's units read at first
    relu_rate: float = 0.5  # its learning rate
    relu_updates: int = 10_000  # of its descent
    relu_every: int = 100  # updates between two looks at it
    relu_seeds: int = 12  # seeds of the ReLU students
    seeds: int = 32

    varies = dict(density=(0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0), initial=(0.0, 0.5, 1.0))  # density is P/N
    traced = ("initial",)
    smoke = dict(
        dimension=20,
        density=(0.5, 1.0),
        moments=20,
        loop_updates=100,
        width=(5, 20),
        relu_updates=40,
        relu_every=20,
        seeds=2,
    )
    paper = dict(dimension=1_000, relu_updates=100_000, width=(5, 10, 20, 30, 50, 70, 100, 200, 500, 1000))

    def check(self) -> None:
        for name in ("dimension", "loop_updates", "relu_dimension", "relu_samples", "teacher_units"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")
        for name in ("snr", "loop_rate", "relu_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} takes a number above 0, got {getattr(self, name)}.")
        if self.horizon <= 0.01 or self.moments < 2:
            raise UserError(
                f"moments takes 2 or more up to a horizon above 0.01, got {self.moments} up to {self.horizon}."
            )
        if min(self.density) * self.dimension < 1:
            raise UserError(f"density takes at least one example, 1/{self.dimension}, got {min(self.density)}.")
        if min(self.initial) < 0:
            raise UserError(f"initial takes numbers from 0 on, got {self.initial}.")
        if self.relu_updates < 1 or self.relu_every < 1 or self.relu_updates % self.relu_every:
            raise UserError(f"relu_updates takes a multiple of relu_every, {self.relu_every}, got {self.relu_updates}.")

    @property
    def noise(self) -> float:
        """Standard deviation of the targets' noise; the teachers' outputs have mean square 1."""
        return 1 / math.sqrt(self.snr)

    def times(self) -> Float[np.ndarray, " times"]:
        """Moments of the flow: 0, and from 0.01 on evenly on a log scale."""
        return np.append(0.0, np.geomspace(0.01, self.horizon, self.moments)).astype(np.float32)

    def begin(
        self, key: PRNGKeyArray, density: float, initial: Scalar
    ) -> tuple[Lesson, Float[Array, "dimension 1"], Float[Array, "dimension dimension"]]:
        """A training set, a student's first weights, and X'X/N."""
        data_key, start_key = jax.random.split(key)
        world = TeacherStudent(self.dimension, max(1, round(density * self.dimension)), noise=self.noise)
        lesson = world.sample(data_key)
        start = initial * jax.random.normal(start_key, lesson.weights.shape) / jnp.sqrt(self.dimension)
        return lesson, start, lesson.inputs.T @ lesson.inputs / self.dimension

    def flow(
        self, lesson: Lesson, start: Float[Array, "dimension 1"], products: Array, times: Float[Array, " times"]
    ) -> Float[Array, " times"]:
        """Test error at every time: noise^2 and the squared distance to the teacher."""
        pull, basis = jnp.linalg.eigh(products)
        # Eigenvalues ascend, and as many as examples are missing are 0 but for rounding: nothing moves there.
        pull = pull * (jnp.arange(self.dimension) >= self.dimension - len(lesson.inputs))
        kept = jnp.exp(-pull * times[:, None])
        gain = jnp.where(pull > 0, (1 - kept) / jnp.where(pull > 0, pull, 1), 0.0)
        read = basis.T @ (lesson.inputs.T @ lesson.targets / self.dimension)
        student = kept * (basis.T @ start)[:, 0] + gain * read[:, 0]
        return jnp.sum((student - (basis.T @ lesson.weights)[:, 0]) ** 2, -1) + self.noise**2

    def learner(self, density: float, initial: Scalar) -> Learner:
        times = jnp.asarray(self.times())

        def simulate(key: PRNGKeyArray) -> dict[str, Array]:
            lesson, start, products = self.begin(key, density, initial)
            true = len(lesson.inputs) / self.dimension  # a whole number of examples
            return {
                "error": self.flow(lesson, start, products, times),
                "predicted_error": advani_saxe_curve(times, true, noise=self.noise, initial=initial),
                "frozen": jnp.sum(frozen_subspace(lesson.inputs, start) ** 2),
                "predicted_frozen": frozen_error(true, initial),
            }

        dims = {"error": ("time",), "predicted_error": ("time",)}
        return Learner.once(simulate, dims=dims, coords={"time": self.times().astype(float).tolist()})

    @part()
    def loop(self) -> Learner:
        """Largest relative difference of the test error between plain small steps of gradient descent and the flow,
        with as many examples as inputs."""

        def compare(key: PRNGKeyArray) -> dict[str, Array]:
            lesson, start, products = self.begin(key, 1.0, 1.0)

            def update(student: Array, _: None) -> tuple[Array, Array]:
                gradient = lesson.inputs.T @ (lesson.inputs @ student - lesson.targets) / self.dimension
                student = student - self.loop_rate * gradient
                return student, jnp.sum((student - lesson.weights) ** 2) + self.noise**2

            _, errors = jax.lax.scan(update, start, length=self.loop_updates)
            times = self.loop_rate * jnp.arange(1.0, self.loop_updates + 1)
            # The flow at every hundredth step: all of them at once would need the memory of times x modes.
            sparse = slice(99, None, 100) if self.loop_updates >= 100 else slice(None)
            exact = self.flow(lesson, start, products, times[sparse])
            return {"loop_deviation": jnp.abs(errors[sparse] / exact - 1).max()}

        return Learner.once(compare)

    @part(varies=dict(width=(5, 10, 20, 50, 100, 200, 1000)), seeds="relu_seeds")
    def relu(self, width: int) -> Learner:
        """ReLU students of a noisy ReLU teacher."""
        world = TeacherNetwork(self.relu_dimension, self.teacher_units, self.relu_samples, self.noise)
        examples = jnp.arange(self.relu_samples)
        return classifier(
            lambda key: ReluStudent(self.relu_dimension, width, key=key, scale=self.relu_initial),
            world.sample,
            optax.sgd(self.relu_rate),
            loss=lambda outputs, targets: (outputs - targets) ** 2,
            score=None,
            # The training points alone: the fresh ones that come with them have weight 0 but would cost as much.
            gradient=lambda objective, model, _: eqx.filter_grad(objective)(model, examples),
            steps=self.relu_updates,
            every=self.relu_every,
        )

    def relu_error(self, e: xr.Dataset) -> xr.DataArray:
        """Error of the ReLU students on fresh noisy samples; the test loss is measured without noise."""
        return (e.test_loss + self.noise**2).isel(seed=slice(min(self.relu_seeds, self.seeds)))

    @claim("theory-curves")
    def theory_curves(self, e: xr.Dataset) -> Judgement:
        def typical(runs: xr.Dataset) -> float:
            error = runs.error.mean("seed", skipna=False)
            return float(abs(error / runs.predicted_error.isel(seed=0) - 1).median(skipna=False))

        runs = e[["error", "predicted_error"]]
        deviation = bootstrap_interval(typical, runs)
        curve = abs(runs.error.mean("seed") / runs.predicted_error.isel(seed=0) - 1)
        where = curve.where(curve == curve.max(), drop=True)
        return judge(
            deviation,
            supported=deviation.high < 0.05,
            refuted=deviation.low > 0.1,
            note=f"largest deviation {float(curve.max()):.2g}, at {float(where.density[0]):g} examples per input and "
            f"time {float(where.time[0]):.2g}; {self.loop_updates} plain steps deviate from the flow by "
            f"{float(e.loop_deviation.max()):.1g} at most",
        )

    @claim("worst-at-equality")
    def worst_at_equality(self, e: xr.Dataset) -> Judgement:
        penalty = overtraining_penalty(e.error.sel(initial=0.0), "time")
        sides = penalty.sel(density=[0.25, 4.0])
        excess = mean_interval(paired_difference(penalty.sel(density=1.0, drop=True), sides.max("density")))
        return judge(
            excess,
            supported=excess.low > math.log(2),
            refuted=excess.high < 0,
            note="from zero weights; penalties "
            + ", ".join(f"{float(penalty.sel(density=d).mean()):.2g} at {d:g}" for d in penalty.density.values),
        )

    @claim("small-init")
    def small_init(self, e: xr.Dataset) -> Judgement:
        final = e.error.isel(time=-1)
        large, small = final.sel(initial=1.0, drop=True), final.sel(initial=0.0, drop=True)
        predicted = float(frozen_error(0.5, 1.0))
        rise = mean_interval(paired_difference(large, small).sel(density=0.5) / predicted)
        many = mean_interval(ratio(large, small).sel(density=4.0) - 1)
        frozen = float(e.frozen.sel(density=0.5, initial=1.0).mean())
        return judge(
            rise,
            supported=rise.low >= 0.85 and rise.high <= 1.15 and many.high < 0.05,
            refuted=rise.high < 0.85 or rise.low > 1.15 or many.low > 0.1,
            also={"relative increase at ratio 4": many},
            note=f"predicted increase {predicted:.3g}; squared first weights in the frozen subspace {frozen:.3g}",
        )

    @claim("bigger-is-fine")
    def bigger_is_fine(self, e: xr.Dataset) -> Judgement:
        error = self.relu_error(e)
        final, penalty = np.log(error.isel(relu_step=-1)), overtraining_penalty(error, "relu_step")
        choosing, judging = dict(seed=slice(0, None, 2)), dict(seed=slice(1, None, 2))
        middle = final.sel(width=[w for w in final.width.values if w <= 100])
        best = int(middle.isel(choosing).mean("seed").idxmin())
        worst = int(penalty.isel(choosing).mean("seed").idxmax())
        final, penalty = final.isel(judging), penalty.isel(judging)
        cost = mean_interval(paired_difference(final.sel(width=1000, drop=True), final.sel(width=best, drop=True)))
        relief = mean_interval(
            paired_difference(penalty.sel(width=worst, drop=True), penalty.sel(width=1000, drop=True))
        )
        train = {w: float(e.train_loss.isel(relu_step=-1).sel(width=w).mean()) for w in (best, worst, 1000)}
        return judge(
            cost,
            supported=cost.high < math.log(1.05) and relief.low > 0,
            refuted=cost.low > math.log(1.05) or relief.high < 0,
            also={f"overtraining penalty, width {worst} minus 1,000": relief},
            note=f"best width up to 100: {best}; final train loss "
            + ", ".join(f"{loss:.2g} at width {w}" for w, loss in train.items()),
        )

    def figure(self, e: xr.Dataset) -> Any:
        import matplotlib

        fig, ((left, right), (below, last)) = figures.panels(2, 2, height=3.8)
        runs = e.isel(initial=0)
        colors = matplotlib.colormaps[figures.SEQUENTIAL](np.linspace(0, 0.9, runs.density.size))
        for color, density in zip(colors, runs.density.values, strict=True):
            cell = runs.sel(density=density).isel(time=slice(1, None))
            left.plot(cell.time, cell.error.mean("seed"), color=color, lw=2.5, label=f"{density:g}")
            left.plot(cell.time, cell.predicted_error.isel(seed=0), ":", color="black", lw=1.5)
        left.set(xscale="log", yscale="log", xlabel="time", ylabel="test error")
        left.legend(title="examples per input", ncols=2, loc="upper left")
        left.set_title("Simulation, and theory (dotted)")

        for ax, error, x in ((right, runs.error.rename(time="step"), "density"), (last, None, "width")):
            error = self.relu_error(e).rename(relu_step="step") if error is None else error
            for color, name, values in (
                (figures.COLORS[1], "trained to the end", error.isel(step=-1)),
                (figures.COLORS[0], "stopped at its best", error.min("step")),
            ):
                figures.curve(ax, values, x=x, label=name, color=color, marker="o")
            ax.set(xscale="log", yscale="log", ylabel="test error")
            ax.legend(loc="upper right")
        right.axvline(1.0, color="0.6", ls=":", lw=1)
        right.set(xlabel="examples per input")
        right.set_title("Worst where they are equal")
        last.set(xlabel="hidden units")
        last.set_title(f"ReLU students of {self.relu_samples} examples")

        for color, initial in zip(figures.COLORS, e.initial.values, strict=False):
            final = e.sel(initial=initial).isel(time=-1)
            below.plot(final.density, final.error.mean("seed"), "o", color=color, label=f"{initial:g}")
            below.plot(final.density, final.predicted_error.isel(seed=0), ":", color=color)
        below.set(xscale="log", yscale="log", xlabel="examples per input", ylabel="final test error")
        below.legend(title="first weights", loc="upper right")
        below.set_title("Frozen directions (dotted: theory)")
        for ax in (right, below):
            ax.set_xticks(e.density.values, [f"{d:g}" for d in e.density.values])
            ax.minorticks_off()
        for ax in (left, right, below, last):
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
        return fig
