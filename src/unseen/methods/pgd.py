"""The smallest changes of an input that a network cannot bear."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unseen.lab import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGDAttack:
    """Projected gradient ascent on a loss, within an L2 ball about every input.

    Every step goes `step` along the gradient's direction; what leaves the ball is pulled back to its surface. An
    attack may be confined to some directions: a block of coordinates, or of a rotated basis.

    Example:
        >>> attack = PGDAttack(radius=0.5, steps=20)
        >>> adversarial = attack(lambda x: cross_entropy(net(x), labels), inputs)

    Attributes:
        radius: of the ball.
        steps: number of steps.
        step: length of one; by default 2.5 radius / steps.

    Source: Madry et al. (2018, arXiv 1706.06083), section 2.1, for the L2 norm.
    """

    radius: float
    steps: int = 10
    step: float | None = None

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise UserError(f"radius takes a number from 0 on, got {self.radius}.")
        if self.steps < 1:
            raise UserError(f"steps takes a whole number from 1 on, got {self.steps}.")

    def __call__(
        self,
        loss: Callable[[Float[Array, "batch ..."]], Float[Array, " batch"]],
        inputs: Float[Array, "batch ..."],
        *,
        within: Float[Array, "directions dims"] | None = None,
    ) -> Float[Array, "batch ..."]:
        """The inputs, moved to where their loss is larger.

        Args:
            loss: inputs -> loss of each example, which depends on that example alone.
            inputs: (batch, ...).
            within: orthonormal directions of the flattened input that may change; None for all of them.
        """
        flat = inputs.reshape(len(inputs), -1)
        length = 2.5 * self.radius / self.steps if self.step is None else self.step
        slope = jax.grad(lambda x: jnp.sum(loss(x.reshape(inputs.shape))))

        def move(delta: Float[Array, "batch dims"], _: None) -> tuple[Float[Array, "batch dims"], None]:
            g = slope(flat + delta)
            g = g if within is None else g @ within.T @ within
            delta = delta + length * g / jnp.maximum(_norm(g), 1e-12)
            return delta * jnp.minimum(1.0, self.radius / jnp.maximum(_norm(delta), 1e-12)), None

        delta, _ = jax.lax.scan(move, jnp.zeros_like(flat), length=self.steps)
        return (flat + delta).reshape(inputs.shape)


def _norm(x: Float[Array, "batch dims"]) -> Float[Array, "batch 1"]:
    return jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True))
