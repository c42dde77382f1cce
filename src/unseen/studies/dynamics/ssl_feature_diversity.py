"""Malviya and Sudhakar (2022): how evenly the features of self-supervised networks spread."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax
import xarray as xr
from jaxtyping import Array, PRNGKeyArray

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge
from unseen.lab.statistics import mean_interval, paired_difference, spearman
from unseen.learners import classifier, contrastive
from unseen.learners.classifier import cross_entropy
from unseen.measures import diversity_profile, linear_probe, null_diversity
from unseen.methods import Augment
from unseen.models import ConvNet
from unseen.worlds.clusters import DigitDomains, LabelledImages

TRAININGS = ("infonce", "supervised")


class SslFeatureDiversity(Study):
    """Feature diversity over layers, width and training (Malviya and Sudhakar, 2022).

    Convolutional networks of several widths and depths are trained with InfoNCE on MNIST digits at 14x14, from
    random crops, rotations and noise. Diversity of a layer is minus the log hyperspherical energy (mean inverse
    squared distance at unit length) of its position-averaged features on unseen digits: high where they spread
    evenly. Since it depends on the number and dimension of vectors alone, all claims are judged on the difference
    from random vectors of the same number and dimension. Beside it stands the error of a linear probe on the last
    convolution's features. Controls are the untrained network (step 0) and a supervised one with the same views.

    The paper takes its metric from Chen et al. (2021, arXiv 2104.02290). The first 2x2 poolings bring the maps to
    3x3; further convolutions keep that size.

    What came out: the last layer is the most diverse one at every checkpoint from the first updates on (-2.3 against
    -4.0 for the layer below); untrained networks, whose upper layers are alike, make `last-layer` inconclusive (0.91,
    not surely above 0.9). `falls-with-error` is refuted: as the probe's error falls from 0.36 to 0.17, diversity does
    not fall but rises a little (-2.6 to -2.3), with InfoNCE and with labels alike. The likely reason is that this is
    the early part of training, in which networks leave a narrow cone; whether diversity falls in long training was
    not tried. `width` is supported beyond dimension: 0.56 of the raw difference of 0.70 is left over random vectors.
    """

    train_images: int = 1_500  # digits trained on
    test_images: int = 500  # unseen digits, on which everything is measured
    embedding: int = 32  # numbers in an embedding
    learning_rate: float = 1e-3  # of Adam
    steps: int = 280  # updates
    every: int = 35  # updates between two checkpoints, whole epochs
    batch_size: int = 256  # images in an update
    crop: float = 0.5  # strengths of the augmentation, 0 to 1
    rotation: float = 0.5
    noise: float = 0.3
    draws: int = 100  # sets of random vectors behind a null value
    seeds: int = 6

    varies = dict(width=(8, 16, 32), depth=(2, 3, 4), training=TRAININGS)
    smoke = dict(
        train_images=64,
        test_images=40,
        embedding=8,
        steps=4,
        every=2,
        batch_size=32,
        draws=3,
        width=(4, 16),
        depth=(4,),
        training=("infonce",),
        seeds=2,
    )
    paper = dict(
        embedding=128, width=(32, 64, 128), depth=(4, 8, 12), steps=10_000, every=1_000, train_images=4_000, seeds=3
    )
    watch = ("probe_error",)

    def check(self) -> None:
        if unknown := set(self.training) - set(TRAININGS):
            raise UserError(f"training takes {' or '.join(TRAININGS)}, got {min(unknown)!r}.")
        for name in ("width", "depth"):
            if min(getattr(self, name)) < 1:
                raise UserError(f"{name} takes whole numbers from 1 on, got {getattr(self, name)}.")
        if self.test_images < 2 or self.draws < 1:
            raise UserError(f"test_images takes 2 or more and draws 1 or more, got {self.test_images}, {self.draws}.")

    @property
    def centre(self) -> tuple[int, int]:
        """Width and depth that the others are compared with: nearest to 16, and the deepest."""
        return min(self.width, key=lambda width: abs(width - 16)), max(self.depth)

    def includes(self, width: int, depth: int, training: str) -> bool:
        """A star: other widths and other depths with InfoNCE only."""
        moved = (width != self.centre[0]) + (depth != self.centre[1])
        return moved == 0 or (moved == 1 and training == "infonce")

    def learner(self, width: int, depth: int, training: str) -> Learner:
        augment = Augment(crop=self.crop, rotation=self.rotation, noise=self.noise)
        null = null_diversity(jax.random.key(0), self.test_images, width, draws=self.draws).mean()

        def data(key: PRNGKeyArray) -> LabelledImages:
            return LabelledImages.draw(key, DigitDomains.mnist5k(), train=self.train_images, test=self.test_images)

        def measure(net: ConvNet, data: LabelledImages) -> dict[str, Array]:
            (seen, labels), (images, answers) = data.train_side, data.test_side
            raw = diversity_profile(net.layers(images), draws=1).raw  # the null is computed once, above
            known, features = (net.maps(x).mean((1, 2)) for x in (seen, images))
            error = linear_probe(known, labels, 10).error(features, answers)
            return {"raw_diversity": raw, "diversity": raw - null, "probe_error": error}

        dims = {"raw_diversity": ("layer",), "diversity": ("layer",)}
        coords = {"layer": list(range(1, depth + 1))}
        optimizer, sizes = optax.adam(self.learning_rate), (width,) * depth
        run = dict(steps=self.steps, every=self.every, batch_size=self.batch_size, epoch=self.train_images)
        if training == "infonce":
            return contrastive(
                lambda key: ConvNet(self.embedding, widths=sizes, key=key),
                data,
                optimizer,
                augment=augment,
                measure=measure,
                dims=dims,
                coords=coords,
                **run,
            )
        supervised = classifier(
            lambda key: ConvNet(10, widths=sizes, key=key),
            data,
            optimizer,
            objective=lambda net, inputs, targets, key: cross_entropy(net(augment(key, *inputs)), targets),
            measure=measure,
            **run,
        )
        return dataclasses.replace(supervised, dims=dims, coords=coords)

    @claim("last-layer")
    def last_layer(self, e: xr.Dataset) -> Judgement:
        profile = e.diversity.sel(training="infonce", width=16, depth=4, layer=[1, 2, 3, 4])
        highest = (profile.sel(layer=4) >= profile.max("layer")).astype(float)
        share = highest.where(profile.notnull().all("layer")).mean("step", skipna=False)
        ci = mean_interval(share)
        return judge(ci, supported=ci.low > 0.9, refuted=ci.high < 0.5)

    @claim("falls-with-error")
    def falls_with_error(self, e: xr.Dataset) -> Judgement:
        run = e.sel(training="infonce", width=16, depth=4, layer=4).isel(step=slice(1, None))
        ci = mean_interval(spearman(run.probe_error, run.diversity, "step"))
        change = mean_interval(run.probe_error.isel(step=-1) - run.probe_error.isel(step=0))
        return judge(
            ci, supported=ci.low > 0.3, refuted=ci.high < 0, also={"change of probe error after the first": change}
        )

    @claim("width")
    def wider(self, e: xr.Dataset) -> Judgement:
        last = e.sel(training="infonce", depth=4, layer=4).isel(step=-1)
        pair = [last.sel(width=width) for width in (32, 8)]
        ci = mean_interval(paired_difference(*(x.diversity for x in pair)))
        raw = mean_interval(paired_difference(*(x.raw_diversity for x in pair)))
        return judge(ci, supported=ci.low > 0, refuted=ci.high < 0, also={"raw difference": raw})

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, middle, right) = figures.panels(3, height=4.4, width=4.6)
        width, depth = self.centre
        run = e.sel(width=width, depth=depth)
        for color, layer in zip(figures.COLORS[2:], range(1, depth + 1), strict=False):
            name = f"layer {layer}" + (" (last)" if layer == depth else "")
            if "infonce" in e.training:
                figures.curve(left, run.diversity.sel(training="infonce", layer=layer), color=color, label=name)
        left.set(xlabel="update", ylabel="diversity, random vectors = 0")
        left.set_title(f"Diversity by layer (width {width})")
        if "infonce" in e.training:
            left.legend(fontsize=10)
        for color, training in zip(figures.COLORS, e.training.values, strict=False):
            one = run.sel(training=training, layer=depth)
            middle.plot(one.probe_error.mean("seed"), one.diversity.mean("seed"), "o-", color=color, label=training)
            start = one.isel(step=0)
            middle.plot(start.probe_error.mean("seed"), start.diversity.mean("seed"), "s", ms=10, color=color)
        middle.set(xlabel="error of a linear probe", ylabel="diversity of the last layer")
        middle.set_title("From untrained (squares) on")
        middle.legend()
        last = e.sel(training=e.training.values[0], depth=depth, layer=depth).isel(step=-1)
        known = [w for w in e.width.values if last.diversity.sel(width=w).notnull().any()]
        for color, name, label in zip(
            figures.COLORS[4:], ("raw_diversity", "diversity"), ("raw", "minus random vectors"), strict=False
        ):
            values = last[name].sel(width=known)
            right.plot(known, values.mean("seed"), "o-", color=color, label=label)
            right.vlines(known, values.min("seed"), values.max("seed"), color=color, alpha=0.5)
        right.set(xscale="log", xlabel="width", ylabel="diversity of the last layer", xticks=known)
        right.set_xticklabels(map(str, known))
        right.minorticks_off()
        right.set_title("Diversity against width")
        right.legend()
        return fig
