"""How much the gradients of different examples agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from unseen.lab import UserError


class PerExampleGradients(eqx.Module):
    """What the gradients of single examples amount to, without keeping them.

    Two passes over the examples in micro-batches: the first finds the mean gradient, the second the inner product of
    every example's gradient with it. Memory is that of one micro-batch of gradients.

    Example:
        >>> def loss(model, example):
        ...     image, label = example
        ...     return optax.softmax_cross_entropy_with_integer_labels(model(image), label)
        >>> found = PerExampleGradients.of(loss, model, (images, labels), micro_batch=100)
        >>> found.scaled_coherence

    Attributes:
        mean: mean gradient, shaped like the parameters.
        squared_norms: of every example's gradient.
        along_mean: inner product of every example's gradient with the mean gradient.

    Source: Chatterjee and Zielinski (2022, arXiv 2203.10036), "Metrics to quantify coherence".
    """

    mean: PyTree
    squared_norms: Float[Array, " example"]
    along_mean: Float[Array, " example"]

    @classmethod
    def of(
        cls,
        loss: Callable[[Any, Any], Float[Array, ""]],
        params: PyTree,
        examples: PyTree,
        *,
        micro_batch: int | None = None,
    ) -> PerExampleGradients:
        """Gradients of any differentiable loss at `params`.

        Args:
            loss: (params, one example) -> scalar.
            params: a pytree, for instance an equinox module; its inexact arrays are differentiated.
            examples: a pytree of arrays whose first axis is the example.
            micro_batch: examples at a time; None for all of them.

        Raises:
            UserError: if there is no example, or `micro_batch` is below 1.
        """
        count = _count(examples)
        if micro_batch is not None and micro_batch < 1:
            raise UserError(f"micro_batch takes a whole number from 1 on, got {micro_batch}.")

        def gradient(example: Any) -> PyTree:
            return eqx.filter_grad(loss)(params, example)

        def over_examples(measure: Callable[[PyTree], Any]) -> Any:
            return jax.lax.map(lambda x: measure(gradient(x)), examples, batch_size=micro_batch or count)

        if micro_batch is None or micro_batch >= count:  # all at once: the gradients are there for both passes
            gradients = jax.vmap(gradient)(examples)
            mean = jax.tree.map(lambda g: g.mean(0), gradients)
            return cls(mean, jax.vmap(_squared_norm)(gradients), jax.vmap(lambda g: _inner(g, mean))(gradients))
        starts = -(-count // micro_batch)
        rows = jnp.minimum(jnp.arange(starts * micro_batch), count - 1).reshape(starts, micro_batch)
        there = (jnp.arange(starts * micro_batch) < count).reshape(starts, micro_batch)

        def add(total: PyTree, block: tuple[Array, Array]) -> tuple[PyTree, None]:
            index, weight = block
            gradients = jax.vmap(gradient)(jax.tree.map(lambda x: x[index], examples))
            return jax.tree.map(lambda t, g: t + jnp.tensordot(weight.astype(g.dtype), g, 1), total, gradients), None

        zero = jax.tree.map(jnp.zeros_like, eqx.filter(params, eqx.is_inexact_array))
        total, _ = jax.lax.scan(add, zero, (rows, there))
        mean = jax.tree.map(lambda g: g / count, total)
        squared, along = over_examples(lambda g: (_squared_norm(g), _inner(g, mean)))
        return cls(mean, squared, along)

    @property
    def coherence(self) -> Float[Array, ""]:
        """alpha = E<g, g'> / E|g|^2 with g and g' drawn independently from the sample (so an example may meet
        itself): |mean|^2 / mean |g|^2, from 0 to 1. NaN where all gradients are 0."""
        return _squared_norm(self.mean) / jnp.mean(self.squared_norms)

    @property
    def scaled_coherence(self) -> Float[Array, ""]:
        """m alpha, for m examples: 1 where their gradients are orthogonal and of any lengths, m where they are
        equal, below 1 where they cancel; about the number of examples that one example's step helps."""
        return len(self.squared_norms) * self.coherence

    @property
    def alignment(self) -> Float[Array, " example"]:
        """Cosine of every example's gradient with the mean gradient; 0 where one of the two is 0."""
        scale = jnp.sqrt(self.squared_norms * _squared_norm(self.mean))
        return jnp.where(scale > 0, self.along_mean / jnp.where(scale > 0, scale, 1), 0.0)

    @property
    def noise(self) -> Float[Array, ""]:
        """Trace of the covariance of the gradients (divided by m, not m - 1)."""
        return jnp.mean(self.squared_norms) - _squared_norm(self.mean)


def per_example_gradients(
    loss: Callable[[Any, Any], Float[Array, ""]], params: PyTree, examples: PyTree, *, micro_batch: int | None = None
) -> Float[Array, "example parameter"]:
    """The gradients themselves, flattened in the order of `jax.tree.leaves`; arguments as in
    `PerExampleGradients.of`."""
    count = _count(examples)

    def gradient(example: Any) -> Float[Array, " parameter"]:
        leaves = jax.tree.leaves(eqx.filter_grad(loss)(params, example))
        return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])

    return jax.lax.map(gradient, examples, batch_size=micro_batch or count)


def coherence(gradients: PyTree, *, scaled: bool = False) -> Float[Array, ""]:
    """alpha = |mean g|^2 / mean |g|^2 of given gradients, wherever they come from.

    Args:
        gradients: an array or a pytree of arrays whose first axis is the example; of PyTorch, the dictionary of
            `torch.func.vmap(torch.func.grad(...))` as numpy arrays.
        scaled: m alpha instead: 1 for m orthogonal gradients, m for equal ones.
    """
    mean = jax.tree.map(lambda g: jnp.mean(jnp.asarray(g), axis=0), gradients)
    squared = jax.vmap(_squared_norm)(jax.tree.map(jnp.asarray, gradients))
    alpha = _squared_norm(mean) / jnp.mean(squared)
    return len(squared) * alpha if scaled else alpha


def noise_covariance(gradients: Float[Array, "example parameter"]) -> Float[Array, "parameter parameter"]:
    """Covariance of single-example gradients (divided by m); that of a batch of b drawn with replacement is 1/b of
    it."""
    centred = gradients - gradients.mean(0)
    return centred.T @ centred / len(gradients)


def noise_spectrum(gradients: Float[Array, "example parameter"]) -> Float[Array, " example"]:
    """The eigenvalues of `noise_covariance` that may differ from 0, largest first, by way of the m x m Gram matrix:
    for more parameters than examples."""
    centred = gradients - gradients.mean(0)
    values = jnp.linalg.eigvalsh(centred @ centred.T / len(gradients))[::-1]
    return jnp.maximum(values, 0)


def _count(examples: PyTree) -> int:
    leaves = jax.tree.leaves(examples)
    if not leaves or not len(leaves[0]):
        raise UserError("per-example gradients take one example or more, got none.")
    return len(leaves[0])


def _squared_norm(tree: PyTree) -> Float[Array, ""]:
    return _inner(tree, tree)


def _inner(a: PyTree, b: PyTree) -> Float[Array, ""]:
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return jnp.asarray(sum(jax.tree.leaves(products)))
