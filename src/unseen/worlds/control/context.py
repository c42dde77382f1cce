"""Control tasks whose physics is set by a named, bounded context vector (contextual Markov decision processes)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from gymnax.environments.classic_control import cartpole, pendulum
from gymnax.environments.environment import Environment
from jaxtyping import Array, ArrayLike, Bool, Float, Key

from unseen.lab import UserError


@dataclasses.dataclass(frozen=True)
class ContextFeature:
    """One axis of a context: a physical constant with the bounds of what is trained and tested on."""

    name: str
    low: float
    high: float
    default: float
    unit: str = ""


class Region(eqx.Module):
    """A set of contexts with the distribution to draw them from: a mixture of uniform boxes.

    One form covers all regions of the literature, so that regions stack into traced conditions: a box is one
    box, a finite set consists of boxes without extent, a cross and a shell of the cells of a 3 x 3 x ...
    partition.

    Attributes:
        low, high: corners of the boxes, in the units of the features.
        weight: probability of each box; a box of weight zero is no part of the region.
    """

    low: Float[Array, "boxes features"]
    high: Float[Array, "boxes features"]
    weight: Float[Array, " boxes"]

    @classmethod
    def box(cls, low: Float[ArrayLike, " features"], high: Float[ArrayLike, " features"]) -> Region:
        """All contexts between two corners."""
        return cls(jnp.atleast_2d(low), jnp.atleast_2d(high), jnp.ones(1))

    @classmethod
    def points(cls, contexts: Float[ArrayLike, "points features"]) -> Region:
        """A finite set of contexts, each as likely as the others."""
        contexts = jnp.asarray(contexts)
        return cls(contexts, contexts, jnp.full(len(contexts), 1 / len(contexts)))

    @classmethod
    def cross(
        cls,
        low: Float[ArrayLike, " features"],
        high: Float[ArrayLike, " features"],
        arm: float | Float[Array, ""],
    ) -> Region:
        """The box without the combinations in which two or more features are extreme (outside the middle
        `arm`, a share of the range). Arm 1 is the box itself. With two features: the box without its four
        corners."""
        inset = (1 - jnp.asarray(arm)) / 2
        return cls._cells(jnp.asarray(low), jnp.asarray(high), inset, lambda extreme: extreme <= 1)

    @classmethod
    def shell(
        cls,
        low: Float[ArrayLike, " features"],
        high: Float[ArrayLike, " features"],
        inner: float | Float[Array, ""],
    ) -> Region:
        """The box without its middle: at least one feature lies outside the middle share `inner` of its range."""
        inset = (1 - jnp.asarray(inner)) / 2
        return cls._cells(jnp.asarray(low), jnp.asarray(high), inset, lambda extreme: extreme >= 1)

    @classmethod
    def _cells(cls, low, high, inset, keep) -> Region:
        # Cut every feature's range at `inset` from both ends; keep cells by their number of extreme features.
        # Weights are volumes in unit coordinates, so that a box without extent still has a distribution.
        cells = [c for c in itertools.product((0, 1, 2), repeat=low.size) if keep(sum(i != 1 for i in c))]
        cuts = jnp.stack([jnp.zeros(()), inset, 1 - inset, jnp.ones(())])
        start, end = cuts[np.array(cells)], cuts[np.array(cells) + 1]
        volume = jnp.prod(end - start, axis=-1)
        return cls(low + start * (high - low), low + end * (high - low), volume / volume.sum())

    def sample(self, key: Key[Array, ""]) -> Float[Array, " features"]:
        """One context."""
        choose, place = jax.random.split(key)
        # Inverse of the cumulative weights; the product keeps u below the last sum despite rounding.
        cumulative = jnp.cumsum(self.weight)
        u = jax.random.uniform(choose) * cumulative[-1]
        box = jnp.sum(u >= cumulative)
        share = jax.random.uniform(place, (self.low.shape[1],))
        return self.low[box] + share * (self.high[box] - self.low[box])

    def contains(self, contexts: Float[ArrayLike, "*batch features"]) -> Bool[Array, "*batch"]:
        """Whether contexts belong to the region; borders do, up to rounding."""
        inside = self._within(jnp.asarray(contexts)[..., None, :]).all(-1)
        return (inside & (self.weight > 0)).any(-1)

    def masks(self, contexts: Float[ArrayLike, "*batch features"]) -> dict[str, Bool[Array, "*batch"]]:
        """Where contexts lie relative to training on this region; every context is in exactly one class.

        - `train`: in the region;
        - `combination`: every value of a feature occurs in training, but not together;
        - `interpolation`: every feature is between its smallest and largest training value, some value is new;
        - `extrapolation`: some feature is outside its training range.
        """
        contexts = jnp.asarray(contexts)
        live = (self.weight > 0)[:, None]
        seen = (self._within(contexts[..., None, :]) & live).any(-2).all(-1)
        low, high = jnp.where(live, self.low, jnp.inf).min(0), jnp.where(live, self.high, -jnp.inf).max(0)
        slack = self._slack()
        between = ((contexts >= low - slack) & (contexts <= high + slack)).all(-1)
        train = self.contains(contexts)
        return {
            "train": train,
            "combination": seen & ~train,
            "interpolation": between & ~seen,
            "extrapolation": ~between,
        }

    def _within(self, contexts: Float[Array, "*batch 1 features"]) -> Bool[Array, "*batch boxes features"]:
        slack = self._slack()
        return (contexts >= self.low - slack) & (contexts <= self.high + slack)

    def _slack(self) -> Float[Array, " features"]:
        return 1e-5 * jnp.maximum(jnp.abs(self.low), jnp.abs(self.high)).max(0)


class ContextParams(eqx.Module):
    """What of a ContextMDP may vary inside one compiled program.

    Attributes:
        region: where the context of each episode is drawn from.
        visible: 1 appends the context to the observation, 0 appends zeros in its place.
        max_steps_in_episode: the episode's time limit.
    """

    region: Region
    visible: Float[Array, ""]
    max_steps_in_episode: int = eqx.field(static=True)


class ContextState(eqx.Module):
    """The simulator's own state with the context of the running episode."""

    simulator: Any
    context: Float[Array, " features"]
    time: Any


