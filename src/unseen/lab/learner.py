"""A learner: pure functions for ONE seed under ONE condition."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Measures = Mapping[str, Any]


def _same(state: Any) -> Any:
    return state


def _nothing(state: Any) -> Measures:
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """What one seed does under one condition, said as pure functions; nobody writes a loop over seeds.

    The engine stacks seeds and traced conditions, `vmap`s and `jit`s the functions, drives the outer loop
    and turns what `measure` and `final` return into evidence. The functions may close over arrays (a
    dataset, say): those are shared by all members, not copied.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def init(key): return jax.random.normal(key, ())
        >>> halve = Learner(
        ...     init=init,
        ...     advance=lambda x: x / 2,
        ...     measure=lambda x: {"size": jnp.abs(x)},
        ...     steps=10,
        ... )

    Attributes:
        init: key -> state. The state is a pytree whose arrays are stacked over members; its other leaves
            (activation functions, shapes) must be the same for every seed.
        advance: state -> state, `every` updates further on.
        measure: state -> {name: array}, taken before the first update and after every `advance`; becomes
            evidence with dims (condition..., seed, step, *dims[name]).
        final: state -> {name: array}, taken once at the end; evidence without a step dimension. For what is
            too dear to measure at every step.
        done: state -> bool, early stopping: once true the member is not advanced any more, so its measures
            stay what they are; the step is kept as `stopped_at`.
        steps: number of updates in all, a multiple of `every`.
        every: number of updates in one `advance`, so the distance between two measurements.
        dims: names of the dimensions of each measured array, without seed and step. Scalars need no entry.
        coords: coordinate values of those dimensions.
        host: True for what JAX cannot trace (a simulator in C, a language model): the engine then calls the
            functions with concrete values, one member after the other or in worker processes.
    """

    init: Callable[[Any], Any]
    advance: Callable[[Any], Any] = _same
    measure: Callable[[Any], Measures] = _nothing
    final: Callable[[Any], Measures] | None = None
    done: Callable[[Any], Any] | None = None
    steps: int = 0
    every: int = 1
    dims: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    coords: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    host: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}.")
        if self.steps < 0 or self.steps % self.every:
            raise ValueError(
                f"steps must be a multiple of the {self.every} updates between two measurements, got {self.steps}."
            )

    @property
    def rounds(self) -> int:
        """How many times `advance` is called."""
        return self.steps // self.every

    @classmethod
    def once(
        cls,
        compute: Callable[[Any], Measures],
        *,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Sequence[Any]] | None = None,
        host: bool = False,
    ) -> Learner:
        """A learner without training: `compute(key) -> {name: array}`, once a seed (theory, exact answers,
        protocols)."""
        return cls(init=_same, final=compute, dims=dims or {}, coords=coords or {}, host=host)
