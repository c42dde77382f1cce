"""Travelling waves as reference gaits of swimmers."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from unseen.worlds.control.swimmer import (
    CLOCK,
    LARGEST_ANGLE,
    LARGEST_RATE,
    TIME_STEP,
    Swimmer,
    SwimmerState,
    start,
    step,
)


class GaitExpert(eqx.Module):
    """A wave of joint angles, `amplitude sin(clock + lag rank)`, followed with feedback.

    The command is the wave's own rate plus `gain` times the distance to it, through the inverse of the gears: an
    expert knows its body.

    Attributes:
        amplitude: in radians.
        lag: phase between neighbouring joints, in radians; its sign is the direction of the wave.
        gain: of the feedback, a unit of time.
    """

    amplitude: Float[Array, "*bodies"]
    lag: Float[Array, "*bodies"]
    gain: float = eqx.field(static=True, default=4.0)

    def __call__(self, body: Swimmer, state: SwimmerState) -> Float[Array, " 6"]:
        """The action, 0 for joints that are not there."""
        phase = CLOCK * TIME_STEP * state.time + self.lag * body.rank
        error = self.amplitude * jnp.sin(phase) - state.angles
        rate = self.amplitude * CLOCK * jnp.cos(phase) + self.gain * error
        return jnp.clip(rate / LARGEST_RATE, -1, 1) * body.gear * body.joints


class Bodies(eqx.Module):
    """A set of bodies, each with the gait that moves it well.

    Attributes:
        swimmers: the body plans.
        experts: the gaits.
        distance: how far each gait swims from a straight start, in body lengths.
    """

    swimmers: Swimmer
    experts: GaitExpert
    distance: Float[Array, " bodies"]

    def __len__(self) -> int:
        return self.distance.shape[0]

    def __getitem__(self, index: int | slice | Int[Array, "*some"] | Int[np.ndarray, "*some"]) -> Bodies:
        return jax.tree.map(lambda x: x[index], self)


def swim(
    body: Swimmer,
    begin: SwimmerState,
    act: Callable[[SwimmerState], Float[Array, " 6"]],
    steps: int = 120,
) -> tuple[SwimmerState, Float[Array, ""]]:
    """An episode: its last state, and how far the centroid came along x, in body lengths."""

    def one(state: SwimmerState, _: None) -> tuple[SwimmerState, None]:
        return step(body, state, act(state)), None

    end, _ = jax.lax.scan(one, begin, length=steps)
    return end, (end.position[0] - begin.position[0]) / body.body_length


def search_gait(
    key: Key[Array, ""],
    body: Swimmer,
    *,
    steps: int = 120,
    iterations: int = 8,
    population: int = 48,
    elites: int = 8,
) -> tuple[GaitExpert, Float[Array, ""]]:
    """The wave that swims farthest from a straight start, by cross-entropy search (Rubinstein, 1999): the first
    population is uniform, each next one normal with the mean and deviation of the last one's elites.

    Returns:
        The best wave of all populations, and how far it swims, in body lengths.
    """
    low, high = jnp.array([0.1, -jnp.pi]), jnp.array([LARGEST_ANGLE, jnp.pi])
    straight = start(body, jnp.zeros(body.gear.shape[-1]))

    def distance(wave: Float[Array, " 2"]) -> Float[Array, ""]:
        expert = GaitExpert(wave[0], wave[1])
        return swim(body, straight, lambda state: expert(body, state), steps)[1]

    def generation(carry, key):
        mean, deviation, best, best_distance, first = carry
        uniform, normal = jax.random.split(key)
        drawn = jnp.where(
            first,
            jax.random.uniform(uniform, (population, 2), minval=low, maxval=high),
            jnp.clip(mean + deviation * jax.random.normal(normal, (population, 2)), low, high),
        )
        found = jax.vmap(distance)(drawn)
        top, which = jax.lax.top_k(found, elites)
        chosen = drawn[which]
        better = top[0] > best_distance
        best, best_distance = jnp.where(better, chosen[0], best), jnp.maximum(top[0], best_distance)
        return (chosen.mean(0), chosen.std(0) + 1e-3, best, best_distance, jnp.array(False)), None

    begin = (jnp.zeros(2), jnp.ones(2), low, jnp.array(-jnp.inf), jnp.array(True))
    (_, _, best, best_distance, _), _ = jax.lax.scan(generation, begin, jax.random.split(key, iterations))
    return GaitExpert(best[0], best[1]), best_distance
