"""Swimming bodies by the hundred: generation with a reference gait for each, and a gymnax environment over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError, artifact
from unseen.worlds.control.gaits import Bodies, GaitExpert, search_gait
from unseen.worlds.control.swimmer import (
    DESCRIPTION,
    JOINTS,
    LINKS,
    SENSORS,
    Swimmer,
    SwimmerState,
    describe,
    random_start,
    sense,
    step,
)


def random_swimmers(
    key: Key[Array, ""],
    count: int,
    links: int,
    *,
    lengths: tuple[float, float] = (0.5, 1.5),
    ratios: tuple[float, float] = (1.5, 4.0),
    inverse: float = 0.5,
    reverse: float = 0.5,
) -> Swimmer:
    """A stack of `count` bodies with as many `links`: lengths and drag ratio uniform (one ratio a body), the ratio
    inverted with probability `inverse` (which turns the useful wave around), each gear with probability `reverse`."""
    size, drag, turn, gear = jax.random.split(key, 4)
    present = jnp.broadcast_to(jnp.arange(LINKS) < links, (count, LINKS))
    length = jax.random.uniform(size, (count, LINKS), minval=lengths[0], maxval=lengths[1]) * present
    ratio = jax.random.uniform(drag, (count, 1), minval=ratios[0], maxval=ratios[1])
    ratio = jnp.where(jax.random.bernoulli(turn, inverse, (count, 1)), 1 / ratio, ratio)
    sign = jnp.where(jax.random.bernoulli(gear, reverse, (count, JOINTS)), -1.0, 1.0)
    return Swimmer(length, jnp.broadcast_to(ratio, (count, LINKS)), sign, present)


def find_gaits(key: Key[Array, ""], swimmers: Swimmer, *, steps: int = 120, **search: Any) -> Bodies:
    """Each body's best wave by `search_gait`, which also takes the further settings."""
    keys = jax.random.split(key, swimmers.length.shape[0])
    experts, distance = _found(keys, swimmers, steps, tuple(sorted(search.items())))
    return Bodies(swimmers, experts, distance)


@eqx.filter_jit
def _found(keys: Any, swimmers: Swimmer, steps: int, search: tuple) -> Any:
    return jax.vmap(lambda key, body: search_gait(key, body, steps=steps, **dict(search)))(keys, swimmers)


def generate_bodies(
    count: int,
    links: Sequence[int] = (3, 4, 5, 6, 7),
    *,
    lengths: tuple[float, float] = (0.5, 1.5),
    ratios: tuple[float, float] = (1.5, 4.0),
    least: float = 0.3,
    steps: int = 120,
    seed: int = 0,
) -> Bodies:
    """Bodies in equal numbers for each number of links, which take turns: every stretch of the list has all classes.

    A body that its reference gait does not move by `least` body lengths in `steps` steps is rejected and drawn
    anew, so that scores relative to the gait are defined. The result is kept as an artifact: studies with the same
    settings share the search.

    Raises:
        UserError: if a number of links is not from 3 to 7, or `least` is more than such bodies swim.
    """
    if not links or min(links) < 3 or max(links) > LINKS:
        raise UserError(f"links takes numbers from 3 to {LINKS}, got {', '.join(map(str, links)) or 'none'}.")
    settings = dict(
        count=count, links=list(links), lengths=list(lengths), ratios=list(ratios), least=least, steps=steps, seed=seed
    )
    kept = artifact(_generate, settings)
    names = ("length", "ratio", "gear", "present")
    swimmers = Swimmer(**{name: jnp.asarray(kept[name]) for name in names})
    experts = GaitExpert(jnp.asarray(kept["amplitude"]), jnp.asarray(kept["lag"]))
    return Bodies(swimmers, experts, jnp.asarray(kept["distance"]))


def _generate(
    count: int, links: list[int], lengths: list[float], ratios: list[float], least: float, steps: int, seed: int
) -> dict[str, Any]:
    wanted = -(-count // len(links))  # of each class
    classes = []
    for number in links:
        accepted: list[Bodies] = []
        for attempt in range(20):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), attempt)
            draw, search = jax.random.split(key)
            drawn = random_swimmers(draw, wanted, number, lengths=tuple(lengths), ratios=tuple(ratios))
            bodies = find_gaits(search, drawn, steps=steps)
            accepted.append(bodies[np.flatnonzero(np.asarray(bodies.distance) >= least)])
            found = sum(map(len, accepted))
            if found >= wanted:
                break
            if (attempt + 1) * wanted >= 24 and found == 0:
                raise UserError(f"least takes what some {number}-link bodies reach in {steps} steps, got {least}.")
        else:
            raise UserError(f"least takes what many {number}-link bodies reach in {steps} steps, got {least}.")
        together = jax.tree.map(lambda *x: jnp.concatenate(x)[:wanted], *accepted)
        classes.append(together)
    turns = jax.tree.map(lambda *x: jnp.stack(x, 1).reshape(-1, *x[0].shape[1:])[:count], *classes)
    return {**vars(turns.swimmers), "amplitude": turns.experts.amplitude, "lag": turns.experts.lag,
            "distance": turns.distance}  # fmt: skip


