"""Supervised training by gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from unseen.lab import Learner, UserError

Model = TypeVar("Model", bound=eqx.Module)


@runtime_checkable
class Objective(Protocol):
    """The mean training loss of one update's batch: what a `gradient` hook of `classifier` differentiates."""

    def __call__(self, model: Any, rows: Int[Array, " rows"] | None = None) -> Float[Array, ""]:
        """Loss at `model` of the whole batch, or of some of its rows only."""
        ...


@runtime_checkable
class Observer(Protocol):
    """Looks at every batch as it is trained on, for records that evaluations in between would miss."""

    def init(self, data: Any) -> PyTree:
        """What is known before the first update: a pytree of arrays."""
        ...

    def see(self, notes: PyTree, rows: Array, predictions: Any, targets: Any) -> PyTree:
        """The notes after one batch: indices of its examples, what the model says of them before the update, and
        what it should say."""
        ...

    def read(self, notes: PyTree) -> Mapping[str, Array]:
        """What the notes amount to, by name."""
        ...


@runtime_checkable
class Examples(Protocol):
    """What `classifier` needs of a dataset: any equinox module with these attributes.

    Attributes:
        inputs: the model's arguments, whose batch axes broadcast to the shape of `labels`.
        labels: right answers, what test accuracy is measured against.
        targets: what is trained on, and what train accuracy is measured against (label noise included).
        train, test: non-negative weights of the examples on the two sides, 0 for those on the other.
    """

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The model's arguments."""
        ...

    labels: Array
    targets: Array
    train: Array
    test: Array


class Training(eqx.Module):
    """The state of one seed: model, optimizer and randomness; its data too where each seed has its own, and an
    observer's notes."""

    model: PyTree
    optimizer: PyTree
    key: PRNGKeyArray
    data: PyTree
    notes: PyTree = None