class ContextSpace:
    """What every world with context has: named features with bounds, and the regions that they span.

    Args:
        features: names of the features that form the context, in this order; the others keep their defaults.

    Raises:
        UserError: on an unknown or repeated feature.
    """

    available: Mapping[str, ContextFeature] = {}
    host: ClassVar[bool] = False  # True: steps in Python, for learners that the engine does not trace

    def __init__(self, features: Sequence[str]):
        super().__init__()
        for i, name in enumerate(features):
            if name not in self.available or name in features[:i]:
                raise UserError(
                    f"features takes different names out of {', '.join(self.available)}, got {', '.join(features)}."
                )
        self.features = tuple(self.available[name] for name in features)

    @property
    def low(self) -> Float[np.ndarray, " features"]:
        """Lower bounds of the features."""
        return np.array([f.low for f in self.features], np.float32)

    @property
    def high(self) -> Float[np.ndarray, " features"]:
        """Upper bounds of the features."""
        return np.array([f.high for f in self.features], np.float32)

    @property
    def default(self) -> Float[np.ndarray, " features"]:
        """The context of the unmodified environment."""
        return np.array([f.default for f in self.features], np.float32)

    @property
    def time_limit(self) -> int:
        """Steps of an episode, unless `params` says otherwise."""
        raise NotImplementedError

    def scale(self, context: Float[ArrayLike, "*batch features"]) -> Float[Array, "*batch features"]:
        """The context as a policy sees it: the bounds of each feature become -1 and 1."""
        return (2 * jnp.asarray(context) - self.high - self.low) / (self.high - self.low)

    def grid(self, size: int) -> Float[np.ndarray, "cells features"]:
        """`size` equally spaced values per feature from bound to bound, all combinations, last feature fastest."""
        axes = [np.linspace(f.low, f.high, size) for f in self.features]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)).astype(np.float32)

    def box(self, share: float = 1.0) -> Region:
        """The middle `share` of every feature's range."""
        inset = (1 - share) / 2 * (self.high - self.low)
        return Region.box(self.low + inset, self.high - inset)

    def params(
        self, region: Region | None = None, visible: float | Float[Array, ""] = 1.0, max_steps: int | None = None
    ) -> ContextParams:
        """Parameters of a run; by default only the default context, visible, with the simulator's time limit."""
        region = Region.points(self.default[None]) if region is None else region
        return ContextParams(region, jnp.asarray(visible, jnp.float32), max_steps or self.time_limit)

    def returns(
        self,
        act: Callable[[Any, Any], Any],
        contexts: Float[ArrayLike, "episodes features"],
        keys: Key[Array, " episodes"],
        visible: float | Float[Array, ""] = 1.0,
    ) -> Float[ArrayLike, " episodes"]:
        """Undiscounted returns of whole episodes, one under each context.

        Args:
            act: (key, observation) -> action; a pytree (`jax.tree_util.Partial` of a function and a policy) is
                compiled once for all policies of one shape.
        """
        raise NotImplementedError


