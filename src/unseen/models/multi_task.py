"""One network for several tasks, which is told the task."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class MultiTaskPolicy(eqx.Module):
    """A tanh trunk that all tasks share, with a linear head for each task or a learned embedding of the task.

    The observation ends with a one-hot of the task, as `TaskSuite(..., shows_task=True)` gives it.

    Attributes:
        trunk: hidden layers.
        embedding: a vector for each task, which the trunk reads; none where tasks have heads of their own.
        weight, bias: of the heads; one of them with an embedding.
        tasks: length of the one-hot.

    Source: Yu et al. (2019), section 5, multi-task and multi-head policies.
    """

    trunk: tuple[eqx.nn.Linear, ...]
    embedding: Float[Array, "tasks size"] | None
    weight: Float[Array, "heads actions width"]
    bias: Float[Array, "heads actions"]
    tasks: int = eqx.field(static=True)

    def __init__(
        self,
        observations: int,
        actions: int,
        tasks: int,
        width: int = 64,
        depth: int = 2,
        *,
        embedding: int | None = None,
        key: PRNGKeyArray,
    ):
        """Of `observations` numbers, the one-hot among them.

        Args:
            embedding: numbers of a task's embedding; None gives each task a head.
        """
        *layers, head, vectors = jax.random.split(key, depth + 2)
        sizes = [observations - tasks + (embedding or 0), *(width,) * depth]
        self.trunk = tuple(eqx.nn.Linear(i, o, key=k) for i, o, k in zip(sizes, sizes[1:], layers, strict=False))
        self.embedding = None if embedding is None else jax.random.normal(vectors, (tasks, embedding))
        heads = tasks if embedding is None else 1
        # A first policy that hardly depends on what it sees explores evenly.
        self.weight = 0.01 * jax.random.normal(head, (heads, actions, width)) / jnp.sqrt(width)
        self.bias = jnp.zeros((heads, actions))
        self.tasks = tasks

    def __call__(self, seen: Float[Array, "*batch obs"]) -> Float[Array, "*batch actions"]:
        """The action, or the mean of its distribution."""
        x, task = seen[..., : -self.tasks], seen[..., -self.tasks :]
        if self.embedding is not None:
            x = jnp.concatenate([x, task @ self.embedding], -1)
            task = jnp.ones((*task.shape[:-1], 1))
        for layer in self.trunk:
            x = jnp.tanh(x @ layer.weight.T + layer.bias)  # type: ignore[operator]
        every = jnp.einsum("...w,haw->...ha", x, self.weight) + self.bias
        return (task[..., None] * every).sum(-2)