def cross_entropy(logits: Float[Array, "*batch classes"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """-log softmax(logits)[target] of each example, in nats; the target is picked by a product, no gather."""
    chosen = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(logits * chosen, axis=-1)


def accuracy(logits: Float[Array, "*batch classes"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """1 where the largest logit is the target's, else 0; NaN where a logit is NaN."""
    right = (jnp.argmax(logits, axis=-1) == targets).astype(logits.dtype)
    return jnp.where(jnp.isnan(logits).any(axis=-1), jnp.nan, right)


def weighted_mean(values: Float[Array, "*batch"], weights: Float[Array, "*batch"]) -> Float[Array, ""]:
    """Mean of the values under non-negative weights; NaN if all weights are 0."""
    return jnp.sum(values * weights) / jnp.sum(weights)


def classifier(
    model: Callable[[PRNGKeyArray], Model],
    data: Examples | Callable[[PRNGKeyArray], Examples],
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    every: int,
    batch_size: int | None = None,
    epoch: int | None = None,
    loss: Callable[[Any, Any], Array] = cross_entropy,
    score: Callable[[Any, Any], Array] | None = accuracy,
    objective: Callable[[Any, tuple[Any, ...], Any, PRNGKeyArray], Array] | None = None,
    gradient: Callable[[Objective, Model, PRNGKeyArray], Model] | None = None,
    settle: Callable[[Model, Any], Model] | None = None,
    observer: Observer | None = None,
    measure: Callable[[Model, Any], Mapping[str, Array]] | None = None,
    final: Callable[[Model, Any], Mapping[str, Array]] | None = None,
) -> Learner:
    """Supervised training of any equinox model by any optax optimizer.

    Measured: train_loss, test_loss, train_accuracy, test_accuracy, and what `measure` adds.

    Args:
        model: key -> equinox module, called as `model(*data.inputs)` on a whole batch; wrap a model of single
            examples in `jax.vmap`. Its inexact arrays are trained.
        data: an `Examples` that all seeds share, or key -> `Examples` where each seed draws its own.
        optimizer: an optax transformation; clipping, filtering and gradient noise are further links of its
            chain. Its numbers may be traced values.
        steps, every: number of updates in all and between two measurements.
        batch_size: examples in an update, drawn with replacement from the training weights; None for all of
            them. Needs inputs that do not broadcast: one leading axis of examples.
        epoch: number of training examples: batches are then drawn without replacement, in a new order every
            epoch of `epoch // batch_size` updates (what is left over waits for the next). Takes training
            weights of 0 and 1 of which `epoch` are 1, and `every` in whole epochs.
        loss: (predictions, targets) -> loss of each example.
        score: (predictions, targets) -> accuracy of each example; None where there is no such thing.
        objective: (model, inputs, targets, key) -> loss of each example of the batch, what is trained instead of
            `loss`, for methods that mix, augment, attack or relabel their batch.
        gradient: (objective, model, key) -> gradient at the model, for methods that look at more than one
            point (sharpness-aware steps), at parts of the batch (`objective(model, rows)`) or disturb the
            weights; by default the plain gradient.
        settle: (model, data) -> the model that is evaluated: batch-norm statistics of the training set, averaged
            weights. What it adds is not trained.
        observer: keeps a record of every batch; what it reads at the end is in the evidence.
        measure, final: (model, data) -> further measures, at each evaluation and at the end.

    Raises:
        UserError: if `epoch` comes without a batch size that fits into it, or `every` holds no whole epochs.
    """
    if epoch is not None:
        if batch_size is None or not 0 < batch_size <= epoch:
            raise UserError(f"batch_size takes a whole number from 1 to the {epoch} of an epoch, got {batch_size}.")
        if every % (epoch // batch_size):
            raise UserError(f"every takes whole epochs of {epoch // batch_size} updates each, got {every}.")
    draw = data if callable(data) else lambda _: None
    gradient = gradient or (lambda objective, model, _: eqx.filter_grad(objective)(model))
    trained = objective or (lambda net, inputs, targets, _: loss(net(*inputs), targets))

    def init(key: PRNGKeyArray) -> Training:
        model_key, data_key, key = jax.random.split(key, 3)
        net = model(model_key)
        state = Training(net, optimizer.init(eqx.filter(net, eqx.is_inexact_array)), key, draw(data_key))
        if observer is None:
            return state
        return eqx.tree_at(lambda s: s.notes, state, observer.init(examples(state)), is_leaf=lambda x: x is None)

    def examples(state: Training) -> Any:
        return data if state.data is None else state.data

    def update(state: Training, rows: Int[Array, " batch"] | None) -> Training:
        """One step on the given rows, on rows drawn with replacement, or on everything."""
        key, batch_key, gradient_key = jax.random.split(state.key, 3)
        seen = examples(state)
        inputs, targets, weights = seen.inputs, seen.targets, seen.train
        if rows is None and batch_size is not None:
            rows = _rows(batch_key, weights, batch_size)
        if rows is not None:
            inputs, targets, weights = *jax.tree.map(lambda x: x[rows], (inputs, targets)), jnp.ones(rows.shape)
        noise = jax.random.fold_in(gradient_key, 0)

        def batch_loss(net: Any, some: Int[Array, " rows"] | None = None) -> Float[Array, ""]:
            part = (inputs, targets, weights)
            part = part if some is None else jax.tree.map(lambda x: x[some], part)
            return weighted_mean(trained(net, *part[:2], noise), part[2])

        notes = state.notes
        if observer is not None:
            rows = jnp.arange(targets.shape[0]) if rows is None else rows
            notes = observer.see(notes, rows, state.model(*inputs), targets)
        gradients = gradient(batch_loss, state.model, gradient_key)
        parameters = eqx.filter(state.model, eqx.is_inexact_array)
        updates, opt = optimizer.update(gradients, state.optimizer, parameters)
        return Training(eqx.apply_updates(state.model, updates), opt, key, state.data, notes)

    def advance(state: Training) -> Training:
        # A shared dataset is closed over; one that each seed has of its own does not change: neither is carried.
        carried, still = eqx.partition(state, eqx.is_array)
        carried, still = (
            eqx.tree_at(lambda s: s.data, part, state.data if keep else None, is_leaf=lambda x: x is None)
            for part, keep in ((carried, False), (still, True))
        )

        def step(carried: Any, rows: Any) -> tuple[Any, None]:
            after = update(eqx.combine(carried, still), rows)
            after = eqx.tree_at(lambda s: s.data, after, None, is_leaf=lambda x: x is None)
            return eqx.filter(after, eqx.is_array), None

        def pass_over(carried: Any, _: None) -> tuple[Any, None]:
            state = eqx.combine(carried, still)
            order_key, key = jax.random.split(state.key)
            order = _order(order_key, examples(state).train, epoch, batch_size)
            return jax.lax.scan(step, eqx.tree_at(lambda s: s.key, carried, key), order)

        if epoch is None or batch_size is None:
            carried, _ = jax.lax.scan(step, carried, length=every)
        else:
            carried, _ = jax.lax.scan(pass_over, carried, length=every // (epoch // batch_size))
        return eqx.combine(carried, still)

    def settled(state: Training) -> Any:
        return settle(state.model, examples(state)) if settle else state.model

    def evaluate(state: Training) -> dict[str, Array]:
        seen, net = examples(state), settled(state)
        predictions = net(*seen.inputs)
        sides = {"train": (seen.targets, seen.train), "test": (seen.labels, seen.test)}
        measures = dict(measure(net, seen)) if measure else {}
        for side, (y, w) in sides.items():
            measures[f"{side}_loss"] = weighted_mean(loss(predictions, y), w)
            if score is not None:
                measures[f"{side}_accuracy"] = weighted_mean(score(predictions, y), w)
        return measures

    def finish(state: Training) -> dict[str, Array]:
        read = dict(observer.read(state.notes)) if observer else {}
        return read | (dict(final(settled(state), examples(state))) if final else {})

    return Learner(
        init=init,
        advance=advance,
        measure=evaluate,
        final=finish if final or observer else None,
        steps=steps,
        every=every,
    )


def _order(key: PRNGKeyArray, train: Float[Array, " examples"], epoch: int, batch: int) -> Int[Array, "batches batch"]:
    """Indices of the `epoch` examples of weight 1 in random order, in batches; what is left over is not in it."""
    shuffled = jnp.argsort(jnp.where(train > 0, jax.random.uniform(key, train.shape), jnp.inf))
    batches = epoch // batch
    return shuffled[: batches * batch].reshape(batches, batch)


def _rows(key: PRNGKeyArray, weights: Float[Array, " examples"], count: int) -> Int[Array, " count"]:
    """Indices drawn with replacement in proportion to the weights, by the inverse of their running sum."""
    reached = jnp.cumsum(weights)
    drawn = jax.random.uniform(key, (count,), maxval=reached[-1])
    return jnp.searchsorted(reached, drawn, side="right")