def episode_return(
    environment: Environment, params: Any, act: Callable[[Any, Any], Any], key: Key[Array, ""]
) -> Float[Array, ""]:
    """Undiscounted return of one episode, until the environment ends it or its time limit.

    Args:
        act: (key, observation) -> action.
        params: the environment's parameters, with a static `max_steps_in_episode`.
    """
    start, run = jax.random.split(key)
    observation, state = environment.reset_env(start, params)

    def step(carry, key):
        observation, state, alive, total = carry
        act_key, step_key = jax.random.split(key)
        observation, state, reward, terminated, _ = environment.step_env(
            step_key, state, act(act_key, observation), params
        )
        return (observation, state, alive & ~terminated, total + jnp.where(alive, reward, 0.0)), None

    carry = observation, state, jnp.array(True), jnp.zeros(())
    carry, _ = jax.lax.scan(step, carry, jax.random.split(run, params.max_steps_in_episode))
    return carry[3]


class ContextMDP(ContextSpace, Environment):
    """A gymnax environment with context: drawn at every reset, constant within an episode.

    It keeps gymnax's own interface (keyed `reset` and `step`, automatic reset, spaces), so whatever learns on
    gymnax learns on it. The observation is the simulator's, followed by the context scaled so that each
    feature's bounds are -1 and 1 (or by zeros, if hidden).

    Axes: every name in `available`, with its bounds. A family of your own defines `available`, `simulator` and
    `physics`; `ContextGymnax` does so for any gymnax environment.

    Source: Benjamins et al., "Contextualize Me" (2022), section 3; simulators from gymnax.
    """

    # What a task family defines --------------------------------------------------------------------------

    @property
    def simulator(self) -> Environment:
        """The gymnax environment that computes the dynamics."""
        raise NotImplementedError

    def physics(self, context: Mapping[str, Any]) -> Any:
        """The simulator's parameters under a context (feature name -> value; all others at their defaults)."""
        raise NotImplementedError

    def drive(self, action: Any, context: Mapping[str, Any]) -> Any:
        """The action as the actuators carry it out."""
        return action

    # ContextSpace's interface ----------------------------------------------------------------------------

    @property
    def time_limit(self) -> int:
        """The simulator's own."""
        return self.simulator.default_params.max_steps_in_episode

    def returns(
        self,
        act: Callable[[Any, Any], Any],
        contexts: Float[ArrayLike, "episodes features"],
        keys: Key[Array, " episodes"],
        visible: float | Float[Array, ""] = 1.0,
    ) -> Float[Array, " episodes"]:
        """Undiscounted returns of whole episodes, one under each context, all at once."""

        def run(context, key):
            return episode_return(self, self.params(Region.points(context[None]), visible), act, key)

        return jax.vmap(run)(jnp.asarray(contexts), keys)

    # gymnax's interface ----------------------------------------------------------------------------------

    @property
    def default_params(self) -> ContextParams:
        """Only the default context, visible."""
        return self.params()

    def reset_env(self, key: Key[Array, ""], params: ContextParams) -> tuple[Float[Array, " obs"], ContextState]:
        """A new episode under a new context."""
        where, start = jax.random.split(key)
        context = params.region.sample(where)
        observation, inner = self.simulator.reset_env(start, self.physics(self._named(context)))
        return self._seen(observation, context, params.visible), ContextState(inner, context, 0)

    def step_env(self, key: Key[Array, ""], state: ContextState, action: Any, params: ContextParams) -> tuple:
        """One step of the simulator under the episode's context."""
        named = self._named(state.context)
        observation, inner, reward, terminated, info = self.simulator.step_env(
            key, state.simulator, self.drive(action, named), self.physics(named)
        )
        observation = self._seen(observation, state.context, params.visible)
        return observation, ContextState(inner, state.context, state.time + 1), reward, terminated, info

    def get_obs(
        self, state: ContextState, params: ContextParams | None = None, key: Any = None
    ) -> Float[Array, " obs"]:
        """The simulator's observation and the scaled context (zeros if hidden)."""
        visible = 1.0 if params is None else params.visible
        return self._seen(self.simulator.get_obs(state.simulator), state.context, visible)

    def is_terminated(self, state: ContextState, params: ContextParams) -> Bool[Array, ""]:
        """Whether the simulator's own end of the episode is reached (time limits apart)."""
        return self.simulator.is_terminated(state.simulator, self.physics(self._named(state.context)))

    def action_space(self, params: ContextParams | None = None) -> spaces.Space:
        """The simulator's actions."""
        return self.simulator.action_space(self.simulator.default_params)

    def observation_space(self, params: ContextParams) -> spaces.Box:
        """The simulator's observations, then one number per feature."""
        shape = self.simulator.observation_space(self.simulator.default_params).shape
        return spaces.Box(-jnp.inf, jnp.inf, (math.prod(shape) + len(self.features),), jnp.float32)

    @property
    def name(self) -> str:
        """The simulator's name."""
        return self.simulator.name

    @property
    def num_actions(self) -> int:
        """The simulator's number of actions."""
        return self.simulator.num_actions

    def _seen(self, observation: Any, context: Float[Array, " features"], visible: Any) -> Float[Array, " obs"]:
        return jnp.concatenate([jnp.ravel(observation), visible * self.scale(context)])

    def _named(self, context: Float[Array, " features"]) -> dict[str, Any]:
        values = {name: feature.default for name, feature in self.available.items()}
        return values | {f.name: context[i] for i, f in enumerate(self.features)}

    # Two environments with the same features are the same static argument of a compiled function.
    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.features == other.features  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.features))


