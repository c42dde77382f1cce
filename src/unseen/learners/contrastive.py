"""Self-supervised training from two views of every image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab import Learner
from unseen.learners.classifier import Examples, Training, classifier
from unseen.measures.hypersphere import unit

Embeddings = Float[Array, "batch width"]


def info_nce(a: Embeddings, b: Embeddings, *, temperature: float = 0.2) -> Float[Array, " batch"]:
    """Cross-entropy of recognising the other view of an example among the other views of the whole batch.

    Embeddings are brought to unit length; each view is asked for the other in turn. With one negative (a batch
    of two) it is a logistic loss of the difference between the two similarities.

    Source: van den Oord et al. (2018, arXiv 1807.03748), equation 4, in the symmetric form of Radford et al. (2021).
    """
    similarity = unit(a) @ unit(b).T / temperature
    positive = jnp.diagonal(similarity)
    return (jax.nn.logsumexp(similarity, 0) + jax.nn.logsumexp(similarity, 1)) / 2 - positive


def cross_correlation(a: Embeddings, b: Embeddings, *, weight: float = 0.005) -> Float[Array, " batch"]:
    """Distance of the cross-correlation matrix of the two views from the identity; the same number for every
    example, since it belongs to the batch.

    Source: Zbontar et al. (2021, arXiv 2103.03230), equation 1; `weight` is its lambda, on the redundancy term.
    """

    def standard(z: Embeddings) -> Embeddings:
        return (z - z.mean(0)) * jax.lax.rsqrt(z.var(0) + 1e-6)

    correlation = standard(a).T @ standard(b) / a.shape[0]
    diagonal = jnp.diagonal(correlation)
    redundant = jnp.square(correlation).sum() - jnp.square(diagonal).sum()
    return jnp.broadcast_to(jnp.square(1 - diagonal).sum() + weight * redundant, a.shape[:1])


def alignment_loss(a: Embeddings, b: Embeddings) -> Float[Array, " batch"]:
    """Squared distance of the two views at unit length, and nothing that keeps examples apart: a control, whose
    optimum is one point for all of them."""
    return jnp.square(unit(a) - unit(b)).sum(-1)


def contrastive(
    encoder: Callable[[PRNGKeyArray], eqx.Module],
    data: Examples | Callable[[PRNGKeyArray], Examples],
    optimizer: optax.GradientTransformation,
    *,
    augment: Callable[[PRNGKeyArray, Array], Array],
    steps: int,
    every: int,
    loss: Callable[[Embeddings, Embeddings], Float[Array, " batch"]] = info_nce,
    batch_size: int = 256,
    epoch: int | None = None,
    measure: Callable[[Any, Any], Mapping[str, Array]] | None = None,
    final: Callable[[Any, Any], Mapping[str, Array]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> Learner:
    """Training of an encoder so that two random views of an image agree; labels are never looked at.

    It is `classifier` with another objective, so what holds there holds here: batches, epochs, its `Training` as
    state. Measured is only what `measure` and `final` say: read-outs are in `unseen.measures` (`NearestCentre`,
    `linear_probe`, `nearest_neighbours`).

    Args:
        encoder: key -> equinox module, called as `model(images)` on a whole batch.
        data: `Examples` whose one input is the images.
        augment: (key, images) -> one random view of each.
        loss: (embeddings of one view, of the other) -> loss of each example.
        measure, final: (model, data) -> measures, at each evaluation and at the end.
        dims, coords: of measures that are arrays, as in `Learner`.
        optimizer, steps, every, batch_size, epoch: as in `classifier`.
    """

    def objective(model: Any, inputs: tuple[Any, ...], _: Any, key: PRNGKeyArray) -> Float[Array, " batch"]:
        views = [augment(k, *inputs) for k in jax.random.split(key)]
        return loss(*jnp.split(model(jnp.concatenate(views)), 2))

    trained = classifier(
        encoder,
        data,
        optimizer,
        steps=steps,
        every=every,
        batch_size=batch_size,
        epoch=epoch,
        objective=objective,
        score=None,
    )

    def seen(state: Training) -> Any:
        return data if state.data is None else state.data

    return dataclasses.replace(
        trained,
        measure=lambda state: dict(measure(state.model, seen(state))) if measure else {},
        final=(lambda state: dict(final(state.model, seen(state)))) if final else None,
        dims=dims or {},
        coords=coords or {},
    )
