"""Training that looks for flat minima, and flat minima that know nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab.errors import UserError
from unseen.models.xor_nets import XorNets

Scalar = float | Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class SAM:
    """Sharpness-aware minimization: the gradient at the point one step of length `radius` uphill.

    A hook for `classifier(gradient=SAM(0.05))`, where any optimizer follows; `optax.contrib.sam` is the same for
    loops that hand over their gradient function. With batches of one example it lowers the trace of the Hessian.

    Source: Foret et al. (2021, arXiv 2010.01412), algorithm 1.

    Attributes:
        radius: of the step uphill, in units of the parameters; may be a traced value. 0 is plain descent.
    """

    radius: Scalar

    def __call__(
        self, objective: Callable[[Any], Float[Array, ""]], model: Any, key: PRNGKeyArray | None = None
    ) -> Any:
        """Gradient pytree at `model` of a loss `objective(model)`."""
        gradient = eqx.filter_grad(objective)(model)
        step = self.radius / jnp.maximum(optax.global_norm(gradient), 1e-12)
        uphill = eqx.apply_updates(model, jax.tree.map(lambda g: step * g, gradient))
        return eqx.filter_grad(objective)(uphill)


@dataclasses.dataclass(frozen=True)
class LabelNoiseSGD:
    """Squared error with fresh noise on the targets at every update, which makes descent prefer a small trace of the
    Hessian among all that fit.

    A hook for `classifier(objective=LabelNoiseSGD(0.5))`.

    Source: Blanc et al. (2020, arXiv 1904.09080); used by Wen et al. (2023, arXiv 2307.11007) beside SAM.

    Attributes:
        deviation: standard deviation of the noise.
    """

    deviation: Scalar

    def __call__(
        self, model: Callable[..., Array], inputs: tuple[Any, ...], targets: Float[Array, "*batch"], key: PRNGKeyArray
    ) -> Float[Array, "*batch"]:
        """Loss of each example."""
        noise = self.deviation * jax.random.normal(key, targets.shape)
        return (model(*inputs) - targets - noise) ** 2


def memorising_flat_solution(
    strings: Float[Array, "n bits"], labels: Float[Array, " n"], width: int, *, normalised: bool
) -> XorNets:
    """A network with one unit for each training string, silent on every other string: it fits all labels, is 0 on
    fresh strings, and is as flat as a network of its kind can be.

    Unit i reads c (x_i . x - d + 1), which is c at its own string and negative at all others. With a bias the trace
    of the Hessian of the mean squared error is smallest, 4 sqrt(d + 1), where both layers are balanced,
    c = (d + 1)^(1/4); with normalised features it is 2.

    Source: Wen et al. (2023, arXiv 2307.11007), the constructions for both kinds of networks.

    Args:
        strings: different ones, of -1 and 1.
        labels: what the network says of them.
        width: hidden units, at least as many as strings; the others stay 0.
        normalised: which of the two kinds.

    Raises:
        UserError: if there are more strings than units.
    """
    count, bits = strings.shape
    if width < count:
        raise UserError(f"width takes a number from {count} on, one unit a string, got {width}.")
    scale = 1.0 if normalised else (bits + 1) ** 0.25
    net = XorNets(bits, width, "normalised" if normalised else "bias", key=jax.random.key(0))
    weights = jnp.zeros((width, bits)).at[:count].set(scale * strings)
    bias = jnp.zeros(width).at[:count].set(-scale * (bits - 1))
    readout = jnp.zeros(width).at[:count].set(labels / scale)
    return eqx.tree_at(lambda n: (n.weights, n.bias, n.readout), net, (weights, bias, readout))
