"""Curiosity: the reward is what a learned model of the world gets wrong."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from unseen.lab import UserError
from unseen.models.world_model import ForwardModel


class Steps(NamedTuple):
    """Steps of experience; leading axes are batch axes.

    Attributes:
        observation, following: before and after.
        action: vectors; numbered actions one-hot.
    """

    observation: Float[Array, "*batch obs"]
    action: Float[Array, "*batch action"]
    following: Float[Array, "*batch obs"]


class CuriosityState(NamedTuple):
    """A model of the world in training.

    Attributes:
        model: what is wrong about the world.
        optimizer: its optimizer's state.
        memory: the last steps, a ring.
        count: steps seen so far.
    """

    model: ForwardModel
    optimizer: Any
    memory: Steps
    count: Int[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CuriosityReward:
    """The prediction error of a forward model that learns from a memory of past steps beside the policy.

    The reward is a function of a step and of the present model, not of when the step was made: `reward` labels a fresh
    rollout, and old steps from a replay buffer get today's label in the same way (`unseen.learners.q_learning` takes it
    as `relabel`, see the example). What the model has learned is no longer rewarded.

    Example:
        >>> curiosity = CuriosityReward()
        >>> state = curiosity.init(key, observation=47, action=4)
        >>> state = curiosity.learn(curiosity.observe(state, steps), key)
        >>> reward = curiosity.reward(state, steps)
        >>> def relabel(key, replay, rows, batch):
        ...     action = jax.nn.one_hot(batch.action, 4)
        ...     steps = Steps(batch.observation, action, batch.next_observation)
        ...     return batch._replace(reward=curiosity.reward(state, steps))

    Attributes:
        optimizer: of the model.
        width, depth: of the model's hidden layers.
        capacity: steps in memory.
        updates, batch_size: gradient steps in one `learn`, and the steps drawn from memory for each.

    Source: Groth et al. (2021), the curiosity reward; Pathak et al. (2017) with the observation itself as features.
    """

    optimizer: optax.GradientTransformation = dataclasses.field(default_factory=lambda: optax.adam(1e-3))
    width: int = 128
    depth: int = 1
    capacity: int = 16_384
    updates: int = 8
    batch_size: int = 256

    def __post_init__(self) -> None:
        if min(self.capacity, self.updates, self.batch_size) < 1:
            raise UserError(
                "capacity, updates and batch_size take whole numbers from 1 on, got "
                f"{self.capacity}, {self.updates} and {self.batch_size}."
            )

    def init(self, key: Key[Array, ""], observation: int, action: int) -> CuriosityState:
        """An untrained model for vectors of these lengths, and an empty memory."""
        model = ForwardModel(observation, action, self.width, self.depth, key=key)
        memory = Steps(*(jnp.zeros((self.capacity, size)) for size in (observation, action, observation)))
        optimizer = self.optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        return CuriosityState(model, optimizer, memory, jnp.zeros((), int))

    def reward(self, state: CuriosityState, steps: Steps) -> Float[Array, "*batch"]:
        """The present model's error on each step, `ForwardModel.error`."""
        error = state.model.error
        for _ in steps.observation.shape[:-1]:
            error = jax.vmap(error)
        return error(*steps)

    def observe(self, state: CuriosityState, steps: Steps) -> CuriosityState:
        """The steps (any batch axes) in memory, over the oldest ones.

        Raises:
            UserError: if the memory does not hold a whole number of such batches.
        """
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), steps)
        new = len(flat.observation)
        if self.capacity % new:
            raise UserError(f"capacity takes a multiple of the {new} steps seen at once, got {self.capacity}.")
        at = state.count % self.capacity
        memory = jax.tree.map(lambda old, part: jax.lax.dynamic_update_slice(old, part, (at, 0)), state.memory, flat)
        return state._replace(memory=memory, count=state.count + new)

    def learn(self, state: CuriosityState, key: Key[Array, ""]) -> CuriosityState:
        """`updates` gradient steps on the mean error over steps drawn from memory. There must be one in it."""
        static = eqx.filter(state.model, eqx.is_inexact_array, inverse=True)
        filled = jnp.minimum(state.count, self.capacity)

        def step(carry: tuple[Any, Any], key: Key[Array, ""]) -> tuple[tuple[Any, Any], None]:
            arrays, optimizer = carry
            rows = jax.random.randint(key, (self.batch_size,), 0, filled)
            batch = jax.tree.map(lambda leaf: leaf[rows], state.memory)

            def loss(arrays: Any) -> Float[Array, ""]:
                return jax.vmap(eqx.combine(arrays, static).error)(*batch).mean()

            change, optimizer = self.optimizer.update(jax.grad(loss)(arrays), optimizer, arrays)
            return (eqx.apply_updates(arrays, change), optimizer), None

        start = eqx.filter(state.model, eqx.is_inexact_array), state.optimizer
        (arrays, optimizer), _ = jax.lax.scan(step, start, jax.random.split(key, self.updates))
        return state._replace(model=eqx.combine(arrays, static), optimizer=optimizer)
