"""Wu and Papyan (2024): neural collapse of next-token features, over scale and training."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.stats import rankdata

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import bootstrap_interval, mean_interval, paired_difference, partial_spearman, spearman
from unseen.learners.language_modelling import language_modelling
from unseen.measures.neural_collapse import StreamingClassMoments, collapse_report, decisions_agree
from unseen.models import TinyLM
from unseen.worlds.language import VOCABULARY_SIZE, Language, LanguageCorpus, ShuffledWindows

Scalar = float | Float[Array, ""]
Windows = Int[Array, "windows length"]


class LinguisticCollapse(Study):
    """Neural collapse in language models (Wu and Papyan, 2024).

    Every token of the vocabulary is a class and the contexts before it are its examples. Small decoders read one
    pass of the Language corpus; at four checkpoints the class moments of their normalised last hidden states on
    training text give the four properties of collapse, and validation text gives the loss and how often classifier
    and nearest class mean agree. Control: the same with the tokens of every window shuffled, so that there is little
    to predict but frequencies.

    `variability` divides by squared distances between means (Galanti et al.). The paper's code divides by their
    square, which has units, so that with normalised features a wider model gets less of it for nothing; that is
    `damped_variability` in the evidence. Agreement is among the classes seen often enough, for both classifiers.

    What came out: collapse grows with size and goes with the loss, as in the paper. The first half of `scale` rests on
    the definition, chosen before the recorded run: divided as in the paper's code, variability falls from width to
    width but rises from depth 1 to 2, and its rank correlation with size is 0.44 [0.28, 0.60], which would be
    inconclusive; so would be `tracks-loss` (0.68, below 0.7). On shuffled text the agreement is 0 whatever the
    size: there is nothing to tell apart, and a classifier that follows frequencies does not ask for the nearest
    mean. `beyond-scale` is inconclusive, as was expected: 16 losses within 0.15 nats of one another say little of a
    link that was weak in the paper. All measures stay far from full collapse (a variability of 4, not 0), likely
    because words that fill the same places keep nearly the same mean.
    """

    tokens: int = 491_520  # of training text, read in windows
    passes: int = 1  # over the training text
    context: int = 64  # tokens that a prediction can see
    batch: int = 16  # windows in an update
    heads: int = 2  # of attention in each layer
    learning_rate: float = 1e-2  # peak of AdamW (betas 0.9 and 0.95, decay 0.1), after 2% of warm-up; cosine to a tenth
    checkpoints: int = 4  # evaluations in training, evenly apart
    measured: int = 98_304  # training tokens whose features are measured
    held_out: int = 32_768  # validation tokens, for the loss and the agreement
    minimum: int = 20  # occurrences below which a class is left out
    world: int = 0  # seed of the language; members differ in their first weights and the order of their windows
    scaled_seeds: int = 6  # seeds of every model; the smallest one, on unshuffled text, has `seeds`
    seeds: int = 16

    smoke = dict(
        width=(8, 16),
        depth=(1,),
        tokens=2_048,
        context=16,
        batch=4,
        measured=512,
        held_out=512,
        minimum=3,
        scaled_seeds=2,
        seeds=3,
    )
    paper = dict(
        width=(64, 128, 256, 512, 768, 1_024),
        depth=(1, 2, 4, 8, 12),
        heads=16,
        context=512,
        batch=64,
        tokens=32_768_000,
        passes=10,
        learning_rate=1e-3,
        measured=4_194_304,
        held_out=1_048_576,
        scaled_seeds=1,
        seeds=10,
    )
    watch = ("validation_loss", "agreement", "replicate_validation_loss")

    def check(self) -> None:
        for name in ("context", "batch", "passes", "checkpoints", "minimum", "scaled_seeds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")
        for name, least in (
            ("tokens", self.batch * self.context),
            ("measured", self.context),
            ("held_out", self.context),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name} takes a whole number from {least} on, got {getattr(self, name)}.")
        if self.updates < self.checkpoints:
            raise UserError(f"checkpoints takes a number up to that of updates, got {self.checkpoints}.")
        if not all(0 <= share <= 1 for share in self.shuffled):
            raise UserError(f"shuffled takes shares between 0 and 1, got {self.shuffled}.")
        for width, depth in itertools.product(self.width, self.depth):
            TinyLM.count(VOCABULARY_SIZE, width, depth, self.heads)

    @property
    def updates(self) -> int:
        """Of all passes; the last few that would not fill a checkpoint are left out."""
        updates = self.tokens // (self.batch * self.context) * self.passes
        return updates - updates % self.checkpoints

    def build(self, width: int, depth: int, shuffled: Scalar, every: int) -> Learner:
        corpus, keys = LanguageCorpus(Language(self.world)), jax.random.split(jax.random.key(self.world))

        def text(key: PRNGKeyArray, tokens: int, side: Literal["train", "validation"]) -> ShuffledWindows:
            windows = corpus.windows(key, tokens // self.context, self.context + 1, side)
            return ShuffledWindows(windows, jax.random.fold_in(key, 1))

        train, unseen = text(keys[0], self.tokens, "train"), text(keys[1], self.held_out, "validation")
        seen = jax.tree.map(lambda part: part[: self.measured // self.context], train)
        rate = optax.warmup_cosine_decay_schedule(
            0, self.learning_rate, max(self.updates // 50, 1), self.updates, self.learning_rate / 10
        )
        return language_modelling(
            lambda key: TinyLM(VOCABULARY_SIZE, width, depth, self.heads, key=key),
            lambda rows: train.read(rows, shuffled),
            optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=0.1)),
            count=len(train.plain),
            batch=self.batch,
            steps=self.updates,
            every=every,
            measure=lambda model: self.collapse(model, seen, unseen, shuffled),
        )

    def collapse(
        self, model: TinyLM, seen: ShuffledWindows, unseen: ShuffledWindows, shuffled: Scalar
    ) -> dict[str, Array]:
        """Moments of the classes on training text; loss and agreement on validation text."""
        classes, width = model.embedding.shape

        def moments(so_far: StreamingClassMoments, windows: Windows) -> StreamingClassMoments:
            return so_far.update(model.hidden(windows[:, :-1]).reshape(-1, width), windows[:, 1:].reshape(-1))

        found = self.sweep(seen, shuffled, moments, StreamingClassMoments.empty(classes, width))
        kept = found.count >= self.minimum

        def decide(so_far: Array, windows: Windows) -> Array:
            features, targets = model.hidden(windows[:, :-1]), windows[:, 1:]
            counted = kept[targets]
            agree = counted & decisions_agree(features, found.mean, model.embedding, kept)
            loss = model.loss(features, targets)
            return so_far + jnp.stack([loss.sum(), jnp.array(float(loss.size)), agree.sum(), counted.sum()])

        loss, tokens, agree, counted = self.sweep(unseen, shuffled, decide, jnp.zeros(4))
        report = collapse_report(found, model.embedding, minimum=self.minimum)
        return {"validation_loss": loss / tokens, "agreement": agree / counted, **report._asdict()}

    def sweep(self, text: ShuffledWindows, shuffled: Scalar, step: Callable[[Any, Windows], Any], start: Any) -> Any:
        """A fold over all of a text, a few batches of windows at a time."""
        size = min(4 * self.batch, len(text.plain))
        chunks = jnp.arange(len(text.plain) // size * size).reshape(-1, size)
        return jax.lax.scan(lambda so_far, rows: (step(so_far, text.read(rows, shuffled)), None), start, chunks)[0]

    def learner(self) -> Learner:
        """The smallest model on unshuffled text, looked at in the end."""
        learner = self.build(min(self.width), min(self.depth), 0.0, self.updates)
        return dataclasses.replace(
            learner, measure=lambda state: {f"replicate_{k}": v for k, v in learner.measure(state).items()}
        )

    @part(
        varies=dict(width=(16, 32, 48), depth=(1, 2), shuffled=(0.0, 1.0)), traced=("shuffled",), seeds="scaled_seeds"
    )
    def scaled(self, width: int, depth: int, shuffled: Scalar) -> Learner:
        """Every model, on both kinds of text."""
        return self.build(width, depth, shuffled, self.updates // self.checkpoints)

    def parameters(self, e: xr.Dataset) -> xr.DataArray:
        """Number of weights of every model."""
        sizes = [[TinyLM.count(VOCABULARY_SIZE, int(w), int(d), self.heads) for d in e.depth] for w in e.width]
        return xr.DataArray(np.array(sizes, float), coords={"width": e.width.values, "depth": e.depth.values})

    def models(self, e: xr.Dataset) -> xr.Dataset:
        """Evidence without the seeds that only the smallest model has."""
        return e.isel(seed=slice(self.scaled_seeds))

    @claim("scale")
    def scale(self, e: xr.Dataset) -> Judgement:
        last = (
            self.models(e)
            .isel(scaled_step=-1)
            .sel(shuffled=0.0)
            .assign(size=self.parameters(e))
            .stack(model=("width", "depth"))
        )
        spread = mean_interval(spearman(last.size, -last.variability, "model"))
        agreement = mean_interval(spearman(last.size, last.agreement, "model"))
        return judge(
            spread,
            supported=spread.low > 0.5 and agreement.low > 0.5,
            refuted=spread.high < 0.5 and agreement.high < 0.5,
            also={"size and agreement": agreement},
        )

    @claim("tracks-loss")
    def tracks_loss(self, e: xr.Dataset) -> Judgement:
        trained = self.models(e).isel(scaled_step=slice(1, None)).sel(shuffled=0.0)
        points = trained.assign(when=trained.scaled_step).stack(checkpoint=("width", "depth", "scaled_step"))
        correlation = mean_interval(spearman(points.variability, points.validation_loss, "checkpoint"))
        partial = mean_interval(partial_spearman(points.variability, points.validation_loss, points.when, "checkpoint"))
        return judge(
            correlation,
            supported=correlation.low > 0.7 and partial.low > 0.3,
            refuted=correlation.high < 0.5 or partial.high < 0,
            also={"given the step": partial},
        )

    @claim("beyond-scale")
    def beyond_scale(self, e: xr.Dataset) -> Judgement:
        last = e.isel(step=-1)
        both = xr.concat([last.replicate_alignment_variation, last.replicate_validation_loss], "measure")
        ci = bootstrap_interval(lambda d: spearman(d[0], d[1], "seed"), both.transpose("measure", "seed"))
        return judge(ci, supported=ci.low > 0.2, refuted=ci.high < 0.2)

    @claim("needs-language")
    def needs_language(self, e: xr.Dataset) -> Judgement:
        last = self.models(e).agreement.isel(scaled_step=-1).stack(model=("width", "depth"))
        size = self.parameters(e).stack(model=("width", "depth"))
        growth = last.isel(model=int(np.argmax(size.data))) - last.isel(model=int(np.argmin(size.data)))
        ci = mean_interval(paired_difference(growth.sel(shuffled=0.0), growth.sel(shuffled=1.0)))
        return judge(ci, supported=ci.low > 0.05, refuted=ci.high < 0.05)

    def figure(self, e: xr.Dataset) -> Any:
        fig, axes = figures.panels(2, 2, height=3.6)
        shown = {
            "variability": "spread within classes /\ndistance between them",
            "agreement": "agreement of classifier\nand nearest class mean",
            "kernel_variation": "unevenness of the means\non the sphere",
            "alignment_variation": "unevenness of the classifier's\nalignment with the means",
        }
        size = self.parameters(e)
        ranks = size.copy(data=rankdata(size.values).reshape(size.shape))
        shade = matplotlib.colormaps[figures.SEQUENTIAL]
        trained = e.isel(scaled_step=slice(1, None)).transpose("shuffled", "width", "depth", ...)
        models = list(itertools.product(e.shuffled.values[::-1], e.width.values, e.depth.values))
        for axis, (name, label) in zip(axes.ravel(), shown.items(), strict=True):
            for share, w, d in models:
                cell = trained.sel(width=w, depth=d, shuffled=share)
                place = (float(ranks.sel(width=w, depth=d)) - 1) / max(size.size - 1, 1)
                color = "0.75" if share else shade(0.9 * place)
                axis.plot(cell.validation_loss.values.ravel(), cell[name].values.ravel(), "o", ms=5, color=color, mew=0)
            axis.set(xlabel="validation loss (nats a token)", ylabel=label)
        axes[0, 0].set_yscale("log")
        for place, text in ((0.0, f"{size.min():,.0f} weights"), (0.9, f"{size.max():,.0f} weights")):
            axes[0, 1].plot([], [], "o", color=shade(place), label=text)
        if max(e.shuffled.values) > 0:
            axes[0, 1].plot([], [], "o", color="0.75", label="shuffled text")
        axes[0, 1].legend()
        return fig
