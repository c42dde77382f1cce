"""Environments of your own behind `ContextMDP`'s interface: gymnax-style ones compiled, Gymnasium's on the host.

State of a host world: none is kept here but copies of the environment; every episode is seeded anew, so the same
keys give the same episodes as long as the environment's `reset(seed=...)` is all that decides about one.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, ArrayLike, Float, Key

from unseen.lab import UserError
from unseen.worlds.control.context import ContextFeature, ContextMDP, ContextParams, ContextSpace, Region

LANES = 32  # copies of an environment that play test episodes side by side
MAX_SEED = 2**31 - 1


class ContextGymnax(ContextMDP):
    """Any gymnax-style environment with fields of its parameters as context.

    Example:
        >>> from gymnax.environments.classic_control import acrobot
        >>> world = ContextGymnax(acrobot.Acrobot(), [ContextFeature("link_length_1", 0.5, 2.0, 1.0, "m")])

    Args:
        environment: with `reset_env(key, params)`, `step_env(key, state, action, params)` (which returns
            observation, state, reward, terminated, info), `action_space`, `observation_space`, `default_params`.
        features: named as fields of its parameters; several together form the context, in this order.
        max_steps: time limit of an episode; by default the parameters' `max_steps_in_episode`.

    Raises:
        UserError: if a feature is no number among the parameters, spaces do not fit, there is no time limit, or
            the environment cannot be traced by JAX.
    """

    simulator: Any = None

    def __init__(self, environment: Any, features: Sequence[ContextFeature], *, max_steps: int | None = None):
        self.simulator = environment
        self.base = environment.default_params
        _known(features, _numbers(self.base), f"the parameters of {self.name}")
        self.available = {f.name: f for f in features}
        self._limit = max_steps or getattr(self.base, "max_steps_in_episode", None)
        if not self._limit:
            raise UserError(f"max_steps takes the time limit of {self.name}, which names none; got none.")
        super().__init__([f.name for f in features])
        _check_spaces(self.name, environment.observation_space(self.base), environment.action_space(self.base), spaces)
        try:
            key = jax.random.key(0)
            action = jax.eval_shape(self.action_space().sample, key)
            _, state = jax.eval_shape(lambda k: self.reset_env(k, self.params()), key)
            jax.eval_shape(lambda k, s, a: self.step_env(k, s, a, self.params()), key, state, action)
        except Exception as error:
            raise UserError(f"JAX cannot trace {self.name}: {_sentence(error)}") from error

    @property
    def name(self) -> str:
        """The environment's name."""
        return getattr(self.simulator, "name", type(self.simulator).__name__)

    @property
    def time_limit(self) -> int:
        """Steps of an episode."""
        return int(self._limit)  # type: ignore[arg-type]

    def physics(self, context: Mapping[str, Any]) -> Any:
        """The environment's parameters, with the context in them."""
        if hasattr(self.base, "_replace"):
            return self.base._replace(**context)
        return dataclasses.replace(self.base, **context)

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.simulator is other.simulator  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((super().__hash__(), id(self.simulator)))


