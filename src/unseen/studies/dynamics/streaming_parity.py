"""van Rossem and Saxe (2025): how a network that saw short strings comes to compute parity of any."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import Judgement, Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.statistics import Interval, bootstrap_interval, mean_interval, paired_difference, proportion_interval
from unseen.learners.classifier import classifier
from unseen.measures.automata import AutomatonExtraction, count_states, machine_size, merger_pairs, minimised
from unseen.models.string_tree import StreamingRNN, TreeReader
from unseen.worlds.algorithms.automata import Automaton, StringTree

Scalar = float | Float[Array, ""]
PAPER = 0.1  # gain of the first weights in the official code


class Strings(eqx.Module):
    """All strings up to a length as examples: their numbers in the tree, and the classes to be said after them.

    Attributes:
        number: of the string; 0 is the empty one, which nobody is asked about.
        labels, targets: the class.
        train, test: 1 for strings that are trained on (and are what train accuracy is of).
    """

    number: Int[Array, " strings"]
    labels: Int[Array, " strings"]
    targets: Int[Array, " strings"]
    train: Float[Array, " strings"]
    test: Float[Array, " strings"]

    @property
    def inputs(self) -> tuple[Int[Array, " strings"]]:
        """The model's arguments."""
        return (self.number,)


class StreamingParity(Study):
    """Parity of strings of any length, learnt from short ones (van Rossem and Saxe, 2025).

    A rectified recurrent network reads bits and says after the last one whether the ones were even. It is trained by
    gradient descent on the squared error of all strings of length 1 to M, from small or from large first weights
    (Glorot's deviation times the gain), and tested on random strings a hundred times longer and more. Its hidden
    vectors after all training strings are merged where they are closer than a hundredth of their spread, and the
    machine that they form is minimised. The control has random labels on the same strings.

    As in the official code the network starts from a vector of ones, and the empty string, which no one trains on,
    counts as even when the machine is read off; and an update sees all strings of one length, which is drawn at
    random here and goes round there. An output that has overflowed counts as a guess.

    The registered rules call a gain of 0.5 small, where the official code has 0.1. Pilots (seeds 5 and 6) showed that
    states merge at 0.1 and hardly at 0.5, so both are run: claims are judged at 0.5 as registered, and the notes and
    the figure show the same at 0.1.

    What came out: the paper's account holds for the paper's first weights and not for those that were registered as
    small. At gain 0.1 accuracy at length 1,000 jumps from chance to one between M = 3 and M = 4 in every run, the
    states shrink to a fifth of the strings and the minimal machine at M = 6 has two states in six runs of eight,
    while random labels leave every string a state of its own (an excess of 0.80). At gain 0.5 networks generalise
    too, from M = 5 or 6 on, but over twelve runs hardly any states come within a hundredth of the spread, so
    `automaton` and `needs-finite-machine` are refuted and `abrupt` is inconclusive (the jump is spread over M = 5
    and 6). The likely reason: what the first weights put into a hidden vector beyond the parity does not decay at
    this gain; it is merely ignored by the read-out, so a machine at 1% is too fine to be the one that computes.
    """

    width: int = 64  # hidden units
    learning_rate: float = 0.02  # of gradient descent without momentum
    steps: int = 15_000  # updates
    control_steps: int = 30_000  # updates of the control with random labels
    looks: int = 15  # evaluations during training
    tested_to: int = 1_000  # length of the random strings of the test
    test_strings: int = 64  # how many of them
    tolerance: float = 0.01  # distance at which states have merged, in units of their spread

    varies = dict(longest=(2, 3, 4, 5, 6), gain=(0.1, 0.5, 1.0))
    traced = ("longest", "gain")
    smoke = dict(width=8, steps=60, control_steps=60, looks=3, tested_to=20, test_strings=8, longest=(2, 3), seeds=2)
    paper = dict(
        width=100, steps=100_000, control_steps=200_000, looks=100, tested_to=10_000,
        longest=(2, 4, 6, 8, 10), gain=(0.1, 0.3, 0.5, 0.7, 1.0),
    )  # fmt: skip
    watch = ("train_accuracy", "states")

    def check(self) -> None:
        if min(self.longest) < 1:
            raise UserError(f"longest takes lengths from 1 on, got {min(self.longest)}.")
        if max(self.longest) > 12:
            raise UserError(f"longest takes lengths up to 12, since all strings are read, got {max(self.longest)}.")
        if self.tested_to <= max(self.longest):
            raise UserError(f"tested_to takes a length above the longest, {max(self.longest)}, got {self.tested_to}.")
        for name in ("steps", "control_steps"):
            if getattr(self, name) < 1 or getattr(self, name) % self.looks:
                raise UserError(f"{name} takes a multiple of looks, {self.looks}, got {getattr(self, name)}.")
        if min(self.gain) <= 0:
            raise UserError(f"gain takes numbers above 0, got {min(self.gain)}.")

    def includes(self, longest: int, gain: float) -> bool:
        """The largest first weights with the two longest training sets only."""
        return gain < max(self.gain) or len(self.gain) == 1 or longest in sorted(self.longest)[-2:]

    def learner(self, longest: int | Int[Array, ""], gain: Scalar) -> Learner:
        return self.trained(longest, gain, self.steps, lambda key, tree: Automaton.parity().tree_outputs(tree.depth))

    @part(
        varies=dict(gain=varies["gain"]),
        traced=("gain",),
        includes=lambda self, gain: gain < max(self.gain) or len(self.gain) == 1,
    )
    def control(self, gain: Scalar) -> Learner:
        """Random labels on the strings of the largest training set."""

        def labels(key: PRNGKeyArray, tree: StringTree) -> Int[Array, " strings"]:
            return jax.random.bernoulli(key, 0.5, (tree.size,)).astype(int)

        learner = self.trained(max(self.longest), gain, self.control_steps, labels)
        read, final = learner.measure, learner.final
        return dataclasses.replace(
            learner,
            measure=lambda state: {f"control_{name}": value for name, value in read(state).items()},
            final=lambda state: {"control_share_of_states": final(state)["share_of_states"]} if final else {},
            dims={},
            coords={},
        )

    def trained(self, longest: Any, gain: Scalar, steps: int, labels: Any) -> Learner:
        """Training on all strings up to a length, which may be traced, with the labels that a key gives."""
        tree = StringTree(2, max(self.longest))
        asked = jnp.arange(1, tree.size) < tree.up_to(longest)
        train = jnp.append(jnp.zeros(1), asked.astype(float))

        def data(key: PRNGKeyArray) -> Strings:
            classes = labels(key, tree)
            return Strings(jnp.arange(tree.size), classes, classes, train, train)

        def drawn(model: TreeReader, inputs: Any, targets: Any, key: PRNGKeyArray) -> Float[Array, " strings"]:
            # All strings are read, since they share their prefixes; those of one length count.
            length = 1 + jnp.floor(jax.random.uniform(key) * longest)
            share = (tree.lengths == length) / 2.0**length
            return squared_error(model(*inputs), targets) * share * jnp.sum(train)

        learner = classifier(
            lambda key: TreeReader(StreamingRNN(2, self.width, 2, gain=gain, key=key), 2, tree.depth),
            data,
            optax.sgd(self.learning_rate),
            steps=steps,
            every=steps // self.looks,
            loss=squared_error,
            objective=drawn,
            measure=lambda model, seen: self.states(model, seen),
            final=lambda model, seen: self.at_the_end(model, seen, tree),
        )

        def measure(state: Any) -> dict[str, Array]:
            found = dict(learner.measure(state))
            return {name: value for name, value in found.items() if not name.startswith("test_")}

        lengths = list(range(1, self.tested_to + 1))
        return dataclasses.replace(
            learner,
            measure=measure,
            dims={"long_accuracy": ("length",)},
            coords={"length": lengths},
        )

    def states(self, model: TreeReader, seen: Strings) -> dict[str, Array]:
        """How many states the training strings are in, and which pairs have merged."""
        asked = seen.train > 0
        hidden = model.hidden
        same, other = merger_pairs(hidden, seen.labels, tolerance=self.tolerance, there=asked)
        count = count_states(hidden, tolerance=self.tolerance, there=asked)
        return {"states": count, "merged_same": same, "merged_other": other}

    def at_the_end(self, model: TreeReader, seen: Strings, tree: StringTree) -> dict[str, Array]:
        """The minimal machine, and accuracy on long random strings by length."""
        known = (seen.train > 0).at[0].set(True)  # with the empty string, where every run of the machine begins
        outputs = jnp.argmax(model(seen.number), -1).at[0].set(0)
        machine = AutomatonExtraction(2, tree.depth, self.tolerance)(model.hidden, outputs, known)
        asked = seen.train > 0
        states = count_states(model.hidden, tolerance=self.tolerance, there=asked)
        key = jax.random.key(0)  # the same test strings for every run
        bits = jax.random.bernoulli(key, 0.5, (self.tested_to, self.test_strings)).astype(int)

        def step(carry: tuple[Array, Array], bit: Int[Array, " strings"]) -> tuple[tuple[Array, Array], Array]:
            hidden, parity = carry
            parity = (parity + bit) % 2
            _, hidden = jax.vmap(model.rnn.step)(hidden, jax.nn.one_hot(bit, 2))
            answer = model.rnn.answers(hidden)
            right = jnp.where(jnp.isfinite(answer).all(-1), jnp.argmax(answer, -1) == parity, 0.5)
            return (hidden, parity), right.mean()

        start = jnp.ones((self.test_strings, self.width)), jnp.zeros(self.test_strings, int)
        _, accuracy = jax.lax.scan(step, start, bits)
        return {
            "long_accuracy": accuracy,
            "share_of_states": states / jnp.sum(asked),
            "minimal_states": machine_size(minimised(machine)),
        }

    def runs(self, e: xr.Dataset) -> xr.Dataset:
        """What the claims read of each parity run."""
        return xr.Dataset(
            {
                "accuracy": e.long_accuracy.sel(length=self.tested_to, drop=True),
                "fitted": e.train_accuracy.isel(step=-1, drop=True) >= 0.99,
                "train_accuracy": e.train_accuracy.isel(step=-1, drop=True),
                "share_of_states": e.share_of_states,
                "minimal_states": e.minimal_states,
            }
        )

    def at_the_papers(self, e: xr.Dataset, say: Callable[[float], str]) -> str:
        """What a claim would read at the official code's gain, for its note."""
        return f"at gain {PAPER:g}: {say(PAPER)}" if PAPER in e.gain.values else ""

    @claim("abrupt")
    def abrupt(self, e: xr.Dataset) -> Judgement:
        def jump(gain: float) -> tuple[Interval, int, Interval, float]:
            runs = self.runs(e).sel(gain=gain, longest=[2, 3, 4, 5, 6])
            largest = bootstrap_interval(lambda a: a.mean("seed", skipna=False).diff("longest").max(), runs.accuracy)
            before = int(runs.longest[int(runs.accuracy.mean("seed").diff("longest").argmax("longest"))])
            train = runs.train_accuracy.sel(longest=before).mean("seed", skipna=False)
            return largest, before, mean_interval(runs.accuracy.sel(longest=6)), float(train)

        effect, before, last, fitted = jump(0.5)
        return judge(
            effect,
            supported=effect.low > 0.35 and last.low > 0.95 and fitted > 0.99,
            refuted=effect.high < 0.25 or last.high < 0.9,
            also={"accuracy at M = 6": last},
            note=f"the jump follows M = {before}, where train accuracy is {fitted:.3f}; "
            + self.at_the_papers(e, lambda gain: "{} after M = {}".format(*jump(gain))),
        )

    @claim("automaton")
    def automaton(self, e: xr.Dataset) -> Judgement:
        def machines(*gains: float) -> tuple[Interval, Interval, str]:
            runs = self.runs(e).sel(gain=list(gains))
            general, failing = (runs.fitted & right for right in (runs.accuracy >= 0.99, runs.accuracy < 0.99))
            two = proportion_interval(int(((runs.minimal_states == 2) & general).sum()), int(general.sum()))
            logs, cells = np.log(runs.share_of_states), ("longest", "gain")
            ratio = mean_interval(paired_difference(logs.where(failing).mean(cells), logs.where(general).mean(cells)))
            unfitted = int((~runs.fitted & runs.train_accuracy.notnull()).sum())
            count = f"{int(general.sum())} runs generalise, {int(failing.sum())} fit only, {unfitted} do not fit"
            return two, ratio, count

        share, ratio, count = machines(0.5, 1.0)
        return judge(
            share,
            supported=share.low > 0.9 and ratio.low > math.log(2),
            refuted=share.high < 0.7 or ratio.high < 0,
            also={"log ratio of relative state counts": ratio},
            note=f"{count}; "
            + self.at_the_papers(e, lambda gain: "share {}, log ratio {}, {}".format(*machines(gain))),
        )

    @claim("small-weights")
    def small_weights(self, e: xr.Dataset) -> Judgement:
        runs = self.runs(e).sel(longest=[5, 6])

        def gain_of(small: float) -> tuple[Interval, str]:
            a, b = (runs.sel(gain=gain, drop=True) for gain in (small, 1.0))
            both = a.fitted & b.fitted
            found = mean_interval((a.accuracy - b.accuracy).where(both).mean("longest"))
            return found, f"{int(both.sum())} of {both.size} pairs fit"

        ci, count = gain_of(0.5)
        note = f"{count}; " + self.at_the_papers(e, lambda gain: "{}, {}".format(*gain_of(gain)))
        return judge(ci, supported=ci.low > 0.2, refuted=ci.high < 0.1, note=note)

    @claim("needs-finite-machine")
    def needs_finite_machine(self, e: xr.Dataset) -> Judgement:
        def excess(gain: float) -> tuple[Interval, str]:
            parity = self.runs(e).sel(longest=6, gain=gain, drop=True)
            control = e.sel(gain=gain, drop=True)
            fits = control.control_train_accuracy.isel(control_step=-1, drop=True) >= 0.99
            share = control.control_share_of_states.where(fits)
            found = mean_interval(paired_difference(share, parity.share_of_states.where(parity.fitted)))
            return found, f"{int(fits.sum())} controls fit"

        ci, count = excess(0.5)
        note = f"{count}; " + self.at_the_papers(e, lambda gain: "{}, {}".format(*excess(gain)))
        return judge(ci, supported=ci.low > 0.3, refuted=ci.high < 0.1, note=note)

    def figure(self, e: xr.Dataset) -> Any:
        fig, (left, right) = figures.panels(2, height=4.6)
        for i, gain in enumerate(e.gain.values):
            color = figures.COLORS[i % len(figures.COLORS)]
            accuracy = e.long_accuracy.isel(length=-1).sel(gain=gain).dropna("longest", how="all")
            share = e.share_of_states.sel(gain=gain).dropna("longest", how="all")
            for ax, values in ((left, accuracy), (right, share)):
                x = values.longest.values + 0.09 * (i - (e.gain.size - 1) / 2)
                ax.plot(x, values.mean("seed"), "-", color=color, label=f"gain {gain:g}")
                for seed in values.seed.values:
                    ax.plot(x, values.sel(seed=seed), "o", ms=5, alpha=0.45, mew=0, color=color)
            if "control_share_of_states" in e:
                control = e.control_share_of_states.sel(gain=gain)
                if control.notnull().any():
                    at = float(e.longest.max()) + 0.45 + 0.25 * i
                    figures.dots(right, at, control, color=color, width=0.08)
        if "control_share_of_states" in e:
            right.axvline(float(e.longest.max()) + 0.3, color="0.5", ls=":", lw=1.5)
            right.annotate("random\nlabels", (0.985, 0.42), xycoords="axes fraction", ha="right", color="0.3", size=12)
        left.axhline(0.5, color="0.5", ls=":", lw=1.5)
        left.set(ylabel=f"accuracy at length {self.tested_to:,}", ylim=(0.35, 1.03))
        left.set_title("Any length, or none")
        right.set(ylabel="distinct states / training strings", ylim=(-0.03, 1.05))
        right.set_title("States merge from small first weights")
        for ax in (left, right):
            ax.set(xlabel="longest training string", xticks=e.longest.values)
            ax.legend(loc="lower left" if ax is right else "center left")
        return fig


def squared_error(outputs: Float[Array, "*batch classes"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Mean over the outputs of the squared distance to the one-hot target."""
    return jnp.square(outputs - jax.nn.one_hot(targets, outputs.shape[-1])).mean(-1)
