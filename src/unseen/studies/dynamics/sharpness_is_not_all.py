"""Wen et al. (2023): flat minima that generalise, and flat minima that do not."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge
from unseen.lab.statistics import log_ratio, mean_interval, paired_difference
from unseen.learners import classifier
from unseen.measures import Curvature, squared_loss_trace
from unseen.methods import SAM, LabelNoiseSGD, memorising_flat_solution
from unseen.models import XorNets
from unseen.worlds.clusters import BooleanXor, XorData

Scalar = float | Float[Array, ""]
KINDS = ("plain", "bias", "normalised")


class SharpnessIsNotAll(Study):
    """Flatness alone does not decide whether sharpness-aware training generalises (Wen et al., 2023).

    Two-layer ReLU networks learn the product of two bits out of thirty from a hundred strings, by descent on one
    example at a time, plain (radius 0) or sharpness-aware: without biases, with them, and with normalised hidden
    features. Measured along training are test accuracy and the trace of the Hessian; beside it stand solutions built
    by hand that memorise one string a unit and are flattest of their kind.

    The trace is (2/n) times the squared output gradients, exact where the training loss is 0; at the end the full
    Hessian's trace is estimated with random probes beside it.

    What came out: the first and the last claim hold. Without biases sharpness-aware training is right on all unseen
    strings and plain descent on 0.57; with normalised features it is right on 0.96 although a memorising solution is
    just as flat (trace 2.0). `flat-memorises` stays inconclusive: the solution built by hand is flatter than all that
    training finds (22.3 against 23.5), but with biases test accuracy is 0.79 and spreads over seeds from 0.72 to 0.95,
    too widely for four judging seeds to show a loss above 0.15. Without normalised features the train loss stays
    above 0.01 at radius 0.3 in all but one run, and the networks collapse to 0 at 0.5; the radius is chosen among
    those at which every run fits.
    """

    bits: int = 30  # d, of a string
    samples: int = 100  # training strings
    hidden: int = 200  # units
    test_strings: int = 2_000  # fresh ones
    rate: float = 0.005  # learning rate of the networks without normalised features
    normalised_rate: float = 0.02  # of those with them
    steps: int = 100_000  # updates of the networks without normalised features
    normalised_steps: int = 200_000  # of those with them
    every: int = 5_000  # updates between two looks
    label_noise: float = 0.0  # standard deviation of noise on the labels, another way to flat minima
    seeds: int = 8

    varies = dict(network=KINDS, radius=(0.0, 0.1, 0.3, 0.5))  # of the step uphill; 0 is plain descent
    traced = ("radius",)
    smoke = dict(
        bits=8,
        samples=10,
        hidden=12,
        test_strings=50,
        steps=40,
        normalised_steps=40,
        every=20,
        seeds=2,
        radius=(0.0, 0.1),
    )
    paper = dict(bits=100, samples=250, hidden=500, steps=1_000_000, normalised_steps=2_000_000, every=50_000)
    watch = ("train_loss", "test_accuracy")

    def check(self) -> None:
        BooleanXor(self.bits, self.samples)
        if not set(self.network) <= set(KINDS):
            raise UserError(f"network takes plain, bias and normalised, got {self.network}.")
        if min(self.radius) < 0 or self.label_noise < 0:
            raise UserError(f"radius and label_noise take numbers from 0 on, got {self.radius}, {self.label_noise}.")
        if self.hidden < self.samples:
            raise UserError(f"hidden takes a number from samples, {self.samples}, on, got {self.hidden}.")
        if self.test_strings < 1:
            raise UserError(f"test_strings takes a whole number from 1 on, got {self.test_strings}.")
        if self.every < 1 or self.every % self.samples:
            raise UserError(f"every takes a multiple of samples, {self.samples}, got {self.every}.")
        for name in ("steps", "normalised_steps"):
            if getattr(self, name) < 1 or getattr(self, name) % self.every:
                raise UserError(f"{name} takes a multiple of every, {self.every}, got {getattr(self, name)}.")

    def learner(self, network: str, radius: Scalar) -> Learner:
        world = BooleanXor(self.bits, self.samples)
        normalised = network == "normalised"

        def trace(model: XorNets, data: XorData) -> Array:
            strings = data.inputs[0][: self.samples]
            return squared_loss_trace(lambda net: net(strings), model)

        def finish(model: XorNets, data: XorData) -> dict[str, Array]:
            strings, targets = data.inputs[0][: self.samples], data.targets[: self.samples]
            curvature = Curvature(lambda net: jnp.mean((net(strings) - targets) ** 2), model)
            found = {"hessian_trace": curvature.hutchinson(jax.random.key(0))}
            if network == "plain":
                return {**found, "built_trace": jnp.array(jnp.nan), "built_accuracy": jnp.array(jnp.nan)}
            built = memorising_flat_solution(strings, targets, self.hidden, normalised=normalised)
            right = _right(built(data.inputs[0]), data.labels)
            return {
                **found,
                "built_trace": trace(built, data),
                "built_accuracy": jnp.sum(right * data.test) / data.test.sum(),
            }

        def make(key: PRNGKeyArray) -> XorNets:
            return XorNets(self.bits, self.hidden, network, key=key)  # type: ignore[arg-type]

        return classifier(
            make,
            lambda key: world.sample(key, self.test_strings),
            optax.sgd(self.normalised_rate if normalised else self.rate),
            batch_size=1,
            epoch=self.samples,
            loss=lambda outputs, targets: (outputs - targets) ** 2,
            score=_right,
            objective=LabelNoiseSGD(self.label_noise) if self.label_noise else None,
            gradient=SAM(radius),
            steps=self.normalised_steps if normalised else self.steps,
            every=self.every,
            measure=lambda model, data: {"trace": trace(model, data)},
            final=finish,
        )

    # Claims --------------------------------------------------------------------------------------------------

    def halves(self, e: xr.Dataset, network: str) -> tuple[float, xr.Dataset, xr.Dataset]:
        """The radius with the best test accuracy on every other seed, among those that fit there; and on the other
        seeds the runs with it and with plain descent, at their last step."""
        runs = e.sel(network=network)
        runs = runs.isel(step=runs.train_loss.notnull().any(["radius", "seed"]).values.nonzero()[0])
        choosing, judging = runs.isel(seed=slice(0, None, 2)), runs.isel(seed=slice(1, None, 2))
        sharp = choosing.sel(radius=[r for r in choosing.radius.values if r > 0]).isel(step=-1)
        accuracy = sharp.test_accuracy.mean("seed")
        fits = sharp.train_loss.max("seed", skipna=False) < 0.01
        radius = float((accuracy.where(fits) if fits.any() else accuracy).idxmax())
        return radius, judging.sel(radius=radius), judging.sel(radius=0.0)

    def flatness(self, runs: xr.Dataset) -> xr.DataArray:
        """Log of the trace of the solution built by hand over the smallest that training reaches at a loss below
        0.005; NaN for a run that never gets there."""
        return log_ratio(runs.built_trace, runs.trace.where(runs.train_loss < 0.005).min("step"))

    @claim("flat-generalises")
    def flat_generalises(self, e: xr.Dataset) -> Judgement:
        radius, sam, sgd = self.halves(e, "plain")
        accuracy = mean_interval(sam.test_accuracy.isel(step=-1))
        gain = mean_interval(_last_difference(sam, sgd))
        loss = max(float(runs.train_loss.isel(step=-1).max()) for runs in (sam, sgd))
        return judge(
            accuracy,
            supported=accuracy.low > 0.95 and gain.low > 0.2 and loss < 0.01,
            refuted=accuracy.high < 0.85,
            also={"SAM minus SGD": gain},
            note=f"radius {radius:g}; largest final train loss {loss:.2g}; traces {_traces(sam)} and {_traces(sgd)}",
        )

    @claim("flat-memorises")
    def flat_memorises(self, e: xr.Dataset) -> Judgement:
        radius, sam, sgd = self.halves(e, "bias")
        plain_radius, plain, _ = self.halves(e, "plain")
        flatter = mean_interval(self.flatness(sam))
        built = mean_interval(sam.built_accuracy)
        loss = mean_interval(_last_difference(plain, sam))
        return judge(
            flatter,
            supported=flatter.high < math.log(1.02) and built.low >= 0.4 and built.high <= 0.6 and loss.low > 0.15,
            refuted=flatter.low > math.log(1.02) or loss.high < 0.1,
            also={"accuracy of the solution built by hand": built, "SAM without bias minus with bias": loss},
            note=f"radius {radius:g} with and {plain_radius:g} without bias; traces: built {_built(sam)}, SAM "
            f"{_traces(sam)}, SGD {_traces(sgd)}",
        )

    @claim("flat-memorises-yet-generalises")
    def flat_memorises_yet_generalises(self, e: xr.Dataset) -> Judgement:
        radius, sam, sgd = self.halves(e, "normalised")
        bias_radius, bias, _ = self.halves(e, "bias")
        flatter = mean_interval(self.flatness(sam))
        accuracy = mean_interval(sam.test_accuracy.isel(step=-1))
        over_sgd, over_bias = (mean_interval(_last_difference(sam, other)) for other in (sgd, bias))
        near = flatter.high < math.log(1.02)
        return judge(
            flatter,
            supported=near and accuracy.low > 0.85 and over_sgd.low > 0.15 and over_bias.low > 0.1,
            refuted=flatter.low > math.log(1.02) or accuracy.high < 0.75 or over_bias.high < 0.05,
            also={"test accuracy": accuracy, "SAM minus SGD": over_sgd, "SAM normalised minus with bias": over_bias},
            note=f"radius {radius:g}, with bias {bias_radius:g}; traces: built {_built(sam)}, SAM {_traces(sam)}, SGD "
            f"{_traces(sgd)}",
        )

    def figure(self, e: xr.Dataset) -> Any:
        fig, axes = figures.panels(e.network.size, width=3.5, height=4.4, sharey=True, squeeze=False)
        titles = {"plain": "no bias", "bias": "with bias", "normalised": "normalised features"}
        for ax, network in zip(axes[0], e.network.values, strict=True):
            cell, lost = e.sel(network=network), []
            for color, radius in zip(("0.45", *figures.COLORS), e.radius.values, strict=False):
                runs = [
                    cell.sel(radius=radius, seed=seed).dropna("step", subset=["trace"]) for seed in cell.seed.values
                ]
                fitting = [run for run in runs if run.train_loss[-1] < 0.01]
                for run in fitting:
                    ax.plot(run.trace, run.test_accuracy, color=color, lw=0.8, alpha=0.35)
                    ax.plot(run.trace[-1:], run.test_accuracy[-1:], "o", ms=6, color=color, alpha=0.8, mew=0)
                ax.plot([], [], "o-", color=color, label=f"SAM, {radius:g}" if radius else "SGD")
                if len(fitting) < len(runs):
                    lost.append(f"{len(runs) - len(fitting)} of {len(runs)} at {radius:g}")
            if lost:
                said = "not shown, as they do not fit:\n" + "\n".join(lost)
                ax.annotate(said, (0.03, 0.02), xycoords="axes fraction", size=10)
            built = cell.isel(radius=0)
            if built.built_trace.notnull().any():
                x, y = built.built_trace, built.built_accuracy
                ax.plot(x, y, "x", ms=9, mew=2.5, color="black", label="memorising,\nby hand")
            ax.set(xscale="log", xlabel="trace of the Hessian", ylim=(0.32, 1.03))
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_title(titles[str(network)])
        axes[0][0].set_ylabel("accuracy on unseen strings")
        axes[0][-1].legend(loc="upper right", handlelength=1.2)
        return fig


def _right(outputs: Float[Array, "*batch"], labels: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """1 where the sign is right, 1/2 where the output is 0."""
    return (1 + jnp.sign(outputs) * labels) / 2


def _last_difference(a: xr.Dataset, b: xr.Dataset) -> xr.DataArray:
    """Test accuracy of a minus that of b at their last steps."""
    last = [runs.test_accuracy.isel(step=-1).drop_vars(["step", "radius", "network"]) for runs in (a, b)]
    return paired_difference(*last)


def _traces(runs: xr.Dataset) -> str:
    return f"{float(runs.trace.isel(step=-1).mean()):.3g} (full Hessian {float(runs.hessian_trace.mean()):.3g})"


def _built(runs: xr.Dataset) -> str:
    return f"{float(runs.built_trace.mean()):.3g}"