class ContextPendulum(ContextMDP):
    """gymnax Pendulum-v1 (torque-limited swing-up, 200 steps) with its physics as context.

    Axes: length and gravity (bounds of the catalogue's study), mass (Packer et al. 2018, table 1: regular and
    extreme together), max_torque, and torque_sign (-1 reverses the motor).
    """

    available = {
        "length": ContextFeature("length", 0.4, 1.8, 1.0, "m"),
        "gravity": ContextFeature("gravity", 5.0, 15.0, 10.0, "m/s²"),
        "mass": ContextFeature("mass", 0.5, 1.5, 1.0, "kg"),
        "max_torque": ContextFeature("max_torque", 1.0, 3.0, 2.0, "N m"),
        "torque_sign": ContextFeature("torque_sign", -1.0, 1.0, 1.0),
    }
    simulator = pendulum.Pendulum()  # type: ignore[assignment]

    def __init__(self, features: Sequence[str] = ("length", "gravity")):
        super().__init__(features)

    def physics(self, context: Mapping[str, Any]) -> pendulum.EnvParams:
        """Pendulum's own parameters."""
        return pendulum.EnvParams(
            g=context["gravity"], l=context["length"], m=context["mass"], max_torque=context["max_torque"]
        )

    def drive(self, action: Any, context: Mapping[str, Any]) -> Any:
        """Torque in N m, reversed if the sign says so."""
        return action * context["torque_sign"]

    def action_space(self, params: ContextParams | None = None) -> spaces.Box:
        """Torques up to the largest that any context allows; the simulator clips to the context's own limit."""
        limit = max([f.high for f in self.features if f.name == "max_torque"], default=2.0)
        return spaces.Box(-limit, limit, (1,), jnp.float32)