class HostContextMDP(ContextSpace):
    """Any Gymnasium environment with context, stepped on the host in several copies side by side.

    It answers to what studies ask of a `ContextMDP` (features, regions, `params`, spaces, `returns`), and
    `learners.ppo` learns on it; only `reset_env` and `step_env`, which JAX would trace, are replaced by `open`.
    The context is set before every reset; it is appended to the observation, scaled to -1 and 1, or zeros in
    its place.

    Example:
        >>> features = [ContextFeature("gravity", 5.0, 15.0, 9.8), ContextFeature("length", 0.25, 1.0, 0.5)]
        >>> world = HostContextMDP("CartPole-v1", features)

    Args:
        make: an id that `gymnasium.make` knows, or a class or function without arguments that makes one copy.
        features: the context; by default each names an attribute of the unwrapped environment.
        apply: (unwrapped environment, {name: value}) -> None sets a context where attributes are not enough (a
            mass in a MuJoCo model, derived quantities); the names are free then.
        max_steps: time limit; by default that of the environment's registration.
        name: for messages.

    Raises:
        UserError: if the environment cannot be made, lacks an attribute, has no time limit, or its spaces do not fit.
            Later on, if it raises or returns NaN within an episode.
    """

    host = True

    def __init__(
        self,
        make: str | Callable[[], Any],
        features: Sequence[ContextFeature],
        *,
        apply: Callable[[Any, Mapping[str, float]], None] | None = None,
        max_steps: int | None = None,
        name: str | None = None,
    ):
        self.name = name or (make if isinstance(make, str) else getattr(make, "__name__", "the environment"))
        self.available = {f.name: f for f in features}
        super().__init__([f.name for f in features])
        self._make = functools.partial(gymnasium.make, make) if isinstance(make, str) else make
        self._apply = apply or _set_attributes
        self._spare = [self.copy()]
        one = self._spare[0]
        if apply is None:
            _known(features, _numbers(one.unwrapped), f"the attributes of {self.name}")
        limit = max_steps or getattr(one.spec, "max_episode_steps", None)
        if not limit:
            raise UserError(f"max_steps takes the time limit of {self.name}, which is registered without; got none.")
        self._limit = int(limit)
        _check_spaces(self.name, one.observation_space, one.action_space, gymnasium.spaces)
        self._observation, self._action = one.observation_space, one.action_space

    @property
    def time_limit(self) -> int:
        """Steps of an episode."""
        return self._limit

    def copy(self) -> Any:
        """One more copy of the environment.

        Raises:
            UserError: if it cannot be made.
        """
        try:
            made = self._make()
        except Exception as error:
            raise UserError(f"{self.name} cannot be made: {_sentence(error)}") from error
        if not isinstance(made, gymnasium.Env):
            raise UserError(f"{self.name} must make a gymnasium.Env, got a {type(made).__name__}.")
        return made

    def action_space(self, params: ContextParams | None = None) -> spaces.Space:
        """The environment's actions, as a space of gymnax."""
        space = self._action
        if isinstance(space, gymnasium.spaces.Discrete):
            return spaces.Discrete(int(space.n))
        return spaces.Box(jnp.asarray(space.low), jnp.asarray(space.high), space.shape, jnp.float32)

    def observation_space(self, params: ContextParams | None = None) -> spaces.Box:
        """The environment's observation in one vector, then one number per feature."""
        return spaces.Box(-jnp.inf, jnp.inf, (math.prod(self._observation.shape) + len(self.features),), jnp.float32)

    def open(self, count: int, visible: float = 1.0, max_steps: int | None = None) -> HostLanes:
        """`count` copies side by side; `close` takes them back."""
        while len(self._spare) < count:
            self._spare.append(self.copy())
        taken, self._spare = self._spare[:count], self._spare[count:]
        return HostLanes(self, taken, visible, max_steps or self.time_limit)

    def close(self, lanes: HostLanes) -> None:
        """Take copies back, for others to use."""
        self._spare += lanes.copies

    def native(self, action: Any) -> Any:
        """An action as the environment takes it: a whole number, or clipped to the bounds."""
        space = self._action
        if isinstance(space, gymnasium.spaces.Discrete):
            return int(action) + int(space.start)
        return np.clip(action, space.low, space.high, dtype=space.dtype)

    def returns(
        self,
        act: Callable[[Any, Any], Any],
        contexts: Float[ArrayLike, "episodes features"],
        keys: Key[Array, " episodes"],
        visible: float | Float[Array, ""] = 1.0,
    ) -> Float[np.ndarray, " episodes"]:
        """Undiscounted returns of whole episodes, one under each context, `LANES` at a time."""
        contexts = np.asarray(contexts, np.float32)
        seeds = np.asarray(jax.vmap(lambda k: jax.random.randint(k, (), 0, MAX_SEED))(keys))
        total = np.zeros(len(contexts), np.float32)
        lanes = self.open(min(LANES, len(contexts)), float(visible))
        playing = np.arange(len(lanes.copies))  # the episode of each lane, -1 when there are none left
        for lane in range(len(playing)):
            lanes.reset(lane, contexts[lane], int(seeds[lane]))
        following, step = len(playing), 0
        while (playing >= 0).any():
            actions = np.asarray(
                _batched(act, jax.random.split(jax.random.fold_in(keys[0], step), len(playing)), lanes.seen)
            )
            step += 1
            for lane in np.flatnonzero(playing >= 0).tolist():
                reward, ended = lanes.step(lane, actions[lane])
                total[playing[lane]] += reward
                if ended and following < len(contexts):
                    lanes.reset(lane, contexts[following], int(seeds[following]))
                    playing[lane], following = following, following + 1
                elif ended:
                    playing[lane] = -1
        self.close(lanes)
        return total


