"""What became of every training example: when it was learned, how often it was forgotten."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.lab import UserError

Order = Literal["least", "most", "random"]


class Ledger(eqx.Module):
    """The notes of an `ExampleLedger`; every array has one entry an example.

    Attributes:
        first_learned: update before which the example was first seen to be right (0 is the first update);
            infinite if it never was.
        forgotten: number of forgetting events, changes from right to wrong between two presentations in a row.
        presented: number of presentations.
        right: whether the last presentation found it right.
        margin: at the last presentation, the target's logit minus the largest other; minus infinity before
            the first (NaN would count as divergence).
        update: number of updates so far.
    """

    first_learned: Float[Array, " example"]
    forgotten: Float[Array, " example"]
    presented: Float[Array, " example"]
    right: Bool[Array, " example"]
    margin: Float[Array, " example"]
    update: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class ExampleLedger:
    """Keeps a `Ledger` during training, from the predictions that every update needs anyway.

    An `observer` of `classifier`: the evidence then has first_learned, forgotten, presented and margin, over
    examples. In a training loop of your own, in whatever library:

    Example:
        >>> ledger = ExampleLedger()
        >>> notes = ledger.empty(len(labels))
        >>> for rows in batches:
        ...     logits = ...  # of the rows, before the update
        ...     notes = ledger.see(notes, rows, logits, labels[rows])
        >>> counts = forgetting_counts(notes.forgotten, notes.first_learned, notes.presented)

    An example that a batch holds twice is presented once. Source: Toneva et al. (2018, arXiv 1812.05159), section 3.
    """

    def empty(self, examples: int) -> Ledger:
        """The notes before training."""
        zero = jnp.zeros(examples)
        return Ledger(zero + jnp.inf, zero, zero, zero > 0, zero - jnp.inf, jnp.zeros((), jnp.int32))

    def init(self, data: Any) -> Ledger:
        """The notes before training on an `Examples`."""
        return self.empty(len(data.labels))

    def see(self, notes: Ledger, rows: Any, predictions: Any, targets: Any) -> Ledger:
        """The notes after one more batch.

        Args:
            rows: (batch,) indices of its examples.
            predictions: (batch, classes) logits before the update.
            targets: (batch,) classes that they are trained towards.
        """
        rows, logits, targets = (jnp.asarray(x) for x in (rows, predictions, targets))
        chosen = jax.nn.one_hot(targets, logits.shape[-1], dtype=bool)
        margin = jnp.sum(jnp.where(chosen, logits, 0), -1) - jnp.max(jnp.where(chosen, -jnp.inf, logits), -1)
        right = jnp.argmax(logits, -1) == targets
        # One gather and one scatter of whole rows: single columns cost as much each.
        table = jnp.stack([notes.first_learned, notes.forgotten, notes.presented, notes.right, notes.margin], axis=1)
        first, forgotten, presented, was_right, _ = table[rows].T
        first = jnp.where(right, jnp.minimum(first, notes.update.astype(first.dtype)), first)
        forgotten = forgotten + (was_right > 0) * ~right
        new = jnp.stack(
            [first, forgotten, presented + 1, right.astype(first.dtype), margin.astype(first.dtype)], axis=1
        )
        first, forgotten, presented, was_right, margin = table.at[rows].set(new).T
        return Ledger(first, forgotten, presented, was_right > 0, margin, notes.update + 1)

    def read(self, notes: Ledger) -> dict[str, Array]:
        """The notes by name."""
        return {name: getattr(notes, name) for name in ("first_learned", "forgotten", "presented", "margin")}


@dataclasses.dataclass(frozen=True)
class ForgettingEvents:
    """Forgetting in a record of who was right when.

    Attributes:
        forgotten: number of forgetting events of every example.
        first_learned: presentation at which it was first right, from 0 on; infinite if it never was.
        presentations: how often every example was presented.

    Source: Toneva et al. (2018), section 3; as in their code, one entry an epoch.
    """

    forgotten: Float[np.ndarray, " example"]
    first_learned: Float[np.ndarray, " example"]
    presentations: int

    @classmethod
    def of(cls, right: Any) -> ForgettingEvents:
        """From (presentations, examples) booleans: was the example classified rightly?

        Raises:
            UserError: if `right` does not have two axes or is empty.
        """
        right = np.asarray(right, dtype=bool)
        if right.ndim != 2 or not right.size:
            raise UserError(f"right takes an array of (presentations, examples), got shape {right.shape}.")
        first = np.where(right.any(0), right.argmax(0), np.inf)
        return cls((right[:-1] & ~right[1:]).sum(0).astype(float), first, len(right))

    @property
    def counts(self) -> Float[np.ndarray, " example"]:
        """Forgetting events, with `presentations` of them for what was never learned."""
        return np.asarray(forgetting_counts(self.forgotten, self.first_learned, float(self.presentations)))

    @property
    def unforgettable(self) -> Bool[np.ndarray, " example"]:
        """Learned and never forgotten."""
        return self.counts == 0


def forgetting_counts(forgotten: Any, first_learned: Any, presented: Any) -> Float[Array, "*shape"]:
    """Numbers of forgetting events that rank examples which were never learned last: these get as many as they had
    presentations, more than any other can have (the official code's rule). Average them over runs."""
    return jnp.where(jnp.isinf(jnp.asarray(first_learned)), jnp.asarray(presented), jnp.asarray(forgotten))


def prune_by_forgetting(
    counts: Float[Array, " example"],
    removed: float | Float[Array, ""],
    key: PRNGKeyArray,
    *,
    order: Order = "least",
    among: Any = None,
) -> Bool[Array, " example"]:
    """Which examples to keep when a share of them is left out.

    Args:
        counts: forgetting events (`forgetting_counts`), of one run or averaged over several.
        removed: share left out, from 0 to 1, rounded to whole examples; may be traced.
        key: for the order of examples with equal counts, most of which are never forgotten.
        order: leave out the least forgotten, the most forgotten, or any (the control).
        among: booleans: the examples that there are; the others are not kept and not counted.

    Raises:
        UserError: if `removed` is a number outside [0, 1], or `order` has another name.
    """
    if isinstance(removed, int | float) and not 0 <= removed <= 1:
        raise UserError(f"removed takes a number from 0 to 1, got {removed}.")
    signs = {"least": 1, "most": -1, "random": 0}
    if order not in signs:
        raise UserError(f"order takes one of least, most and random, got {order!r}.")
    counts = jnp.asarray(counts)
    there = jnp.ones(counts.shape, bool) if among is None else jnp.asarray(among, bool)
    rank = jnp.where(there, signs[order] * counts, jnp.inf)
    by_rank = jnp.lexsort((jax.random.uniform(key, counts.shape), rank))
    place = jnp.zeros(counts.shape, jnp.int32).at[by_rank].set(jnp.arange(len(counts)))
    return there & (place >= jnp.round(removed * there.sum()))


def memorization_score(
    logits: Float[Array, "example classes"],
    held_out: Float[Array, "example classes"],
    targets: Int[Array, " example"],
) -> Float[Array, " example"]:
    """Probability of the target that a model gives which was trained on the example, minus that which a twin gives
    which was not (Feldman, 2020): near 1 where the answer had to be memorised."""

    def probability(values: Float[Array, "example classes"]) -> Float[Array, " example"]:
        return jnp.sum(jax.nn.softmax(values) * jax.nn.one_hot(targets, values.shape[-1]), -1)

    return probability(logits) - probability(held_out)
