"""Liu et al. (2022): the geometry of embeddings says what addition generalises to, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import bootstrap_interval, first_step, logistic_crossing, mean_interval, paired_difference
from unseen.learners import classifier
from unseen.measures.parallelograms import (
    PHASES,
    closed_parallelograms,
    effective_descent,
    freedom,
    implied_accuracy,
    parallelogram_accuracy,
    phase_of_run,
)
from unseen.models.toy_addition import NearestAnswer, ToyAdditionNet
from unseen.worlds.algorithms import PlainAddition, SumPairs

Scalar = float | Float[Array, ""]


class GrokkingEffectiveTheory(Study):
    """An effective theory of the representations that addition needs (Liu et al., 2022).

    A toy network adds the scalar embeddings of two symbols and reads the sum by a small decoder. Measured are its
    accuracy on pairs it has not seen and the share of parallelograms that its embeddings close; predicted are the
    first from the second, and the second by the descent of the effective energy from the same first embeddings on
    the same training pairs, followed to its end (no network, no training). A second part sweeps the decoder's
    learning rate and decay for the four phases; a control keeps the embeddings where they began.

    Chosen before the recorded run where the registered rules leave it open: embedding quality is the share of
    closed parallelograms as in the official code (0.01 of the embeddings' variance). Predicted test accuracy counts
    test pairs alone. A fraction's share is that of its splits whose quality is at least 0.9, and the crossing is
    that of a logistic curve. The phases are the paper's: accuracies of 0.9, a delay of 1,000 updates. Rates are in
    the paper's ratio, ten to one, and three times as large, for fewer updates. The frozen control's decoder has a
    larger rate, without which it does not fit its training pairs.

    What came out: parallelograms among the embeddings give test accuracy almost exactly (0.998, off by 0.011), and
    without trained embeddings there is none. `critical-fraction` is refuted: splits determine equal spacing from 0.39
    on, and the energy's descent gets there, but half of the trained networks only do from 0.68 on. The likely reason
    is that the decoder fits the training pairs before the embeddings have closed their parallelograms, and the pull
    on them ends with the training loss: the mean accuracy is 0.40 where the splits imply 0.60. `goldilocks` stays
    inconclusive at the edge (0.385, from 0.273 on): decay on the decoder keeps the pull alive, so that strongly
    decayed networks have well-structured embeddings and count as confused, as their decoder is held too small to fit.
    """

    symbols: int = 10  # 0 to 9, so 55 unordered pairs
    dimension: int = 1  # of the embeddings
    width: int = 100  # units in each of the decoder's two hidden layers
    outputs: int = 30  # of the decoder; each sum is a fixed Gaussian vector of that size
    decoder_learning_rate: float = 3e-4  # of Adam where it is not swept; a tenth of the embeddings', as in the paper
    frozen_decoder_rate: float = 1e-2  # of the control with frozen embeddings, which fits more with a faster decoder
    steps: int = 3_000  # updates
    every: int = 50  # updates between two evaluations
    phase_fraction: float = 0.8  # of the pairs, in the phase diagram
    phase_embedding_rate: float = 3e-3  # of the embeddings, in the phase diagram
    delay: float = 1_000.0  # updates between fitting and generalising from which on it is grokking
    phase_seeds: int = 6  # seeds of the phase diagram
    seeds: int = 16

    varies = dict(fraction=(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), embedding_rate=(0.0, 3e-3))
    traced = ("fraction", "embedding_rate")
    smoke = dict(width=16, steps=100, fraction=(0.3, 0.6, 0.8), decoder_decay=(0.0, 3.0), phase_seeds=2, seeds=3)
    paper = dict(
        width=200,
        decoder_learning_rate=1e-4,
        embedding_rate=(0.0, 1e-3),
        phase_embedding_rate=1e-3,
        steps=100_000,
        every=100,
        fraction=tuple(round(n / 55, 3) for n in (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 54)),
        decoder_rate=tuple(float(f"{10**x:.3g}") for x in np.linspace(-5, -2, 10)),
        decoder_decay=tuple(float(x) for x in range(11)),
    )
    watch = ("train_accuracy", "test_accuracy", "quality")

    def check(self) -> None:
        PlainAddition(self.symbols, self.outputs)
        if not all(0 < value < 1 for value in (*self.fraction, self.phase_fraction)):
            raise UserError(f"fraction takes numbers between 0 and 1, got {self.fraction} and {self.phase_fraction}.")
        if min(*self.embedding_rate, *self.decoder_rate, *self.decoder_decay) < 0:
            raise UserError(
                "embedding_rate, decoder_rate and decoder_decay take numbers from 0 on, got a negative one."
            )

    def includes(self, fraction: float, embedding_rate: float) -> bool:
        """Frozen embeddings at the fraction of the phase diagram, or what is nearest to it."""
        return embedding_rate > 0 or fraction == min(self.fraction, key=lambda f: abs(f - self.phase_fraction))

    def training(self, fraction: Scalar, embedding_rate: Scalar, rate: Scalar, decay: Scalar, prefix: str) -> Learner:
        """Full-batch Adam with one rate for the embeddings and another one, and decay, for the decoder."""
        world = PlainAddition(self.symbols, self.outputs)

        def network(key: PRNGKeyArray) -> NearestAnswer:
            sizes = dict(dimension=self.dimension, widths=(self.width, self.width))
            return NearestAnswer(ToyAdditionNet(self.symbols, self.outputs, key=key, **sizes))

        def measure(model: NearestAnswer, data: SumPairs) -> Mapping[str, Array]:
            return {"quality": closed_parallelograms(model.net.embedding)}

        def final(model: NearestAnswer, data: SumPairs) -> Mapping[str, Array]:
            return {f"{prefix}predicted_accuracy": parallelogram_accuracy(model.net.embedding, data.train)}

        me = classifier(
            network,
            lambda key: world.split(key, fraction),
            optax.multi_transform(
                {"embedding": optax.adam(embedding_rate), "decoder": optax.adamw(rate, weight_decay=decay)}, owners
            ),
            steps=self.steps,
            every=self.every,
            loss=distance_to_target,
            measure=measure,
            final=final,
        )
        return me if not prefix else Learner(
            init=me.init,
            advance=me.advance,
            measure=lambda state: {prefix + name: value for name, value in me.measure(state).items()},
            final=me.final,
            steps=me.steps,
            every=me.every,
        )  # fmt: skip

    def learner(self, fraction: Scalar, embedding_rate: Scalar) -> Learner:
        rate = jnp.where(embedding_rate > 0, self.decoder_learning_rate, self.frozen_decoder_rate)
        return self.training(fraction, embedding_rate, rate, 0.0, "")

    @part(varies=dict(fraction=varies["fraction"]), traced=("fraction",))
    def theory(self, fraction: Scalar) -> Learner:
        """What is known before training: from the first embeddings and the training pairs of each run."""
        me = self.training(fraction, 0.0, 0.0, 0.0, "")

        def compute(key: PRNGKeyArray) -> dict[str, Array]:
            state = me.init(key)
            end = effective_descent(state.model.net.embedding, state.data.train, jnp.inf)
            return {
                "theory_quality": closed_parallelograms(end),
                "freedom": freedom(self.symbols, state.data.train),
                "implied_accuracy": implied_accuracy(self.symbols, state.data.train),
            }

        return Learner.once(compute)

    @part(
        varies=dict(decoder_rate=(3e-4, 1e-3, 3e-3, 1e-2), decoder_decay=(0.0, 2.0, 5.0, 10.0)),
        traced=("decoder_rate", "decoder_decay"),
        seeds="phase_seeds",
    )
    def phases(self, decoder_rate: Scalar, decoder_decay: Scalar) -> Learner:
        """One cell of the phase diagram."""
        return self.training(self.phase_fraction, self.phase_embedding_rate, decoder_rate, decoder_decay, "phase_")

    def trained(self, e: xr.Dataset) -> xr.Dataset:
        """The last update of the runs whose embeddings are trained."""
        rates = [rate for rate in e.embedding_rate.values if rate > 0]
        if not rates:
            raise UserError("embedding_rate takes a number above 0 for trained embeddings, got none.")
        return e.sel(embedding_rate=rates[0]).isel(step=-1)

    def phase(self, e: xr.Dataset) -> xr.DataArray:
        """Phase of every run of the diagram, an index into PHASES."""
        fit, generalise = (
            first_step(accuracy >= 0.9, observed=accuracy.notnull(), dim="phases_step")
            for accuracy in (e.phase_train_accuracy, e.phase_test_accuracy)
        )
        return phase_of_run(fit, generalise, self.delay)

    @claim("geometry-predicts")
    def geometry_predicts(self, e: xr.Dataset) -> Judgement:
        runs = self.trained(e)
        correlation = mean_interval(xr.corr(runs.predicted_accuracy, runs.test_accuracy, "fraction"))
        difference = mean_interval(abs(runs.predicted_accuracy - runs.test_accuracy).mean("fraction", skipna=False))
        return judge(
            correlation,
            supported=correlation.low > 0.85 and difference.high < 0.15,
            refuted=correlation.high < 0.85 or difference.low > 0.15,
            also={"mean absolute difference": difference},
            note=f"mean accuracy {float(runs.test_accuracy.mean()):.2f}, predicted "
            f"{float(runs.predicted_accuracy.mean()):.2f}, at the best {float(e.implied_accuracy.mean()):.2f}",
        )

    @claim("critical-fraction")
    def critical_fraction(self, e: xr.Dataset) -> Judgement:
        cells = xr.Dataset({"trained": self.trained(e).quality, "theory": e.theory_quality})[["trained", "theory"]]

        def crossing(quality: xr.DataArray) -> float:
            share = (quality >= 0.9).mean("seed")
            return float(logistic_crossing(share.fraction, share, "fraction"))

        ci = bootstrap_interval(lambda d: crossing(d.trained) - crossing(d.theory), cells)
        unique = (e.freedom == 0).mean("seed")
        return judge(
            ci,
            supported=ci.low > -0.12 and ci.high < 0.12,
            refuted=ci.low > 0.12 or ci.high < -0.12,
            note=f"trained {crossing(cells.trained):.2f}, theory {crossing(cells.theory):.2f}, unique solution "
            f"{float(logistic_crossing(unique.fraction, unique, 'fraction')):.2f}",
        )

    @claim("goldilocks")
    def goldilocks(self, e: xr.Dataset) -> Judgement:
        phase, quality = self.phase(e), e.phase_quality.isel(phases_step=-1)
        cells = xr.Dataset({"inside": phase <= 1, "outside": phase >= 2, "quality": quality})
        cells = cells.sel(seed=phase.seed[phase.notnull().all([d for d in phase.dims if d != "seed"])])

        def contrast(d: xr.Dataset) -> float:
            return float(d.quality.where(d.inside).mean() - d.quality.where(d.outside).mean())

        counts = {name: int((phase == i).sum()) for i, name in enumerate(PHASES)}
        enough = min(int(cells.inside.sum()), int(cells.outside.sum())) >= 5
        ci = bootstrap_interval(contrast, cells)
        return judge(
            ci,
            supported=enough and ci.low > 0.3,
            refuted=enough and ci.high < 0.3,
            note=", ".join(f"{count} {name}" for name, count in counts.items()),
        )

    @claim("trainable-embeddings")
    def trainable_embeddings(self, e: xr.Dataset) -> Judgement:
        at = e.sel(fraction=0.8).isel(step=-1)
        trained, frozen = self.trained(e).sel(fraction=0.8).drop_vars("embedding_rate"), at.sel(embedding_rate=0.0)
        frozen = frozen.drop_vars("embedding_rate")
        gain = mean_interval(paired_difference(trained.test_accuracy, frozen.test_accuracy))
        fitted = {name: mean_interval(runs.train_accuracy) for name, runs in (("trained", trained), ("frozen", frozen))}
        both = all(ci.estimate >= 0.95 for ci in fitted.values())
        return judge(
            gain,
            supported=both and gain.low > 0.3,
            refuted=both and gain.high < 0.1,
            also={f"train accuracy, {name}": ci for name, ci in fitted.items()},
        )

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, right) = figures.panels(2, width=5.2, height=4.5)
        runs = e.isel(step=-1)
        seen, theory = figures.COLORS[0], figures.COLORS[1]
        if any(rate > 0 for rate in self.embedding_rate):
            runs = self.trained(e)
            left.plot(runs.fraction, runs.test_accuracy.mean("seed"), "o-", color=seen, label="trained")
            ends = (runs.test_accuracy.quantile(q, "seed") for q in (0.25, 0.75))
            left.fill_between(runs.fraction, *ends, color=seen, alpha=0.18, lw=0)
            left.plot(runs.fraction, runs.predicted_accuracy.mean("seed"), "s--", color=theory,
                      label="from its parallelograms")  # fmt: skip
        left.plot(e.fraction, e.implied_accuracy.mean("seed"), ":", color="black", label="implied by the split alone")
        if 0.0 in self.embedding_rate:
            frozen = e.test_accuracy.sel(embedding_rate=0.0).isel(step=-1).mean("seed").dropna("fraction")
            left.plot(frozen.fraction, frozen, "X", ms=11, color="0.45", label="frozen embeddings")
        left.set(xlabel="share of pairs trained on", ylabel="accuracy on unseen pairs", ylim=(-0.03, 1.03))
        left.legend(loc="upper left")
        left.set_title("Geometry says what generalises")

        phase = self.phase(e).transpose("decoder_decay", "decoder_rate", "seed")
        quality = e.phase_quality.isel(phases_step=-1).transpose("decoder_decay", "decoder_rate", "seed")
        shades = {"comprehension": 2, "grokking": 5, "memorization": 0, "confusion": 3}
        for i, decay in enumerate(phase.decoder_decay.values):
            for j, rate in enumerate(phase.decoder_rate.values):
                cell = phase.isel(decoder_decay=i, decoder_rate=j).dropna("seed").values.astype(int)
                counts = np.bincount(cell, minlength=4) / max(cell.size, 1)
                bottom = i - 0.48
                for name, share in zip(PHASES, counts, strict=True):
                    right.bar(j, 0.96 * share, 0.96, bottom, color=figures.COLORS[shades[name]], alpha=0.65, lw=0)
                    bottom += 0.96 * share
                mean = float(quality.sel(decoder_decay=decay, decoder_rate=rate).mean())
                right.annotate(f"{mean:.1f}", (j, i), ha="center", va="center", size=15)
        for name, shade in shades.items():
            right.bar(0, 0, color=figures.COLORS[shade], alpha=0.65, label=name)
        right.set_xticks(range(phase.sizes["decoder_rate"]), [f"{x:g}" for x in phase.decoder_rate.values])
        right.set_yticks(range(phase.sizes["decoder_decay"]), [f"{x:g}" for x in phase.decoder_decay.values])
        right.set(xlabel="decoder's learning rate", ylabel="decoder's weight decay")
        right.grid(False)
        right.set_title("Phases; numbers: embedding quality")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        return fig


def distance_to_target(scores: Float[Array, "*batch sums"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Mean squared distance to the answer of the target."""
    return -jnp.sum(scores * jax.nn.one_hot(targets, scores.shape[-1]), axis=-1)


def owners(parameters: Any) -> Any:
    """Whose rate each parameter has: the embedding's or the decoder's."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "embedding" if "embedding" in jax.tree_util.keystr(path) else "decoder", parameters
    )
