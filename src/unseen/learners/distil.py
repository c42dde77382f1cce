"""One policy for many bodies, from the gaits of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from unseen.lab import Learner
from unseen.learners.classifier import classifier
from unseen.worlds.control.gaits import Bodies, swim
from unseen.worlds.control.swimmer import describe, random_start, sense, step

Policy = Callable[[Float[Array, "joints numbers"]], Float[Array, " joints"]]


class Demonstrations(eqx.Module):
    """What experts did in every step of their episodes, as `classifier` takes it.

    Attributes:
        tokens: observations.
        targets: the experts' actions, 0 for joints that are not there.
        train, test: weights of the rows.
    """

    tokens: Float[Array, "rows joints numbers"]
    targets: Float[Array, "rows joints"]
    train: Float[Array, " rows"]
    test: Float[Array, " rows"]

    @property
    def inputs(self) -> tuple[Array]:
        """The policy's argument."""
        return (self.tokens,)

    @property
    def labels(self) -> Float[Array, "rows joints"]:
        """The same as the targets."""
        return self.targets


def demonstrate(
    key: Key[Array, ""], bodies: Bodies, which: Int[Array, " episodes"], *, steps: int = 120
) -> tuple[Float[Array, "episodes steps joints numbers"], Float[Array, "episodes steps joints"]]:
    """Observations and the expert's actions in one episode of each body named, from joints at random angles."""

    def episode(key: Key[Array, ""], one: Bodies) -> tuple[Array, Array]:
        body, plan = one.swimmers, describe(one.swimmers)

        def forward(state: Any, _: None) -> tuple[Any, tuple[Array, Array]]:
            action = one.experts(body, state)
            return step(body, state, action), (jnp.concatenate([sense(body, state), plan], -1), action)

        return jax.lax.scan(forward, random_start(key, body), length=steps)[1]

    return jax.vmap(episode)(jax.random.split(key, which.shape[0]), bodies[which])


def imitation_error(
    actions: Float[Array, "*rows joints"], targets: Float[Array, "*rows joints"]
) -> Float[Array, "*rows"]:
    """Squared distance of two actions."""
    return jnp.square(actions - targets).sum(-1)


def distil(
    policy: Callable[[Any], eqx.Module],
    bodies: Bodies,
    episodes: Callable[[Any], tuple[Int[Array, " episodes"], Float[Array, " episodes"]]],
    held_out: Int[Array, " held_out"],
    *,
    updates: int,
    every: int,
    batch_size: int = 256,
    learning_rate: float | Float[Array, ""] = 2e-3,
    steps: int = 120,
    final: Callable[[Any, Any], Mapping[str, Array]] | None = None,
    **layout: Any,
) -> Learner:
    """Behaviour cloning of the bodies' experts by one policy: Adam with a cosine schedule on the squared error of
    actions, rows drawn with replacement.

    Measured: train_loss, and test_loss on episodes of bodies that are held out.

    Args:
        policy: key -> equinox module, tokens -> actions, on one observation or a batch.
        bodies: those of training and those held out.
        episodes: key -> the body of each training episode, and each episode's weight: 0 where a condition has fewer,
            so that conditions differ in values and not in shapes.
        held_out: bodies with one episode each for test_loss.
        updates, every: number of updates in all and between two measurements.
        steps: of an episode.
        final: (policy, demonstrations) -> further measures at the end.
        layout: dims and coords of the Learner.

    Source: the distillation of Ai et al. (2025), section 4, at a size for one computer.
    """

    def data(key: Any) -> Demonstrations:
        choose, act = jax.random.split(key)
        which, weight = episodes(choose)
        everything = jnp.concatenate([which, held_out])
        tokens, actions = demonstrate(act, bodies, everything, steps=steps)
        train = jnp.repeat(jnp.concatenate([weight, jnp.zeros(held_out.shape)]), steps)
        test = jnp.repeat(jnp.concatenate([jnp.zeros(weight.shape), jnp.ones(held_out.shape)]), steps)
        rows = tokens.shape[0] * tokens.shape[1]
        return Demonstrations(tokens.reshape(rows, *tokens.shape[2:]), actions.reshape(rows, -1), train, test)

    learner = classifier(
        policy,
        data,
        optax.adam(optax.cosine_decay_schedule(learning_rate, updates)),
        steps=updates,
        every=every,
        batch_size=batch_size,
        loss=imitation_error,
        score=None,
        final=final,
    )
    return dataclasses.replace(learner, **layout)


def distances(
    key: Key[Array, ""], bodies: Bodies, policy: Policy | None = None, *, episodes: int = 4, steps: int = 120
) -> Float[Array, " bodies"]:
    """How far each body swims under a policy (None: under its own expert), in body lengths, the mean over starts
    from joints at random angles. The same key gives the same starts."""

    def distance(key: Key[Array, ""], one: Bodies) -> Float[Array, ""]:
        body, plan = one.swimmers, describe(one.swimmers)

        def act(state: Any) -> Float[Array, " joints"]:
            if policy is None:
                return one.experts(body, state)
            return policy(jnp.concatenate([sense(body, state), plan], -1))

        return swim(body, random_start(key, body), act, steps)[1]

    keys = jax.random.split(key, (len(bodies), episodes))
    return jax.vmap(jax.vmap(distance, (0, None)))(keys, bodies).mean(-1)


def relative_distance(distance: Float[Array, " bodies"], expert: Float[Array, " bodies"]) -> Float[Array, " bodies"]:
    """A policy's distance in units of the expert's, clipped to [-1, 1.2]."""
    return jnp.clip(distance / expert, -1.0, 1.2)
