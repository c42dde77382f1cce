"""Feder et al. (2025): what a Bayesian mixture pays is the weight of the truth, not the size of the class."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab import Judgement, Learner, Study, UserError, artifact, claim, figures, judge, part
from unseen.lab.statistics import log_ratio, mean_interval, paired_difference, slope, spearman
from unseen.learners import classifier
from unseen.measures import (
    BayesMixture,
    count_functions,
    hypothesis_weight,
    label_divergence,
    label_probability,
    posterior_predictive,
    regret_bound,
)
from unseen.methods import SGLD
from unseen.models import BooleanNets
from unseen.worlds.clusters import BooleanTruth, NoisyBits, bit_strings, boolean_functions

Scalar = float | Float[Array, ""]
BITS = 4


class UniversalityLens(Study):
    """The regret of a mixture over all functions is minus the log weight of the truth (Feder et al., 2025).

    The hypotheses are the 65,536 Boolean functions of four bits, each as heavy as it is frequent among ReLU networks
    with normal weights. Truths of many weights are learned by the exact Bayesian mixture from labels of which a
    twentieth is inverted; measured is how many nats more than the truth it loses, for four widths and two controls:
    all functions equally heavy, and the same class with the heavy functions made light. That regret is at most minus
    the log weight is a theorem; how tight it is, whether width hurts and what small neighbourhoods add is not.

    A second part asks whether training reaches the mixture: 64 networks sampled by stochastic gradient Langevin
    dynamics, against networks that descend the same likelihood with and without the prior. The sign has no gradient,
    so there the label's probability is a steep sigmoid of the output, and the exact posterior comes from prior draws
    weighted by their likelihood.

    What came out: all four claims hold. The theorem's bound is reached to a thousandth of a nat after 200 labels.
    Under this prior only the two constants weigh 0.01 or more, so they alone are the simple truths, and sixteen times
    the units cost 0.46 nats on them. The neighbourhood is a small gain in rank correlation, 0.51 against 0.46. Of the
    distance of one descended network to the mixture the prior takes away most (0.16 to 0.01 nats), the ensemble of
    Langevin samples the rest (0.002).
    """

    flip: float = 0.05  # probability with which a label is inverted
    draws: int = 4_000_000  # networks that the weights are counted from
    truths: int = 60  # functions to learn, spread over weights
    lightest: float = 1e-5  # weight of a truth, at least
    reference_width: int = 8  # of the class that the truths are chosen from
    samples: int = 200  # labels seen one after the other
    early: int = 12  # labels at which neighbourhoods are compared
    orders: int = 8  # seeds of the mixture: orders of the data
    net_width: int = 8  # hidden units of the trained networks
    net_samples: int = 24  # labels they are trained on
    members: int = 64  # networks of an ensemble
    gain: float = 4.0  # steepness of the sigmoid
    prior_draws: int = 2_000_000  # behind the exact posterior
    batch_size: int = 8  # labels in an update
    rate: float = 2e-3  # of the Langevin steps
    updates: int = 10_000  # of the networks
    every: int = 1_000  # updates between two looks
    seeds: int = 20  # data sets that networks are trained on

    varies = dict(temperature=(1.0, 0.0), precision=(1.0, 0.0))  # noise of the steps; 1/variance of the prior
    traced = ("temperature", "precision")
    smoke = dict(
        draws=20_000,
        truths=6,
        lightest=1e-3,
        width=(4, 8),
        samples=20,
        prior_draws=2_000,
        members=8,
        updates=20,
        every=10,
        seeds=2,
    )
    paper = dict(draws=100_000_000, truths=1_000, samples=2_000, orders=20, updates=100_000, prior_draws=20_000_000)

    def check(self) -> None:
        BooleanTruth(BITS, self.flip)
        for name in ("draws", "orders", "net_samples", "members", "prior_draws", "batch_size", "reference_width"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")
        if self.truths < 2:
            raise UserError(f"truths takes a whole number from 2 on, got {self.truths}.")
        if not 1 <= self.early <= self.samples:
            raise UserError(f"early takes a number of labels from 1 to {self.samples}, got {self.early}.")
        if min(self.width) < 1:
            raise UserError(f"width takes whole numbers from 1 on, got {self.width}.")
        if not (self.rate > 0 and self.gain > 0):
            raise UserError(f"rate and gain take numbers above 0, got {self.rate} and {self.gain}.")
        if not set(self.control) <= {"uniform", "complex"}:
            raise UserError(f"control takes uniform and complex, got {self.control}.")
        if self.updates < 1 or self.every < 1 or self.updates % self.every:
            raise UserError(f"updates takes a multiple of every, {self.every}, got {self.updates}.")

    def includes(self, temperature: float, precision: float) -> bool:
        """Not noise without a prior: such a walk has no law to settle in."""
        return not (temperature > 0 and precision == 0)

    # Networks ------------------------------------------------------------------------------------------------

    def learner(self, temperature: Scalar, precision: Scalar) -> Learner:
        world, strings = BooleanTruth(BITS, self.flip), jnp.asarray(bit_strings(BITS))

        def data(key: PRNGKeyArray) -> Lesson:
            truth_key, sample_key = jax.random.split(key)
            truth = jnp.sign(BooleanNets(BITS, self.net_width, 1, key=truth_key)(strings)[:, 0])
            bits = world.sample(sample_key, truth, self.net_samples)
            at = (bits.inputs[0] @ strings.T == BITS) * bits.train[:, None]
            exact, effective = posterior_predictive(
                jax.random.key(self.first_seed),
                (bits.targets > 0) @ at,
                (bits.targets < 0) @ at,
                bits=BITS,
                width=self.net_width,
                draws=self.prior_draws,
                flip=self.flip,
                gain=self.gain,
            )
            return Lesson(bits, exact, effective)

        def surprise(outputs: Float[Array, "points members"], targets: Float[Array, " points"]) -> Array:
            return -jnp.log(label_probability(outputs * targets[:, None], self.flip, self.gain))

        def compare(model: BooleanNets, lesson: Lesson) -> dict[str, Array]:
            p = label_probability(model(strings), self.flip, self.gain)
            return {
                "ensemble_divergence": label_divergence(lesson.exact, p.mean(1)).mean(),
                "single_divergence": label_divergence(lesson.exact[:, None], p).mean(),
                "effective_draws": lesson.effective_draws,
            }

        return classifier(
            lambda key: BooleanNets(BITS, self.net_width, self.members, key=key),
            data,
            SGLD(self.rate, self.net_samples, precision=precision, temperature=temperature),
            loss=lambda outputs, targets: surprise(outputs, targets).mean(-1),
            score=None,
            # The sum: each member gets the gradient of its own loss.
            objective=lambda model, inputs, targets, _: surprise(model(*inputs), targets).sum(-1),
            batch_size=self.batch_size,
            steps=self.updates,
            every=self.every,
            measure=compare,
        )

    # The mixture ---------------------------------------------------------------------------------------------

    def weights(self, width: int) -> Float[np.ndarray, " functions"]:
        """Prior weight of every function among networks of a width."""
        counts = artifact(count_functions, {"bits": BITS, "width": width, "draws": self.draws})["counts"]
        return counts / counts.sum()

    def chosen(self) -> list[int]:
        """The truths, heaviest first: of all functions that are heavy enough, those nearest to weights that are
        spread evenly on a log scale."""
        weights = self.weights(self.reference_width)
        left = np.flatnonzero(weights >= self.lightest)
        if left.size < self.truths:
            raise UserError(f"truths takes up to {left.size} at weights from {self.lightest} on, got {self.truths}.")
        found = []
        for target in np.geomspace(weights.max(), self.lightest, self.truths):
            nearest = left[np.argmin(np.abs(np.log(weights[left] / target)))]
            found.append(int(nearest))
            left = left[left != nearest]
        return sorted(found, key=lambda i: -weights[i])

    def times(self) -> list[int]:
        """Numbers of labels at which regret is measured."""
        marks = np.geomspace(1, self.samples, 10).round().astype(int)
        return sorted({*marks.tolist(), self.early, self.samples})

    def regrets(self, key: PRNGKeyArray, prior: Float[np.ndarray, " functions"]) -> Float[Array, "truths times"]:
        """Regret of the mixture under a prior on every truth, after growing numbers of labels."""
        table = jnp.asarray(boolean_functions(BITS))
        mixture = BayesMixture(table, jnp.log(jnp.asarray(prior, jnp.float32)), self.flip)
        world, times = BooleanTruth(BITS, self.flip), np.array(self.times()) - 1

        def learn(case: tuple[Array, PRNGKeyArray]) -> Array:
            truth, key = case
            seen, labels = world.stream(key, truth, self.samples)
            tally = jnp.cumsum(seen * labels[:, None], 0)[times]
            return mixture.regret(tally, truth)

        truths = table[jnp.asarray(self.chosen())]
        return jax.lax.map(learn, (truths, jax.random.split(key, self.truths)))

    @part(varies=dict(width=(4, 8, 16, 64)), seeds="orders")
    def mixture(self, width: int) -> Learner:
        """The mixture over networks of a width; the same data for every width and control."""
        prior, chosen = self.weights(width), self.chosen()
        table = jnp.asarray(boolean_functions(BITS))
        masses = jax.lax.map(lambda truth: hypothesis_weight(table, jnp.asarray(prior), truth), table[np.array(chosen)])
        bound = jax.vmap(lambda mass: regret_bound(mass, self.early, self.flip))(masses)

        def learn(key: PRNGKeyArray) -> dict[str, Array]:
            return {
                "regret": self.regrets(key, prior),
                "minus_log_weight": -jnp.log(jnp.asarray(prior[np.array(chosen)])),
                "neighbourhood": bound,
            }

        dims = {"regret": ("truth", "labels"), "minus_log_weight": ("truth",), "neighbourhood": ("truth",)}
        return Learner.once(learn, dims=dims, coords={"truth": chosen, "labels": self.times()})

    @part(varies=dict(control=("uniform", "complex")), seeds="orders")
    def controls(self, control: str) -> Learner:
        """The mixture over all functions alike, or over the reference class with weights turned upside down."""
        weights = self.weights(self.reference_width)
        there = weights > 0
        turned = np.where(there, 1 / np.where(there, weights, 1), 0)
        prior = np.ones_like(weights) if control == "uniform" else turned
        prior = prior / prior.sum()
        return Learner.once(
            lambda key: {"control_regret": self.regrets(key, prior)},
            dims={"control_regret": ("truth", "labels")},
            coords={"truth": self.chosen(), "labels": self.times()},
        )

    # Claims --------------------------------------------------------------------------------------------------

    def ordered(self, e: xr.Dataset) -> xr.Dataset:
        """The seeds that the mixture was run with."""
        return e.isel(seed=slice(self.orders))

    @claim("regret-is-weight")
    def regret_is_weight(self, e: xr.Dataset) -> Judgement:
        runs = self.ordered(e).sel(width=8)
        final = runs.regret.isel(labels=-1)
        steepness = mean_interval(slope(runs.minus_log_weight, final, "truth"))
        below = mean_interval((runs.minus_log_weight - final).mean("truth"))
        return judge(
            steepness,
            supported=steepness.low >= 0.8 and steepness.high <= 1.2,
            refuted=steepness.high < 0.8 or steepness.low > 1.2,
            note=f"regret below the bound by {below} nats in the mean over truths",
        )

    @claim("size-harmless")
    def size_harmless(self, e: xr.Dataset) -> Judgement:
        runs = self.ordered(e)
        simple = runs.minus_log_weight.sel(width=4).isel(seed=0) <= -math.log(0.01)
        final = runs.isel(labels=-1, truth=np.flatnonzero(simple.values))
        small, large = (final.regret.sel(width=w, drop=True).mean("truth", skipna=False) for w in (4, 64))
        uniform, turned = (
            final.control_regret.sel(control=c, drop=True).mean("truth", skipna=False) for c in ("uniform", "complex")
        )
        rise, charge = mean_interval(paired_difference(large, small)), mean_interval(paired_difference(uniform, large))
        return judge(
            rise,
            supported=rise.high < 1 and charge.low > 3,
            refuted=rise.low > 1 or charge.high < 3,
            also={"uniform minus 64 units": charge},
            note=f"{int(simple.sum())} simple truths; regret on them {mean_interval(small)} at 4 units, "
            f"{mean_interval(turned)} with weights turned upside down",
        )

    @claim("neighbourhood")
    def neighbourhood(self, e: xr.Dataset) -> Judgement:
        runs = self.ordered(e).sel(width=8)
        regret = runs.regret.sel(labels=self.early)
        near, alone = (spearman(x, regret, "truth") for x in (runs.neighbourhood, runs.minus_log_weight))
        gain = mean_interval(paired_difference(near, alone))
        return judge(
            gain,
            supported=gain.low > 0,
            refuted=gain.high < 0,
            note=f"rank correlations {mean_interval(near)} and {mean_interval(alone)} at {self.early} labels",
        )

    @claim("sgld-mixture")
    def sgld_mixture(self, e: xr.Dataset) -> Judgement:
        last = e.isel(step=-1)
        sampled = last.ensemble_divergence.sel(temperature=1.0, precision=1.0, drop=True)
        descended = last.sel(temperature=0.0, precision=0.0, drop=True)
        gain = mean_interval(log_ratio(sampled, descended.single_divergence))
        rivals = {
            "one network at its best step": e.single_divergence.sel(temperature=0.0, precision=0.0).min("step"),
            "an ensemble of them": descended.ensemble_divergence,
            "one network with the prior": last.single_divergence.sel(temperature=0.0, precision=1.0),
        }
        means = ", ".join(f"{float(x.mean()):.2g} {name}" for name, x in rivals.items())
        return judge(
            gain,
            supported=gain.high < math.log(0.5),
            refuted=gain.low > math.log(0.8),
            note=f"divergence {float(sampled.mean()):.2g} sampled, {float(descended.single_divergence.mean()):.2g} one "
            f"network, {means}; at least {float(last.effective_draws.min()):,.0f} effective draws",
        )

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, right) = figures.panels(2, height=4.6)
        runs = self.ordered(e).isel(labels=-1)
        for color, marker, width in zip(figures.COLORS, figures.MARKERS, e.width.values, strict=False):
            cell = runs.sel(width=width)
            x, y = cell.minus_log_weight.isel(seed=0), cell.regret.mean("seed")
            left.plot(x, y, marker, ms=5, alpha=0.6, mew=0, color=color, label=f"{width} units")
        ends = [0, float(runs.minus_log_weight.where(np.isfinite(runs.minus_log_weight)).max())]
        left.plot(ends, ends, "-", color="black", lw=1.2, label="minus log weight")
        reference = min(e.width.values, key=lambda w: abs(w - self.reference_width))
        x = runs.minus_log_weight.sel(width=reference).isel(seed=0)
        for style, control in zip(("--", ":"), e.control.values, strict=False):
            y = runs.control_regret.sel(control=control).mean("seed")
            left.plot(x, y, style, color="0.45", lw=2, label=f"control, {control}")
        left.set(xlabel="-log weight of the truth, nats", ylabel=f"regret after {self.samples} labels, nats")
        left.set_ylim(top=1.5 * left.get_ylim()[1])
        left.legend(loc="upper right", markerscale=1.5, ncols=2)
        left.set_title("The price of a truth is its weight")

        last = e.isel(step=-1)
        cells = [
            ("one\nnetwork", last.single_divergence, 0.0, 0.0),
            ("one, with\nthe prior", last.single_divergence, 0.0, 1.0),
            ("ensemble", last.ensemble_divergence, 0.0, 0.0),
            ("Langevin\nensemble", last.ensemble_divergence, 1.0, 1.0),
        ]
        there = [c for c in cells if c[2] in e.temperature and c[3] in e.precision]
        for place, (_, values, temperature, precision) in enumerate(there):
            chosen = values.sel(temperature=temperature, precision=precision)
            figures.dots(right, place, chosen, color=figures.COLORS[1 if temperature else 0])
        right.set_xticks(range(len(there)), [name for name, *_ in there])
        right.set(yscale="log", ylabel="divergence from the exact mixture, nats")
        right.set_title("Langevin steps come near the mixture")
        return fig


class Lesson(eqx.Module):
    """A training set and what the exact mixture makes of it.

    Attributes:
        bits: the labels.
        exact: P(label 1) at every string under the posterior.
        effective_draws: behind it.
    """

    bits: NoisyBits
    exact: Float[Array, " strings"]
    effective_draws: Float[Array, ""]

    @property
    def inputs(self) -> tuple[Float[Array, "points bits"]]:
        """Strings."""
        return self.bits.inputs

    @property
    def labels(self) -> Float[Array, " points"]:
        """Right labels."""
        return self.bits.labels

    @property
    def targets(self) -> Float[Array, " points"]:
        """Noisy labels."""
        return self.bits.targets

    @property
    def train(self) -> Float[Array, " points"]:
        """Weights of the training set."""
        return self.bits.train

    @property
    def test(self) -> Float[Array, " points"]:
        """Weights of all strings."""
        return self.bits.test