class HostLanes:
    """Copies of a host world, each in an episode of its own.

    Attributes:
        seen: what a policy sees of each copy, (copies, observation and context).
    """

    def __init__(self, world: HostContextMDP, copies: list[Any], visible: float, max_steps: int):
        self.world, self.copies, self.visible, self.max_steps = world, copies, visible, max_steps
        self.seen = np.zeros((len(copies), *world.observation_space().shape), np.float32)
        self._contexts = np.tile(world.default, (len(copies), 1))
        self._time = np.zeros(len(copies), int)
        self._features = len(world.features)

    def reset(self, lane: int, context: Float[np.ndarray, " features"], seed: int) -> None:
        """A new episode in one copy.

        Raises:
            UserError: if the environment raises or observes NaN.
        """
        self._contexts[lane], self._time[lane] = context, 0
        scaled = (2 * context - self.world.high - self.world.low) / (self.world.high - self.world.low)
        self.seen[lane, -self._features :] = self.visible * scaled
        copy = self.copies[lane]
        named = {f.name: float(x) for f, x in zip(self.world.features, context, strict=True)}
        try:
            self.world._apply(copy.unwrapped, named)
            observation, _ = copy.reset(seed=seed)
        except Exception as error:
            raise UserError(self._failed(lane, f"raised {_sentence(error)}")) from error
        self._see(lane, observation)

    def step(self, lane: int, action: Any) -> tuple[float, bool]:
        """One step of one copy: the reward, and whether the episode is over.

        Raises:
            UserError: if the environment raises, or gives NaN as an observation or a reward.
        """
        if not np.isfinite(action).all():  # the policy has diverged, which is no fault of the environment
            return math.nan, True
        try:
            observation, reward, terminated, truncated, _ = self.copies[lane].step(self.world.native(action))
        except Exception as error:
            raise UserError(self._failed(lane, f"raised {_sentence(error)}")) from error
        self._time[lane] += 1
        if not math.isfinite(reward):
            raise UserError(self._failed(lane, f"returned the reward {reward}"))
        self._see(lane, observation)
        return float(reward), bool(terminated or truncated or self._time[lane] >= self.max_steps)

    def _see(self, lane: int, observation: Any) -> None:
        values = np.asarray(observation, np.float32).ravel()
        if len(values) != self.seen.shape[1] - self._features:
            raise UserError(self._failed(lane, f"observed {len(values)} numbers instead of its space's"))
        if not np.isfinite(values).all():
            raise UserError(self._failed(lane, "returned NaN or infinity in its observation"))
        self.seen[lane, : -self._features] = values

    def _failed(self, lane: int, what: str) -> str:
        named = ", ".join(f"{f.name} {x:.4g}" for f, x in zip(self.world.features, self._contexts[lane], strict=True))
        return (
            f"{self.world.name} {what.rstrip('.')} at step {self._time[lane]} of an episode with {named}; "
            "finished members are kept, and the same command goes on from them."
        )


class Lottery:
    """Contexts and seeds of training episodes, from one key: NumPy's draw from a `Region`."""

    def __init__(self, region: Region, key: Key[Array, ""]):
        self.rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
        self.low, self.high = np.asarray(region.low), np.asarray(region.high)
        weight = np.asarray(region.weight, float)
        self.weight = weight / weight.sum()

    def draw(self) -> tuple[Float[np.ndarray, " features"], int]:
        """A context and an environment's seed."""
        box = self.rng.choice(len(self.weight), p=self.weight)
        share = self.rng.random(self.low.shape[1])
        context = self.low[box] + share * (self.high[box] - self.low[box])
        return context.astype(np.float32), int(self.rng.integers(MAX_SEED))


@functools.lru_cache(maxsize=64)
def environment_named(name: str, context: tuple[str, ...] = (), max_steps: int = 0) -> ContextMDP | HostContextMDP:
    """The environment that "package.module:Name" says, behind the interface of `ContextMDP`.

    Name may be a `ContextMDP` or `HostContextMDP` (instance, subclass or function that returns one), a gymnax-style
    environment, a Gymnasium class, or an id that the module registers with Gymnasium ("gymnasium:CartPole-v1").
    The working directory is searched as well.

    Args:
        context: features of an environment that names none itself, each as name:low:high or name:low:high:default.
        max_steps: time limit of one that has none; 0 leaves its own.

    Raises:
        UserError: if it cannot be imported, is no environment, its context is wrong or its spaces do not fit.
    """
    found = _imported(name)
    limit = max_steps or None
    if isinstance(found, type) and issubclass(found, gymnasium.Env):
        return _on_host(found, context, limit, name)
    if not _is_environment(found) and not isinstance(found, ContextSpace | str) and callable(found):
        factory = found
        try:
            found = factory()
        except Exception as error:
            raise UserError(f"{name} cannot be made: {_sentence(error)}") from error
        if isinstance(found, gymnasium.Env):
            return _on_host(factory, context, limit, name)
    if isinstance(found, str):
        return _on_host(found, context, limit, name)
    if isinstance(found, ContextMDP | HostContextMDP):
        if context:
            raise UserError(f"context is for environments that name none; {name} has {_listed(found.available)}.")
        return found
    if _is_environment(found):
        features = _features(context, _numbers(found.default_params), name)
        return ContextGymnax(found, features, max_steps=limit)
    raise UserError(
        f"env takes a gymnax-style environment, a Gymnasium environment or a world with context, got {name}, "
        f"a {type(found).__name__}."
    )


