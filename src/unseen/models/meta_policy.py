"""A policy network out of which each task takes the neurons of its mask."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray


class MetaPolicyNetwork(eqx.Module):
    """A tanh network with Gaussian actions whose hidden neurons are switched on by a mask, one row a layer.

    A neuron that is off gives 0, so the function under a mask depends on nothing but the sub-network that the mask
    leaves: `protected` stops the gradients of just those weights. The observation ends with a one-hot of the task, as
    `TaskSuite(..., shows_task=True)` gives it; its weights start at 0, so that a task that was never seen changes
    nothing. Each task has a deviation of its own for exploring; there is no bias after the hidden layers.

    Example:
        >>> net = MetaPolicyNetwork(7, 2, tasks=3, width=8, key=jax.random.key(0))
        >>> masks = jnp.ones((2, 8)).at[:, :4].set(0)
        >>> net(jnp.zeros(7), masks).shape
        (2,)

    Attributes:
        hidden: the layers that masks are for.
        head: to the mean action.
        log_std: of each task's actions, kept between -5 and 2.
        tasks: length of the one-hot.

    Source: Yang et al. (2023), the meta-policy network; that the one-hot is seen is ours, so that the same network
        without masks can tell tasks apart.
    """

    hidden: tuple[eqx.nn.Linear, ...]
    head: eqx.nn.Linear
    log_std: Float[Array, "tasks action"]
    tasks: int = eqx.field(static=True)

    def __init__(
        self, observations: int, actions: int, *, tasks: int, width: int = 128, depth: int = 2, key: PRNGKeyArray
    ):
        *layers, head = jax.random.split(key, depth + 1)
        sizes = [observations, *(width,) * depth]
        hidden = [eqx.nn.Linear(i, o, key=k) for i, o, k in zip(sizes, sizes[1:], layers, strict=False)]
        told = jnp.where(jnp.arange(observations) < observations - tasks, 1.0, 0.0)
        hidden[0] = eqx.tree_at(lambda layer: layer.weight, hidden[0], hidden[0].weight * told)
        # A first policy that hardly depends on what it sees explores evenly.
        last = eqx.nn.Linear(width, actions, use_bias=False, key=head)
        self.hidden, self.head = tuple(hidden), eqx.tree_at(lambda layer: layer.weight, last, 0.01 * last.weight)
        self.log_std, self.tasks = jnp.zeros((tasks, actions)), tasks

    def __call__(
        self, seen: Float[Array, "*batch obs"], masks: Float[Array, "layers width"]
    ) -> Float[Array, "*batch action"]:
        """The mean action.

        Args:
            masks: 1 for a neuron that is on, one row a hidden layer.
        """
        x = seen
        for layer, mask in zip(self.hidden, masks, strict=True):
            x = mask * jnp.tanh(x @ layer.weight.T + layer.bias)  # type: ignore[operator]
        return x @ self.head.weight.T

    def deviation(self, seen: Float[Array, "*batch obs"]) -> Float[Array, "*batch action"]:
        """Standard deviation of the actions of the task that is seen."""
        return jnp.exp(jnp.clip(seen[..., -self.tasks :] @ self.log_std, -5, 2))

    def log_prob(
        self,
        seen: Float[Array, "*batch obs"],
        masks: Float[Array, "layers width"],
        action: Float[Array, "*batch action"],
    ) -> Float[Array, "*batch"]:
        """Log density of actions."""
        deviation = self.deviation(seen)
        error = (action - self(seen, masks)) / deviation
        return jnp.sum(-0.5 * error**2 - jnp.log(deviation) - 0.5 * jnp.log(2 * jnp.pi), -1)

    def protected(self, used: Bool[Array, "layers width"]) -> MetaPolicyNetwork:
        """The same network, in which the weights between used neurons learn no more.

        Those are the weights and biases of used neurons, as far as they come from used ones (or from the observation)
        and lead to used ones (or to the action): all that any function of used neurons depends on.

        Args:
            used: the neurons that masks of earlier tasks have switched on, by layer.
        """

        def kept(weight: Array, frozen: Array) -> Array:
            return jnp.where(frozen, jax.lax.stop_gradient(weight), weight)

        hidden, before = [], jnp.ones(self.hidden[0].in_features, bool)
        for layer, mine in zip(self.hidden, used, strict=True):
            weight, bias = kept(layer.weight, mine[:, None] & before), kept(layer.bias, mine)  # type: ignore[arg-type]
            hidden.append(eqx.tree_at(lambda x: (x.weight, x.bias), layer, (weight, bias)))
            before = mine
        head = eqx.tree_at(lambda x: x.weight, self.head, kept(self.head.weight, before[None, :]))
        return eqx.tree_at(lambda x: (x.hidden, x.head), self, (tuple(hidden), head))
