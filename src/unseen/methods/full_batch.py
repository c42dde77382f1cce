"""Training on all examples at once: the gradient-norm penalty and the schedule that make up for mini-batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from unseen.lab import UserError

Scalar = float | Float[Array, ""]


def gradient_norm_penalty(
    strength: Scalar, *, blocks: Int[Array, "blocks rows"] | None = None, epsilon: float = 1e-2
) -> Callable[..., PyTree]:
    """The gradient of the loss plus `strength` times its squared gradient norm.

    With `blocks` it is the mean over blocks b of examples of L_b + strength |grad L_b|^2, which is what small steps of
    mini-batch descent with these batches minimise (strength is a quarter of their learning rate; Smith et al., 2021).
    The penalty's gradient, 2 strength H g, comes from one more gradient at a point `epsilon` further up along g:
    (grad L(x + d g) - g) / d with d = epsilon / |g|.

    Args:
        strength: of the penalty, not negative; may be traced.
        blocks: rows of the batch in each block; None for one block of everything.
        epsilon: length of the step of the finite difference.

    Returns:
        A rule (objective, model, key=None) -> gradient: a `gradient` hook of `classifier`, or to be used alone with
        `objective(model) -> loss`, with blocks `objective(model, rows) -> loss`.

    Example:
        >>> rule = gradient_norm_penalty(0.5)
        >>> rule(lambda x: x**2 / 2, jnp.array(3.0))  # x + 0.5 * 2x
        Array(6., dtype=float32)

    Source: Geiping et al. (2021, arXiv 2109.14119), section 3.2, in the form of their official code
    (forward-differences). There the strength is a share of a quarter of the current learning rate; and, as in its
    default implementation, the factor 2 of the gradient of a square is left out, here it is not.

    Raises:
        UserError: on a negative strength or an epsilon that is not above 0.
    """
    if isinstance(strength, float | int) and strength < 0:
        raise UserError(f"strength takes a number from 0 on, got {strength}.")
    if epsilon <= 0:
        raise UserError(f"epsilon takes a number above 0, got {epsilon}.")

    def of_block(objective: Callable[..., Array], model: PyTree) -> PyTree:
        gradient = eqx.filter_grad(objective)(model)
        step = epsilon / jnp.maximum(optax.tree.norm(gradient), jnp.finfo(jnp.float32).tiny)
        further = eqx.apply_updates(model, jax.tree.map(lambda g: step * g, gradient))
        difference = jax.tree.map(lambda a, b: a - b, eqx.filter_grad(objective)(further), gradient)
        return jax.tree.map(lambda g, d: g + 2 * strength / step * d, gradient, difference)

    def rule(objective: Callable[..., Array], model: PyTree, key: Any = None) -> PyTree:
        if blocks is None:
            return of_block(objective, model)
        each = jax.vmap(lambda rows: of_block(lambda net: objective(net, rows), model))(blocks)
        return jax.tree.map(lambda g: g.mean(0), each)

    return rule


@dataclasses.dataclass(frozen=True)
class FullBatchRecipe:
    """Schedule, clipping and momentum of a run, with or without mini-batches.

    The rate rises linearly from 0 over `warmup` updates and then falls along a cosine that would reach 0 at
    `horizon`; the gradient is clipped, decay is added to it, and Nesterov momentum takes the step.

    Attributes:
        rate: highest learning rate.
        updates: in all.
        warmup: updates of the linear rise.
        horizon: updates at which the cosine ends, by default `updates`.
        clip: largest norm of a gradient; None for no limit.
        momentum: of Nesterov's form.
        weight_decay: times the weights, added to the gradient.

    Source: Geiping et al. (2021, arXiv 2109.14119), section 3.1, and the settings of their official code: rate 0.1 and
    300 epochs of SGD; 3,000 full-batch updates at rate 0.4 (0.8 with the penalty), warm-up 400, horizon 4,000, clip
    0.25.
    """

    rate: Scalar
    updates: int
    warmup: int = 0
    horizon: int | None = None
    clip: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise UserError(f"updates takes a whole number from 1 on, got {self.updates}.")
        if not 0 <= self.warmup < self.updates:
            raise UserError(f"warmup takes a whole number from 0 to {self.updates - 1}, got {self.warmup}.")
        if self.horizon is not None and self.horizon < self.updates:
            raise UserError(f"horizon takes a number from updates, {self.updates}, on, got {self.horizon}.")
        if self.clip is not None and self.clip <= 0:
            raise UserError(f"clip takes a number above 0, got {self.clip}.")

    def schedule(self, update: ArrayLike) -> Float[Array, ""]:
        """The learning rate after so many updates: an optax schedule."""
        t = jnp.asarray(update, jnp.float32)
        rise = t / max(self.warmup, 1)
        end = self.horizon or self.updates
        fall = (1 + jnp.cos(jnp.pi * jnp.clip((t - self.warmup) / (end - self.warmup), 0, 1))) / 2
        return self.rate * jnp.where(t < self.warmup, rise, fall)

    def optimizer(self) -> optax.GradientTransformation:
        """The recipe as an optax chain."""
        clip = optax.identity() if self.clip is None else optax.clip_by_global_norm(self.clip)
        return optax.chain(
            clip,
            optax.add_decayed_weights(self.weight_decay),
            optax.sgd(self.schedule, self.momentum, nesterov=True),
        )