def _on_host(make: Any, context: tuple[str, ...], limit: int | None, name: str) -> HostContextMDP:
    probe = HostContextMDP(make, [], apply=lambda *_: None, max_steps=limit, name=name)
    features = _features(context, _numbers(probe._spare[0].unwrapped), name)
    return HostContextMDP(make, features, max_steps=limit, name=name)


def _is_environment(thing: Any) -> bool:
    if isinstance(thing, type):
        return False
    return isinstance(thing, Environment) or all(hasattr(thing, n) for n in ("reset_env", "step_env", "default_params"))


def _imported(name: str) -> Any:
    """What "module:Name" stands for; for an id of Gymnasium's registry the id itself."""
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise UserError(f"env takes the name of a known environment or package.module:Name, got {name!r}.")
    here = os.getcwd()
    sys.path.insert(0, here)  # a command's own path begins with the folder that it is installed in
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        mine = module == missing or module.startswith(missing + ".")
        what = f"no module {missing} here or in the environment" if mine else f"{module} needs {missing}, not installed"
        raise UserError(f"env {name} cannot be imported: {what}.") from error
    except Exception as error:
        raise UserError(f"env {name} cannot be imported: {_sentence(error)}") from error
    finally:
        sys.path.remove(here)
    for part in path.split("."):
        if not hasattr(found, part):
            if path in gymnasium.registry:
                return path
            close = difflib.get_close_matches(part, [n for n in dir(found) if not n.startswith("_")], n=1)
            raise UserError(f"env {name}: {module} has no {path!r}" + (f"; did you mean {close[0]}?" if close else "."))
        found = getattr(found, part)
    return found


def _features(context: tuple[str, ...], numbers: Mapping[str, float], name: str) -> list[ContextFeature]:
    """Features from "name:low:high[:default]"; the default is the environment's own value."""
    if not context:
        raise UserError(
            f"context takes features of {name} as name:low:high, since it names none; it has {_listed(numbers)}."
        )
    features = []
    for text in context:
        which, *bounds = text.split(":")
        try:
            low, high, *default = map(float, bounds)
        except ValueError:
            raise UserError(f"context takes name:low:high or name:low:high:default, got {text!r}.") from None
        if len(default) > 1 or not low < high:
            raise UserError(f"context takes name:low:high with low below high, got {text!r}.")
        if which not in numbers:
            _known([ContextFeature(which, low, high, low)], numbers, name)
        features.append(ContextFeature(which, low, high, default[0] if default else numbers[which]))
    return features


def _known(features: Sequence[ContextFeature], numbers: Mapping[str, float], where: str) -> None:
    for f in features:
        if f.name not in numbers:
            close = difflib.get_close_matches(f.name, list(numbers), n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {_listed(numbers)}."
            raise UserError(f"context takes names of numbers in {where}, got {f.name!r}; {hint}")
        if not f.low < f.high:
            raise UserError(f"context takes low below high for {f.name}, got {f.low} and {f.high}.")


def _numbers(thing: Any) -> dict[str, float]:
    """Public attributes of an object (or fields of parameters) that are numbers."""
    if hasattr(thing, "_asdict"):
        values = thing._asdict()
    elif dataclasses.is_dataclass(thing):
        values = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing)}
    else:
        values = {name: value for cls in reversed(type(thing).__mro__) for name, value in vars(cls).items()} | vars(
            thing
        )
    return {
        name: float(value)
        for name, value in values.items()
        if not name.startswith("_") and isinstance(value, float | int | np.floating | np.integer | jax.Array)
        and not isinstance(value, bool) and np.ndim(value) == 0 and name != "max_steps_in_episode"
    }  # fmt: skip


def _set_attributes(environment: Any, context: Mapping[str, float]) -> None:
    for name, value in context.items():
        setattr(environment, name, value)


def _check_spaces(name: str, observation: Any, action: Any, kind: Any) -> None:
    if not isinstance(observation, kind.Box):
        raise UserError(
            f"{name} observes a {type(observation).__name__}, but its observations must be a Box "
            "(gymnasium.wrappers.FlattenObservation makes one)."
        )
    if isinstance(action, kind.Discrete):
        return
    if not isinstance(action, kind.Box):
        raise UserError(f"{name} takes actions in a {type(action).__name__}, but they must be Discrete or a Box.")
    if not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
        raise UserError(f"{name} takes unbounded actions, but they must have bounds.")


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:12]) + (" ..." if len(names) > 12 else "") if names else "no numbers among its attributes"


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ") + ("" if lines[0].endswith((".", "!", "?")) else ".")


@eqx.filter_jit
def _batched(act: Any, keys: Key[Array, " lanes"], seen: Float[ArrayLike, "lanes obs"]) -> Array:
    return jax.vmap(act)(keys, jnp.asarray(seen))
