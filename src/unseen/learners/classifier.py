"""Supervised training by gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from unseen.lab.learner import Learner

Model = TypeVar("Model", bound=eqx.Module)
Objective = Callable[[Any], Float[Array, ""]]


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
    """The state of one seed: model, optimizer and randomness; its data too where each seed has its own."""

    model: PyTree
    optimizer: PyTree
    key: PRNGKeyArray
    data: PyTree


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
    loss: Callable[[Any, Any], Array] = cross_entropy,
    score: Callable[[Any, Any], Array] | None = accuracy,
    gradient: Callable[[Objective, Model, PRNGKeyArray], Model] | None = None,
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
        loss: (predictions, targets) -> loss of each example.
        score: (predictions, targets) -> accuracy of each example; None where there is no such thing.
        gradient: (objective, model, key) -> gradient at the model, for methods that look at more than one
            point (sharpness-aware steps) or disturb the weights; by default the plain gradient.
        measure, final: (model, data) -> further measures, at each evaluation and at the end.
    """
    draw = data if callable(data) else lambda _: None
    gradient = gradient or (lambda objective, model, _: eqx.filter_grad(objective)(model))

    def init(key: PRNGKeyArray) -> Training:
        model_key, data_key, key = jax.random.split(key, 3)
        net = model(model_key)
        return Training(net, optimizer.init(eqx.filter(net, eqx.is_inexact_array)), key, draw(data_key))

    def examples(state: Training) -> Any:
        return data if state.data is None else state.data

    def update(state: Training, _: None) -> tuple[Training, None]:
        key, batch_key, gradient_key = jax.random.split(state.key, 3)
        seen = examples(state)
        inputs, targets, weights = seen.inputs, seen.targets, seen.train
        if batch_size is not None:
            rows = _rows(batch_key, weights, batch_size)
            inputs = jax.tree.map(lambda x: x[rows], inputs)
            targets, weights = targets[rows], jnp.ones(batch_size)

        def objective(net: Any) -> Float[Array, ""]:
            return weighted_mean(loss(net(*inputs), targets), weights)

        gradients = gradient(objective, state.model, gradient_key)
        parameters = eqx.filter(state.model, eqx.is_inexact_array)
        updates, opt = optimizer.update(gradients, state.optimizer, parameters)
        return Training(eqx.apply_updates(state.model, updates), opt, key, state.data), None

    def advance(state: Training) -> Training:
        dynamic, static = eqx.partition(state, eqx.is_array)

        def step(dynamic: Any, _: None) -> tuple[Any, None]:
            after, _ = update(eqx.combine(dynamic, static), None)
            return eqx.filter(after, eqx.is_array), None

        return eqx.combine(jax.lax.scan(step, dynamic, length=every)[0], static)

    def evaluate(state: Training) -> dict[str, Array]:
        seen = examples(state)
        predictions = state.model(*seen.inputs)
        sides = {"train": (seen.targets, seen.train), "test": (seen.labels, seen.test)}
        measures = dict(measure(state.model, seen)) if measure else {}
        for side, (y, w) in sides.items():
            measures[f"{side}_loss"] = weighted_mean(loss(predictions, y), w)
            if score is not None:
                measures[f"{side}_accuracy"] = weighted_mean(score(predictions, y), w)
        return measures

    return Learner(
        init=init,
        advance=advance,
        measure=evaluate,
        final=(lambda state: final(state.model, examples(state))) if final else None,
        steps=steps,
        every=every,
    )


def _rows(key: PRNGKeyArray, weights: Float[Array, " examples"], count: int) -> Int[Array, " count"]:
    """Indices drawn with replacement in proportion to the weights, by the inverse of their running sum."""
    reached = jnp.cumsum(weights)
    drawn = jax.random.uniform(key, (count,), maxval=reached[-1])
    return jnp.searchsorted(reached, drawn, side="right")
