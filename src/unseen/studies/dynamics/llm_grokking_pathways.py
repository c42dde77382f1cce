"""Li et al. (2025): the paths of training samples through a mixture of experts, as a sign of generalization."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import (
    EventTimes,
    bootstrap_interval,
    first_step,
    mean_interval,
    paired_difference,
    spearman,
)
from unseen.learners import classifier
from unseen.learners.classifier import cross_entropy
from unseen.measures.pathways import local_grokking_onset, pathway_consistency, pathway_distance
from unseen.models.sparse_moe import SparseMoE, choices, load_balance
from unseen.worlds.algorithms import ModularArithmetic

Scalar = float | Float[Array, ""]
DOMAINS = ("add", "subtract")


class Tables(eqx.Module):
    """One operation table or several, each with its own outputs, as grids of all pairs.

    Attributes:
        labels: results, numbered on from table to table.
        targets: the labels of training pairs, -1 for the others.
        train, test: 1 for the pairs of the side, 0 for the others.
        watched: places of training pairs of each table (row by row) whose pathways are recorded.
    """

    labels: Int[Array, "tables p p"]
    targets: Int[Array, "tables p p"]
    train: Float[Array, "tables p p"]
    test: Float[Array, "tables p p"]
    watched: Int[Array, "tables samples"]

    @property
    def inputs(self) -> tuple[Float[Array, "p 1 p"], Float[Array, "1 p p"], Float[Array, "tables 1 1 tables"]]:
        """Operands and table as one-hot vectors, in shapes that broadcast to all pairs."""
        one_hot = jnp.eye(self.labels.shape[-1])
        return one_hot[:, None], one_hot[None], jnp.eye(len(self.labels))[:, None, None]


class LLMGrokkingPathways(Study):
    """Do the pathways of training samples tell when a mixture of experts generalises? (Li et al., 2025)

    A small mixture of experts with top-1 routing is trained on part of an operation table, long after its training
    loss has settled. Measured from training pairs alone: the mean edit distance between their pathways, and the
    consistency of a pathway over layers. They are compared with test accuracy, for three shares of the table, for
    a table without structure (which is memorised in the same way and cannot be generalised), and for two operations
    learned by one network.

    The paper's own setting, one pass through a language corpus, is not reproduced here: only the stage after the
    loss has settled. Chosen before the recorded run where the registered rules leave it open: a choice of an expert
    is a letter that names its layer, and the distance is over the number of layers. The training loss has settled at
    the first evaluation with train accuracy of at least 0.98. A distance that rises instead of falling is a
    negative fall; half of its way counts whatever the direction. A time that is not reached enters ranks as later
    than all others, and differences of times as the horizon.

    Pilots (seeds 0 to 3) at the registered rate of 3e-3 never generalised within the registered 2,400 updates,
    whatever the first weights, the decay (1 to 3) and the normalisation; a single expert did. The rate of 1e-2 with
    first weights of 0.3 is the one of those tried that generalises from 60% of the table, and was chosen by that.

    What came out: addition is generalised from late (13 of 18 runs, at update 1,000 to 2,000), and pathways hardly
    notice. Their distance stays near 0.74 of a highest possible 0.75 for four experts taken alike, where the
    balance loss holds it, on addition as on the table without structure: it falls by 0.035 on the one and rises by
    0.016 on the other, where the paper's claim asks for a difference of 0.1. What little fall there is comes with
    test accuracy (0.66), not so surely more than the training loss does (0.40). When distances have made half of
    their fall says nothing of when test accuracy rises (`not-a-clock`, -0.13), nor whose it is (`asynchronous`).
    All four claims are inconclusive. The likely reason is the load-balance loss with four experts: pathways that
    must be spread evenly over all pairs cannot become alike.
    """

    modulus: int = 31  # p
    width: int = 48  # of the residual stream
    experts: int = 4  # in each block, of which a sample takes one
    hidden: int = 32  # units of an expert
    blocks: int = 2  # of experts
    balance: float = 0.01  # weight of the load-balance loss
    initial: float = 0.3  # factor on all first weights but the routers'
    learning_rate: float = 1e-2  # of full-batch AdamW with betas 0.9 and 0.98, gradients clipped at norm 1
    weight_decay: float = 1.0
    steps: int = 2_400  # updates
    every: int = 40  # updates between two checkpoints
    samples: int = 300  # training pairs whose pathways are recorded
    control_fraction: float = 0.6  # of the table without structure
    first_share: float = 0.75  # of the first of two tables
    second_share: float = 0.5  # of the second of two tables
    seeds: int = 6

    varies = dict(fraction=(0.55, 0.6, 0.7), structure=(True, False))
    traced = ("fraction",)
    smoke = dict(modulus=7, width=12, hidden=8, steps=80, every=20, samples=10, fraction=(0.55, 0.6), seeds=2)
    # All experts are computed for all pairs: 64 of 1,024 units, as in OLMoE, would take a terabyte at this modulus.
    paper = dict(width=128, experts=16, hidden=128, blocks=8, modulus=113, steps=100_000, every=1_000, seeds=3)
    watch = ("train_accuracy", "test_accuracy", "distance")

    def check(self) -> None:
        shares = (*self.fraction, self.control_fraction, self.first_share, self.second_share)
        if not all(0 < share < 1 for share in shares):
            raise UserError(f"fraction and shares take numbers between 0 and 1, got {shares}.")
        most = int(min(shares) * self.modulus**2)
        if not 2 <= self.samples <= most:
            raise UserError(f"samples takes a whole number from 2 to the {most} training pairs, got {self.samples}.")
        if self.blocks < 2:
            raise UserError(f"blocks takes a whole number from 2 on, got {self.blocks}.")
        if self.steps < 1 or self.steps % self.every:
            raise UserError(f"steps takes a multiple of every, {self.every}, got {self.steps}.")

    def includes(self, fraction: float, structure: bool) -> bool:
        """The table without structure at one share, or what is nearest to it."""
        return structure or fraction == min(self.fraction, key=lambda f: abs(f - self.control_fraction))

    def tables(self, key: PRNGKeyArray, operations: tuple[str, ...], shares: tuple[Scalar, ...]) -> Tables:
        """Training and held-out pairs of all tables."""
        p, watch = self.modulus, jax.random.fold_in(key, 1)
        keys = jax.random.split(key, len(operations))
        splits = [
            ModularArithmetic(p, name).split(k, share)
            for name, k, share in zip(operations, keys, shares, strict=True)
        ]  # fmt: skip
        train, test = (jnp.stack([getattr(split, side) for split in splits]) for side in ("train", "test"))
        labels = jnp.stack([split.labels + i * p for i, split in enumerate(splits)])
        order = jnp.where(train > 0, jax.random.uniform(watch, train.shape), jnp.inf).reshape(len(splits), -1)
        watched = jnp.argsort(order, axis=-1)[:, : self.samples]
        return Tables(labels, jnp.where(train > 0, labels, -1), train, test, watched)

    def training(self, operations: tuple[str, ...], shares: tuple[Scalar, ...]) -> Learner:
        """Full-batch AdamW on some tables at once."""
        p, count = self.modulus, len(operations)
        sizes = dict(
            width=self.width, experts=self.experts, hidden=self.hidden, blocks=self.blocks, initial=self.initial
        )

        def objective(net: SparseMoE, inputs: Any, targets: Array, key: PRNGKeyArray) -> Array:
            logits, routes = net.routed(*inputs)
            # Held-out pairs must not take part in the balance either.
            return cross_entropy(logits, targets) + self.balance * load_balance(routes, (targets >= 0) * 1.0)

        return classifier(
            lambda key: SparseMoE((p, p, count), p * count, key=key, **sizes),
            lambda key: self.tables(key, operations, shares),
            optax.chain(
                optax.clip_by_global_norm(1.0),
                optax.adamw(self.learning_rate, b1=0.9, b2=0.98, weight_decay=self.weight_decay),
            ),
            steps=self.steps,
            every=self.every,
            objective=objective,
            measure=self.pathways,
        )

    def pathways(self, model: SparseMoE, data: Tables) -> dict[str, Array]:
        """Distance and consistency of the watched training pairs' pathways, and accuracies, table by table."""
        logits, routes = model.routed(*data.inputs)
        right = (jnp.argmax(logits, -1) == data.labels).astype(jnp.float32)
        routers = jnp.stack([block.router.T for block in model.blocks])
        routes = routes.reshape(len(routes), len(data.labels), -1, self.experts)
        watched = jnp.take_along_axis(routes, data.watched[None, :, :, None], axis=2)  # block, table, sample, expert
        weights = jax.nn.softmax(watched) * jax.nn.one_hot(choices(watched), self.experts)
        distance = jax.vmap(pathway_distance)(jnp.moveaxis(choices(watched), 0, -1))
        consistency = jax.vmap(lambda w: pathway_consistency(w, routers).mean(), in_axes=1)(weights)
        train, test = (
            (right * side).sum((1, 2)) / side.sum((1, 2)) for side in (data.train, data.test)
        )  # fmt: skip
        return {"distance": distance, "consistency": consistency, "own_train": train, "own_test": test}

    def learner(self, fraction: Scalar, structure: bool) -> Learner:
        me = self.training(("add" if structure else "random",), (fraction,))

        def measure(state: Any) -> dict[str, Array]:
            found = dict(me.measure(state))
            return {name: value.squeeze() for name, value in found.items() if not name.startswith("own")}

        return dataclasses.replace(me, measure=measure)

    @part()
    def domains(self) -> Learner:
        """One network for two operations with different shares of their tables."""
        me = self.training(DOMAINS, (self.first_share, self.second_share))
        names = {"distance": "two_distance", "consistency": "two_consistency", "own_train": "two_train_accuracy",
                 "own_test": "two_test_accuracy"}  # fmt: skip

        def measure(state: Any) -> dict[str, Array]:
            found = me.measure(state)
            return {new: found[old] for old, new in names.items()}

        return dataclasses.replace(
            me, measure=measure, dims=dict.fromkeys(names.values(), ("domain",)), coords={"domain": DOMAINS}
        )

    # Readings ----------------------------------------------------------------------------------------------------

    def runs(self, e: xr.Dataset, structure: bool) -> xr.Dataset:
        """The runs on one kind of table at the control's share, or what is nearest to it."""
        near = min(self.fraction, key=lambda f: abs(f - self.control_fraction))
        return e.sel(structure=structure, fraction=near).reset_coords(["structure", "fraction"], drop=True)

    def settled(self, runs: xr.Dataset) -> EventTimes:
        """When the training loss has settled: train accuracy of 0.98."""
        return first_step(runs.train_accuracy >= 0.98, observed=runs.train_accuracy.notnull())

    def fall(self, runs: xr.Dataset) -> xr.DataArray:
        """Pathway distance where the loss has settled minus that of the last five checkpoints."""
        start = self.settled(runs)
        first = runs.distance.where(runs.step == start.time).max("step")
        return (first - runs.distance.isel(step=slice(-5, None)).mean("step")).where(start.reached)

    def follow(self, runs: xr.Dataset, score: xr.DataArray) -> xr.DataArray:
        """|rank correlation| of a score with test accuracy after the loss has settled, for each seed."""
        start = self.settled(runs)
        found = []
        for seed in runs.seed.values:
            late = runs.step[(runs.step >= start.time.sel(seed=seed)).values]
            if not bool(start.reached.sel(seed=seed)) or late.size < 3:
                found.append(np.nan)
                continue
            one, test = score.sel(seed=seed, step=late), runs.test_accuracy.sel(seed=seed, step=late)
            found.append(abs(float(spearman(one, test, "step"))))
        return xr.DataArray(found, dims="seed", coords={"seed": runs.seed})

    @claim("paths-converge")
    def paths_converge(self, e: xr.Dataset) -> Judgement:
        table, control = self.fall(self.runs(e, True)), self.fall(self.runs(e, False))
        ci = mean_interval(paired_difference(table, control))
        return judge(
            ci,
            supported=ci.low > 0.1,
            refuted=ci.high < 0.05,
            note=f"fall on addition {mean_interval(table)}, on the random table {mean_interval(control)}",
        )

    @claim("tracks-test")
    def tracks_test(self, e: xr.Dataset) -> Judgement:
        runs = self.runs(e, True)
        distance, loss = self.follow(runs, runs.distance), self.follow(runs, runs.train_loss)
        more, value = mean_interval(paired_difference(distance, loss)), mean_interval(distance)
        return judge(
            more,
            supported=more.low > 0.1 and value.low > 0.7,
            refuted=more.high < 0 or value.high < 0.5,
            also={"correlation of the distance": value},
            note=f"of the training loss {mean_interval(loss)}, of the consistency "
            f"{mean_interval(self.follow(runs, runs.consistency))}",
        )

    @claim("not-a-clock")
    def not_a_clock(self, e: xr.Dataset) -> Judgement:
        runs = e.sel(structure=True).reset_coords("structure", drop=True)
        onset = local_grokking_onset(runs.distance, self.settled(runs)).time_or_inf
        test = first_step(runs.test_accuracy >= 0.5, observed=runs.test_accuracy.notnull()).time_or_inf
        times = xr.Dataset({"onset": onset, "test": test}).transpose("fraction", "seed")

        def correlation(d: xr.Dataset) -> float:
            x, y = (xr.DataArray(d[name].values.ravel(), dims="run") for name in ("onset", "test"))
            return float(spearman(x, y, "run"))

        ci = bootstrap_interval(correlation, times)
        late = int(np.isinf(test).sum())
        return judge(
            ci, supported=ci.low > 0.5, refuted=ci.high < 0.3, note=f"{late} of {test.size} runs do not generalise"
        )

    @claim("asynchronous")
    def asynchronous(self, e: xr.Dataset) -> Judgement:
        two = xr.Dataset(
            {"train_accuracy": e.two_train_accuracy, "test": e.two_test_accuracy, "distance": e.two_distance}
        ).rename(domains_step="step")
        onset = np.log(local_grokking_onset(two.distance, self.settled(two)).time)
        generalises = first_step(two.test >= 0.5, observed=two.test.notnull())
        test = np.log(generalises.time)
        other = onset.roll(domain=1, roll_coords=False)
        closer = mean_interval((abs(other - test) - abs(onset - test)).mean("domain", skipna=False))
        apart = mean_interval(abs(test.isel(domain=0, drop=True) - test.isel(domain=1, drop=True)))
        return judge(
            closer,
            supported=closer.low > 0 and apart.low > math.log(1.3),
            refuted=closer.high < 0 or apart.high < math.log(1.3),
            also={"log ratio of the two onsets": apart},
            note=f"{generalises.censored} of {test.size} onsets not by the end",
        )

    def figure(self, e: xr.Dataset) -> Any:
        fig, axes = figures.panels(2, height=4.6, sharey=True)
        for ax, structure, title in ((axes[0], True, "Addition"), (axes[1], False, "A table without structure")):
            ax.set(xlabel="update", title=title, ylim=(-0.05, 1.05))
            if structure not in self.structure:
                continue
            runs = self.runs(e, structure)
            start = self.settled(runs)
            if bool(start.reached.any()):
                ax.axvline(float(start.time.where(start.reached).median()), color="0.6", lw=1.4)
            figures.curve(ax, runs.train_accuracy, color="0.45", lw=1.4, label="training accuracy")
            figures.curve(ax, runs.test_accuracy, color=figures.COLORS[1], label="test accuracy")
            figures.curve(ax, runs.distance, color=figures.COLORS[0], label="distance between pathways")
            figures.curve(ax, runs.consistency, color=figures.COLORS[2], ls="--", label="consistency of a pathway")
        axes[0].set_ylabel("score or accuracy")
        handles, labels = axes[0 if True in self.structure else 1].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=2)
        return fig
