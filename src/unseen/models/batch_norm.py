"""Batch normalization over whole batches or over ghosts of them, and a multi-layer perceptron that has it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab import UserError


class GhostBatchNorm(eqx.Module):
    """Batch norm whose statistics are those of small parts of the batch, its ghosts.

    Ghosts are consecutive rows. With one ghost as large as the batch this is plain batch norm (Ioffe and Szegedy,
    2015). In training nothing is carried along: a settled copy (`settled`, or `settle` for a whole network)
    normalises by statistics of the training set. They are what running averages estimate: at fixed weights, mean and
    unbiased variance of random ghosts have the training set's as their expectation, whatever the ghosts' size.

    Attributes:
        scale, shift: after normalization.
        mean, variance: of the training set; None while in training.
        ghost: rows in a ghost; None for the whole batch. A batch that is smaller is one ghost.
        epsilon: added to the variance.

    Source: Hoffer et al. (2017, arXiv 1705.08741), algorithm 1.
    """

    scale: Float[Array, " features"]
    shift: Float[Array, " features"]
    mean: Float[Array, " features"] | None = None
    variance: Float[Array, " features"] | None = None
    ghost: int | None = eqx.field(static=True, default=None)
    epsilon: float = eqx.field(static=True, default=1e-5)

    @classmethod
    def of(cls, features: int, *, ghost: int | None = None, epsilon: float = 1e-5) -> GhostBatchNorm:
        """Scale 1 and shift 0.

        Raises:
            UserError: if a ghost has fewer than two rows.
        """
        if ghost is not None and ghost < 2:
            raise UserError(f"ghost takes a whole number from 2 on, got {ghost}.")
        return cls(jnp.ones(features), jnp.zeros(features), ghost=ghost, epsilon=epsilon)

    def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
        """The batch, normalised; every row by its ghost's statistics, or, once settled, by the training set's.

        Raises:
            UserError: if the batch is larger than a ghost and no multiple of it.
        """
        if self.mean is not None and self.variance is not None:
            normed = (x - self.mean) * jax.lax.rsqrt(self.variance + self.epsilon)
        else:
            size = len(x) if self.ghost is None else min(self.ghost, len(x))
            if len(x) % size:
                raise UserError(f"ghost takes a divisor of the {len(x)} rows of a batch, got {self.ghost}.")
            ghosts = x.reshape(len(x) // size, size, -1)
            centred = ghosts - ghosts.mean(1, keepdims=True)
            variance = jnp.square(centred).mean(1, keepdims=True)
            normed = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        return normed * self.scale + self.shift

    def settled(self, x: Float[Array, "example features"], weights: Float[Array, " example"]) -> GhostBatchNorm:
        """A copy that normalises by mean and variance of `x` under non-negative weights."""
        share = weights / jnp.sum(weights)
        mean = share @ x
        variance = share @ jnp.square(x - mean)
        return GhostBatchNorm(self.scale, self.shift, mean, variance, self.ghost, self.epsilon)


class BatchNormMLP(eqx.Module):
    """Linear layers, each with batch norm and ReLU, and a linear head. Called on a batch, since that is what batch
    norm takes.

    Attributes:
        layers: hidden linear layers.
        norms: what normalises the output of each.
        head: the last layer.
    """

    layers: tuple[eqx.nn.Linear, ...]
    norms: tuple[GhostBatchNorm, ...]
    head: eqx.nn.Linear

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        widths: Sequence[int] = (128, 128),
        ghost: int | None = None,
        key: PRNGKeyArray,
    ) -> None:
        """Hidden layers of the given widths; `ghost` as in `GhostBatchNorm`."""
        sizes = (inputs, *widths)
        keys = iter(jax.random.split(key, len(sizes)))
        self.layers = tuple(eqx.nn.Linear(a, b, key=next(keys)) for a, b in itertools.pairwise(sizes))
        self.norms = tuple(GhostBatchNorm.of(width, ghost=ghost) for width in widths)
        self.head = eqx.nn.Linear(sizes[-1], classes, key=next(keys))

    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch classes"]:
        """Logits of a batch."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = jax.nn.relu(norm(_linear(layer, x)))
        return _linear(self.head, x)

    def settled(self, x: Float[Array, "example inputs"], weights: Float[Array, " example"]) -> BatchNormMLP:
        """A copy whose norms use the statistics of `x` under `weights`, layer by layer, each as it comes out of the
        settled layers below."""
        norms = []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = _linear(layer, x)
            norms.append(norm.settled(hidden, weights))
            x = jax.nn.relu(norms[-1](hidden))
        return eqx.tree_at(lambda net: net.norms, self, tuple(norms))


def settle(model: BatchNormMLP, data: Any) -> BatchNormMLP:
    """The network with its training set's statistics: `classifier(..., settle=settle)`.

    Args:
        model: as trained.
        data: has `inputs`, whose first is the network's, and the weights `train`.
    """
    return model.settled(data.inputs[0], data.train)


def _linear(layer: eqx.nn.Linear, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
    return x @ layer.weight.T + layer.bias