class ContextCartPole(ContextMDP):
    """gymnax CartPole-v1 (500 steps, one point a step) with its physics as context.

    Axes: force and length (half of the pole, as in the simulator), gravity, cart_mass. A negative force
    reverses the motor. The masses and moments that the simulator derives from these follow the context (in
    carl-bench they keep their default values: gymnasium computes them once, in its constructor).
    """

    available = {
        "force": ContextFeature("force", 2.0, 20.0, 10.0, "N"),
        "length": ContextFeature("length", 0.1, 1.0, 0.5, "m"),
        "gravity": ContextFeature("gravity", 5.0, 15.0, 9.8, "m/s²"),
        "cart_mass": ContextFeature("cart_mass", 0.5, 2.0, 1.0, "kg"),
    }
    simulator = cartpole.CartPole()  # type: ignore[assignment]

    def __init__(self, features: Sequence[str] = ("force", "length")):
        super().__init__(features)

    def physics(self, context: Mapping[str, Any]) -> cartpole.EnvParams:
        """CartPole's own parameters, the derived ones recomputed."""
        base = cartpole.EnvParams()
        return base.replace(
            gravity=context["gravity"],
            masscart=context["cart_mass"],
            total_mass=context["cart_mass"] + base.masspole,
            length=context["length"],
            polemass_length=base.masspole * context["length"],
            force_mag=context["force"],
        )


def context_protocol(kind: str, environment: ContextMDP, *, wide: float = 0.75, narrow: float = 0.1) -> Region:
    """The training region of one of the three evaluation protocols over a context space.

    A: the first feature is narrow, the others wide. B: all features wide, a box. C: a cross, at most one feature
    leaves its narrow band at a time. `Region.masks(environment.grid(n))` then says which test contexts ask for
    interpolation, for a new combination or for extrapolation.

    Args:
        wide: share of each feature's range that training covers, in the middle of it.
        narrow: the same for a feature that is held nearly constant.

    Source: Benjamins et al. (2022), section on the evaluation protocol, after Kirk et al. (2023), section 4.

    Raises:
        UserError: on an unknown kind, or shares that are not 0 <= narrow <= wide <= 1.
    """
    if not 0 <= narrow <= wide <= 1 or wide == 0:
        raise UserError(f"narrow and wide take shares with 0 <= narrow <= wide <= 1, got {narrow} and {wide}.")
    inside = environment.box(wide)
    if kind == "B":
        return inside
    if kind == "C":
        return Region.cross(inside.low[0], inside.high[0], narrow / wide)
    if kind != "A":
        raise UserError(f"kind takes one of A, B and C, got {kind!r}.")
    band = environment.box(narrow)
    return Region(inside.low.at[:, 0].set(band.low[:, 0]), inside.high.at[:, 0].set(band.high[:, 0]), inside.weight)