class EmbodimentParams(eqx.Module):
    """What of Embodiments may vary inside one compiled program.

    Attributes:
        bodies: the stack that each episode draws one from.
        described: 1 shows the body plan in the joints' tokens, 0 shows zeros in its place.
        max_steps_in_episode: the episode's time limit.
    """

    bodies: Swimmer
    described: Float[Array, ""]
    max_steps_in_episode: int = eqx.field(static=True)


class EmbodimentState(eqx.Module):
    """The running episode's body and where it is."""

    body: Swimmer
    swimmer: SwimmerState

    @property
    def time(self) -> Int[Array, ""]:
        """Steps since the start of the episode."""
        return self.swimmer.time


class Embodiments(Environment):
    """A gymnax environment of planar swimmers: a body drawn at every reset swims along x.

    An observation is one token a joint, padded to six: what it senses (`sense`: 6 numbers, the first of which says
    that the joint exists), then the body plan (`describe`: 8 numbers). An action is one number a joint; those of
    joints that are not there do nothing. The reward of a step is the progress of the body's centroid along x, in
    body lengths, so that a return is a distance.

    Axes: number of links, their lengths, drag ratio, gear signs (see `generate_bodies`), and any body plan of yours.

    Example:
        >>> environment = Embodiments()
        >>> params = environment.params(generate_bodies(10).swimmers)  # doctest: +SKIP
        >>> tokens, state = environment.reset(jax.random.key(0), params)  # doctest: +SKIP
    """

    @property
    def default_params(self) -> EmbodimentParams:
        """One body: five links of length 1, drag ratio 2, all gears forward."""
        present = jnp.arange(LINKS)[None] < 5
        return self.params(Swimmer(present * 1.0, jnp.full((1, LINKS), 2.0), jnp.ones((1, JOINTS)), present))

    def params(
        self, bodies: Swimmer, described: float | Float[Array, ""] = 1.0, max_steps: int = 120
    ) -> EmbodimentParams:
        """Parameters of a run.

        Raises:
            UserError: if `bodies` is one body and no stack of them.
        """
        if bodies.length.ndim != 2:
            raise UserError("bodies takes a stack of swimmers with one leading axis.")
        return EmbodimentParams(bodies, jnp.asarray(described, jnp.float32), max_steps)

    def reset_env(
        self, key: Key[Array, ""], params: EmbodimentParams
    ) -> tuple[Float[Array, "joints numbers"], EmbodimentState]:
        """A new episode of a body drawn uniformly, with joints at random angles."""
        choose, begin = jax.random.split(key)
        body = params.bodies[jax.random.randint(choose, (), 0, params.bodies.length.shape[0])]
        state = EmbodimentState(body, random_start(begin, body))
        return self.get_obs(state, params), state

    def step_env(self, key: Any, state: EmbodimentState, action: Any, params: EmbodimentParams) -> tuple:
        """One step; nothing ends an episode but its time limit."""
        moved = step(state.body, state.swimmer, action)
        reward = (moved.position[0] - state.swimmer.position[0]) / state.body.body_length
        state = EmbodimentState(state.body, moved)
        return self.get_obs(state, params), state, reward, jnp.array(False), {}

    def get_obs(
        self, state: EmbodimentState, params: EmbodimentParams | None = None, key: Any = None
    ) -> Float[Array, "joints numbers"]:
        """The tokens of all joints."""
        described = 1.0 if params is None else params.described
        return jnp.concatenate([sense(state.body, state.swimmer), described * describe(state.body)], -1)

    def is_terminated(self, state: EmbodimentState, params: EmbodimentParams) -> Bool[Array, ""]:
        """Never."""
        return jnp.array(False)

    def action_space(self, params: EmbodimentParams | None = None) -> spaces.Box:
        """One number in [-1, 1] a joint."""
        return spaces.Box(-1.0, 1.0, (JOINTS,), jnp.float32)

    def observation_space(self, params: EmbodimentParams | None = None) -> spaces.Box:
        """One token a joint."""
        return spaces.Box(-jnp.inf, jnp.inf, (JOINTS, SENSORS + DESCRIPTION), jnp.float32)

    @property
    def name(self) -> str:
        """The environment's name."""
        return "Embodiments"

    @property
    def num_actions(self) -> int:
        """Joints that a body can have."""
        return JOINTS
