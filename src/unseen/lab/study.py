"""A study: one paper, one file."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, dataclass_transform

from unseen.lab.claims import ClaimText, Judgement
from unseen.lab.errors import UserError
from unseen.lab.learner import Learner

Condition = Mapping[str, Any]
# of `unseen.run` and the command line
OPTIONS = {"scale", "out", "workers", "on", "fresh", "quiet", "json", "record", "estimate"}
SELECTORS = {"method", "tolerance", "drop"}  # arguments of xarray's `sel`, so no dimension may have their name


@dataclasses.dataclass(frozen=True)
class Part:
    """One crossing of conditions with the learner that they get. Most studies have one part.

    Attributes:
        name: the method's name.
        build: (study, **condition) -> Learner.
        varies: condition name -> default values.
        traced: numeric conditions that may be array values inside one compiled program.
        includes: (study, **condition) -> bool; cells of the crossing for which it is false are not run.
        seeds: name of the study's field that says how many seeds this part has.
    """

    name: str
    build: Callable[..., Learner]
    varies: Mapping[str, Sequence[Any]]
    traced: tuple[str, ...] = ()
    includes: Callable[..., bool] | None = None
    seeds: str = "seeds"


def part(
    *,
    varies: Mapping[str, Sequence[Any]] | None = None,
    traced: Sequence[str] = (),
    includes: Callable[..., bool] | None = None,
    seeds: str = "seeds",
) -> Callable[[Callable[..., Learner]], Callable[..., Learner]]:
    """Mark a method of a study as a further part: its own conditions and learner, in the same evidence.

    Its measures must have names of their own; conditions with one name share their values between parts.

    Example:
        >>> class Carl(Study):
        ...     varies = dict(visible=(False, True))
        ...     def learner(self, visible): ...
        ...     @part(varies=dict(mdps=(200,)))
        ...     def tabular(self, mdps): ...
    """

    def mark(method: Callable[..., Learner]) -> Callable[..., Learner]:
        method.part_of_study = Part(  # type: ignore[attr-defined]
            method.__name__, method, dict(varies or {}), tuple(traced), includes, seeds
        )
        return method

    return mark


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment's settings (its fields), conditions (`varies`), learner, claims and figure.

    A subclass needs no decorator: its annotated fields are settings, the names in `varies` become settings
    too (tuples of values), and the result is a frozen dataclass. A trailing comment on a field is its help.

    Class attributes:
        varies: condition name -> values; the study runs their crossing.
        traced: the conditions that may be array values inside one compiled program.
        smoke, paper: settings that replace the defaults at these scales (the defaults are laptop scale).
        watch: measures shown while it runs.
        key: the paper's key in the catalogue; by default the module's name with hyphens.
    """

    seeds: int = 8  # number of seeds
    first_seed: int = 100  # recorded seeds start at 100; pilots use lower ones

    varies: ClassVar[Mapping[str, Sequence[Any]]] = {}
    traced: ClassVar[tuple[str, ...]] = ()
    smoke: ClassVar[Mapping[str, Any]] = {}
    paper: ClassVar[Mapping[str, Any]] = {}
    watch: ClassVar[tuple[str, ...]] = ()
    key: ClassVar[str] = ""
    parts: ClassVar[Mapping[str, Part]] = {}
    claims: ClassVar[Mapping[str, str]] = {}  # claim id -> method name

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "key" not in cls.__dict__:
            module = cls.__module__.rpartition(".")[2]
            cls.key = module.strip("_").replace("_", "-")
        cls.parts = {p.name: p for p in _parts(cls)}
        annotations = inspect.get_annotations(cls)
        for p in cls.parts.values():
            unknown = [name for name in p.traced if name not in p.varies]
            if unknown:
                raise TypeError(f"{cls.__name__}.{p.name}: traced {unknown} are not among its conditions.")
            for name, values in p.varies.items():
                values = tuple(values)
                known = cls.__dict__.get(name, values)
                if known != values:
                    raise TypeError(f"{cls.__name__}: the condition {name!r} has two defaults, {known} and {values}.")
                annotations[name] = tuple[_kind(values), ...]
                setattr(cls, name, values)
        if taken := sorted((OPTIONS & set(annotations)) | (SELECTORS & set(cls.conditions()))):
            raise TypeError(
                f"{cls.__name__}: {taken[0]!r} cannot be the name of a setting; `unseen.run` or xarray uses it."
            )
        cls.__annotations__ = annotations
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        cls.claims = _claims(cls)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = check_type(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        if self.seeds < 1:
            raise UserError(f"seeds takes a whole number from 1 on, got {self.seeds}.")
        if self.first_seed < 0:
            raise UserError(f"first_seed takes a whole number from 0 on, got {self.first_seed}.")
        for name in self.conditions():
            values = getattr(self, name)
            if not values:
                raise UserError(f"{name} takes one value or more, got none.")
            repeated = [v for i, v in enumerate(values) if v in values[:i]]
            if repeated:
                raise UserError(f"{name} takes different values, got {repeated[0]!r} twice.")
        self.check()

    # What a subclass writes ------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `UserError` with one sentence if the settings do not make sense together."""

    def includes(self, **condition: Any) -> bool:
        """Whether the main part runs this cell of the crossing; by default all of them."""
        return True

    def learner(self, **condition: Any) -> Learner:
        """The learner of the main part under one condition."""
        raise NotImplementedError

    def figure(self, e: Any) -> Any:
        """Draw the finding from the evidence alone; returns a matplotlib figure."""
        raise NotImplementedError

    # What the laboratory reads ---------------------------------------------------------------------------

    @classmethod
    def at_scale(cls, scale: str = "laptop", **changes: Any) -> Study:
        """The study at a scale ("smoke", "laptop" or "paper") with some settings changed.

        Raises:
            UserError: on an unknown scale or setting, or a value of the wrong type.
        """
        scales = {"laptop": {}, "smoke": cls.smoke, "paper": cls.paper}
        if scale not in scales:
            raise UserError(f"scale takes one of smoke, laptop and paper, got {scale!r}.")
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for name in changes:
            if name not in known:
                raise UserError(f"{cls.key} has no setting {name!r}{_nearest(name, known)}")
        settings = {**scales[scale], **changes}
        for name in cls.conditions():  # a single value means a list of one
            if name in settings and not isinstance(settings[name], list | tuple):
                settings[name] = (settings[name],)
        return cls(**settings)

    @classmethod
    def conditions(cls) -> dict[str, tuple[Any, ...]]:
        """Names and default values of all conditions of all parts."""
        return {name: tuple(values) for p in cls.parts.values() for name, values in p.varies.items()}

    def settings(self) -> dict[str, Any]:
        """Every field with its value, conditions as lists: what the run's id is made from."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def cells(self, p: Part) -> Iterator[dict[str, Any]]:
        """The conditions that a part runs, in the order of the crossing."""
        names = list(p.varies)
        for values in itertools.product(*(getattr(self, name) for name in names)):
            cell = dict(zip(names, values, strict=True))
            if p.includes is None or p.includes(self, **cell):
                yield cell

    def judgement(self, claim: str, evidence: Any) -> Judgement:
        """What the study says of one claim (its id in the catalogue) on this evidence, a run's or any other.

        Raises:
            UserError: on an id that is none of the study's.
        """
        if claim not in self.claims:
            raise UserError(f"{self.key} has no claim {claim!r}{_nearest(claim, set(self.claims))}")
        found = getattr(self, self.claims[claim])(evidence)
        if not isinstance(found, Judgement):
            raise TypeError(f"{type(self).__name__}.{self.claims[claim]} must return a Judgement (see unseen.judge).")
        return found

    def seeds_of(self, p: Part) -> list[int]:
        """Seeds of a part: its own number of them, but never more than the study's."""
        count = min(self.seeds, getattr(self, p.seeds))
        return list(range(self.first_seed, self.first_seed + count))


def _parts(cls: type[Study]) -> Iterator[Part]:
    if cls.learner is not Study.learner:
        yield Part("learner", cls.learner, dict(cls.varies), tuple(cls.traced), cls.includes, "seeds")
    for name in dir(cls):
        marked = getattr(getattr(cls, name, None), "part_of_study", None)
        if isinstance(marked, Part):
            yield marked


def _claims(cls: type[Study]) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            text = getattr(member, "claim_text", None)
            if isinstance(text, ClaimText):
                if found.get(text.id, name) != name:
                    raise TypeError(
                        f"{cls.__name__}: the claim {text.id!r} has two judges, {found[text.id]} and {name}."
                    )
                found[text.id] = name
    return found


def _kind(values: tuple[Any, ...]) -> type:
    kinds = {type(v) for v in values}
    if kinds <= {int, float} and kinds:
        return float if float in kinds else int
    return kinds.pop() if len(kinds) == 1 else str


def _nearest(name: str, known: set[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(sorted(known))}."


def check_type(name: str, value: Any, hint: Any) -> Any:
    """`value` as `hint` says, or one clear sentence. Whole floats pass for ints and ints for floats."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise UserError(f"{name} takes a list of {_said(args[0])}s, got {value!r}.")
        return tuple(check_type(name, item, args[0]) for item in value)
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{name} takes one of {', '.join(map(str, args))}, got {value!r}.")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return check_type(name, value, next(a for a in args if a is not type(None)))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isnan(value):
            raise UserError(f"{name} takes a number, got nan.")
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint in (int, float, str, bool) and (type(value) is not hint):
        raise UserError(f"{name} takes a {_said(hint)}, got {value!r}.")
    return value


def _said(hint: Any) -> str:
    return {int: "whole number", float: "number", str: "word", bool: "true or false value"}.get(hint, str(hint))
