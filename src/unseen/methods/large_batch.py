"""Training regimes and how they change with the batch size."""

from __future__ import annotations

import dataclasses
import math

import optax
from jaxtyping import Array, Float

from unseen.lab import UserError


@dataclasses.dataclass(frozen=True)
class Regime:
    """A learning rate that drops at given epochs.

    Attributes:
        rate: at the start.
        epochs: passes over the training set in all.
        drops: epochs after which the rate is multiplied by `factor`.
        factor: of a drop.
    """

    rate: float | Float[Array, ""]
    epochs: int
    drops: tuple[int, ...] = ()
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"epochs takes a whole number from 1 on, got {self.epochs}.")
        if any(drop < 1 for drop in self.drops) or list(self.drops) != sorted(set(self.drops)):
            raise UserError(f"drops takes increasing whole numbers from 1 on, got {self.drops}.")

    def schedule(self, updates_an_epoch: int) -> optax.Schedule:
        """The learning rate as a function of the number of updates done."""
        boundaries = {drop * updates_an_epoch: self.factor for drop in self.drops}
        return optax.piecewise_constant_schedule(self.rate, boundaries)  # pyright: ignore[reportArgumentType]


def sqrt_lr_scaling(rate: float | Float[Array, ""], batch_size: int, reference: int) -> float | Float[Array, ""]:
    """The rate at which `batch_size` takes steps of the covariance that `reference` has at `rate`.

    The covariance of an update is rate^2 / batch size times that of an example's gradient, so the rate grows with
    the square root of the batch.

    Source: Hoffer et al. (2017, arXiv 1705.08741), section 4.1.
    """
    return rate * math.sqrt(batch_size / reference)


def regime_adaptation(regime: Regime, batch_size: int, reference: int) -> Regime:
    """The same regime for a larger batch: every phase lasts as many more epochs as keep its number of updates.

    Example:
        >>> regime_adaptation(Regime(0.1, epochs=40, drops=(20,)), batch_size=800, reference=32)
        Regime(rate=0.1, epochs=1000, drops=(500,), factor=0.1)

    Source: Hoffer et al. (2017, arXiv 1705.08741), section 5 ("regime adaptation"); a ratio that is no whole number
    is rounded up, as in the official code.

    Raises:
        UserError: if the batch is smaller than the reference.
    """
    if batch_size < reference:
        raise UserError(f"batch_size takes a number from the reference's {reference} on, got {batch_size}.")
    longer = math.ceil(batch_size / reference)
    return dataclasses.replace(
        regime, epochs=regime.epochs * longer, drops=tuple(drop * longer for drop in regime.drops)
    )
