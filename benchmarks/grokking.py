"""Grokking as a population, against the same network in PyTorch one run after the other, with the accuracy reached.

    python -m benchmarks.grokking [--write]

Addition mod 31, 45% of the table, full-batch AdamW without and with weight decay: 8 seeds of each, 16 runs. The same
architecture, the same number of updates and of evaluations on both sides.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.clock import Lap, interleave, timed
from benchmarks.engine_side import own_home, population
from benchmarks.population import best_threads, rows_of
from benchmarks.report import Result, command
from benchmarks.tasks import tensor
from unseen.models import QuadraticMLP
from unseen.studies.dynamics.grokking import GrokkingStudy
from unseen.worlds.algorithms import ModularArithmetic, PairSplit

FRACTION = 0.45


def the_study(tiny: bool = False) -> GrokkingStudy:
    """`grokking` as recorded, in two of its conditions."""
    small = dict(modulus=7, width=8, steps=8, every=4, seeds=2) if tiny else dict(seeds=8)
    cells = dict(operation=("add",), train_fraction=(FRACTION,), weight_decay=(0.0, 1.0))
    return GrokkingStudy(**{**cells, **small}, first_seed=0)


class TorchQuadratic(nn.Module):
    """`unseen.models.QuadraticMLP` on lists of operands, with the same law of first weights."""

    def __init__(self, p: int, width: int):
        super().__init__()
        self.left = nn.Parameter(torch.randn(p, width) / (2 * p) ** 0.5)
        self.right = nn.Parameter(torch.randn(p, width) / (2 * p) ** 0.5)
        self.out = nn.Parameter(torch.randn(width, p) / width**0.5)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Logits of one-hot operands; the hidden layer of a grid of pairs comes from its two margins."""
        return torch.square(a @ self.left + b @ self.right) @ self.out

    def load(self, model: QuadraticMLP) -> None:
        """Copy the weights of the JAX model."""
        with torch.no_grad():
            for name in ("left", "right", "out"):
                getattr(self, name).copy_(tensor(getattr(model, name)))


class TorchGrokking:
    """The same with PyTorch: eager, fused AdamW. Updates see the training pairs alone, which costs less than half of
    the whole table that the population computes; evaluations see the table."""

    def __init__(self, study: GrokkingStudy):
        self.study, p = study, study.modulus
        left, right = torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij")
        self.pairs = [functional.one_hot(x.flatten(), p).float() for x in (left, right)]
        self.labels = tensor(ModularArithmetic(p, "add").labels()).long().flatten()

    def split(self, seed: int) -> torch.Tensor:
        """Which pairs a run is trained on, drawn as in the study."""
        key = jax.random.split(jax.random.key(seed), 3)[1]
        return tensor(self.drawn(key).train).flatten() > 0

    def drawn(self, key: Any) -> PairSplit:
        return ModularArithmetic(self.study.modulus, "add").split(key, FRACTION)

    def run(self, seed: int, decay: float, network: TorchQuadratic | None = None) -> list[dict[str, float]]:
        """One run: what is measured before the first update and after every `every`."""
        study = self.study
        torch.manual_seed(seed)
        network = network or TorchQuadratic(study.modulus, study.width)
        optimizer = torch.optim.AdamW(
            network.parameters(), study.learning_rate, betas=(0.9, 0.98), weight_decay=decay, fused=True
        )
        train = self.split(seed)
        seen, labels = [x[train] for x in self.pairs], self.labels[train]
        history = [self.measure(network, train)]
        for _ in range(study.steps // study.every):
            for _ in range(study.every):
                optimizer.zero_grad(set_to_none=True)
                functional.cross_entropy(network(*seen), labels).backward()
                optimizer.step()
            history.append(self.measure(network, train))
        return history

    @torch.inference_mode()
    def measure(self, network: TorchQuadratic, train: torch.Tensor) -> dict[str, float]:
        logits = network(*self.pairs)
        loss = functional.cross_entropy(logits, self.labels, reduction="none")
        right = (logits.argmax(-1) == self.labels).float()
        sides = {"train": train, "test": ~train}
        losses = {f"{name}_loss": loss[side].mean().item() for name, side in sides.items()}
        return losses | {f"{name}_accuracy": right[side].mean().item() for name, side in sides.items()}


def reached(last: dict[float, list[float]]) -> list[str]:
    """Median of the last test accuracies of each condition, with the extremes."""
    return [f"{np.median(v):.2f} ({min(v):.2f} to {max(v):.2f})" for _, v in sorted(last.items())]


def of_evidence(study: GrokkingStudy, blocks: dict[str, dict[str, np.ndarray]]) -> dict[float, list[float]]:
    """Last test accuracies of the population by weight decay."""
    from unseen.lab.engine import plan

    found: dict[float, list[float]] = {decay: [] for decay in study.weight_decay}
    for block in plan(study)[0]:
        values = blocks[block.name]["series/test_accuracy"]
        for (_, traced), series in zip(block.members, values, strict=False):
            found[float(traced["weight_decay"])].append(float(series[-1]))
    return found


def measure(tiny: bool = False) -> Result:
    """Both sides in turns, and where their runs ended."""
    study = the_study(tiny)
    peer, runs = TorchGrokking(study), len(study.weight_decay) * study.seeds
    seeds, repeats = (1, 1) if tiny else (4, 3)
    last: dict[str, dict[float, list[float]]] = {"ours": {}, "theirs": {d: [] for d in study.weight_decay}}
    short = TorchGrokking(the_study(True) if tiny else GrokkingStudy(steps=200, every=20))
    count, words = best_threads(lambda seed: short.run(seed, 1.0))

    def ours() -> Lap:
        blocks: dict[str, dict[str, np.ndarray]] = {}
        lap = population(study, blocks)
        last["ours"] = of_evidence(study, blocks)
        return lap

    def theirs() -> Lap:
        torch.set_num_threads(count)

        def all_runs() -> None:
            for decay in study.weight_decay:
                ends = [peer.run(seed, decay)[-1]["test_accuracy"] for seed in range(seeds)]
                last["theirs"][decay] = ends

        return Lap(timed(all_runs) * study.seeds / seeds, share=seeds / study.seeds)

    with own_home():
        found = interleave({f"unseen, {runs} in one population": ours, "PyTorch, one after the other": theirs}, repeats)
    rows = [[*row, *reached(last[side])] for row, side in zip(rows_of(found), last, strict=True)]
    notes = [
        f"{runs} runs of {study.steps:,} updates, evaluated every {study.every}: quadratic network of width "
        f"{study.width} on addition mod {study.modulus}, {FRACTION:.0%} of the table, full-batch AdamW. "
        f"{repeats} interleaved repeats, median (smallest to largest). Accuracies are those of the last "
        "evaluation, median (smallest to largest) over seeds; first weights differ between the two sides, "
        "training pairs do not.",
        f"Of the runs one after the other {seeds} seeds of {study.seeds} were run and their time multiplied by "
        f"{study.seeds // seeds}. PyTorch runs eagerly with the fused optimizer, on the training pairs alone; "
        f"the population computes the whole table and weights it. {words}",
    ]
    return Result("grokking", "Grokking, two conditions", COLUMNS, rows, notes, ("torch", "optax", "equinox"))


COLUMNS = (
    "",
    "time of all runs",
    "times the population's",
    "set-up",
    "test accuracy, no decay",
    "test accuracy, decay 1",
)


if __name__ == "__main__":
    command(__doc__, measure)
