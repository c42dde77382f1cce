"""Evidence: one `xarray.Dataset` with dims (condition..., seed, step, ...), all that claims and figures read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from unseen.lab.engine import _FINAL, _SERIES, Block, Shapes
from unseen.lab.study import Part, Study

Result = tuple[Block, Mapping[str, np.ndarray]]


def assemble(study: Study, results: Iterable[Result], shapes: Shapes, attrs: Mapping[str, Any]) -> xr.Dataset:
    """One dataset from the evidence of all blocks.

    Cells of the crossing that were not run are NaN; groups with other step or length grids are joined on the
    union of their coordinates. `diverged` says which members had a NaN in their state (other than at their first looks
    only: a placeholder), `stopped_at` the step at which early stopping ended a member (NaN: never). Parts beside the
    main one have a step dimension of their own, and prefix it and these two with their name.
    """
    results = list(results)
    pieces = [_part(study, p, [r for r in results if r[0].part == p.name], shapes) for p in study.parts.values()]
    seen: dict[str, str] = {}
    for p, piece in zip(study.parts.values(), pieces, strict=True):
        for name in piece.data_vars:
            if (other := seen.setdefault(str(name), p.name)) != p.name:
                raise TypeError(f"{type(study).__name__}: the parts {other} and {p.name} both measure {name!r}.")
    merged = xr.merge(pieces, join="outer", compat="no_conflicts", combine_attrs="drop")
    merged.attrs = {"study": study.key, "settings": json.dumps(study.settings()), **attrs}
    return merged


def _part(study: Study, p: Part, results: Sequence[Result], shapes: Shapes) -> xr.Dataset:
    names = list(p.varies)
    prefix = "" if p.name == "learner" else f"{p.name}_"
    step = f"{prefix}step"
    axes: dict[str, list[Any]] = {name: list(getattr(study, name)) for name in names}
    axes["seed"] = study.seeds_of(p)
    coords: dict[str, list[Any]] = {}
    layout: dict[str, tuple[str, ...]] = {}
    kinds: dict[str, np.dtype] = {}
    sizes: dict[str, int] = {}
    for block, arrays in results:
        shape = shapes[p.name, repr(dict(block.static))]
        for key, array in arrays.items():
            if key == "seconds" or key in (_SERIES + "diverged", _SERIES + "done"):
                continue
            series, name = key.startswith(_SERIES), key.split("/", 1)[1]
            own = shape.dims.get(name, ())
            if array.ndim != 1 + series + len(own):
                raise TypeError(
                    f"{type(study).__name__}.{p.name}: the measure {name!r} has {array.ndim - 1 - series} dimensions, "
                    f"and `dims` names {list(own)}."
                )
            dims = (*((step,) if series else ()), *own)
            if layout.setdefault(name, dims) != dims:
                raise TypeError(
                    f"{type(study).__name__}.{p.name}: {name!r} is both a series and final, or changes dims."
                )
            kinds[name] = np.result_type(kinds.get(name, array.dtype), array.dtype)
            for dim, length in zip(own, array.shape[1 + series :], strict=True):
                if dim in shape.coords:
                    if len(shape.coords[dim]) != length:
                        known = len(shape.coords[dim])
                        raise TypeError(
                            f"{type(study).__name__}.{p.name}: {name!r} has {length} values along {dim!r}, "
                            f"its coordinate {known}."
                        )
                    _extend(coords.setdefault(dim, []), shape.coords[dim])
                elif sizes.setdefault(dim, length) != length:
                    raise TypeError(
                        f"{type(study).__name__}.{p.name}: {dim!r} has {sizes[dim]} and {length} values; "
                        "give it coords."
                    )
        if any(k.startswith(_SERIES) for k in arrays if k not in (_SERIES + "diverged", _SERIES + "done")):
            _extend(coords.setdefault(step, []), shape.steps)
    coords = {dim: sorted(values) if _numeric(values) else values for dim, values in coords.items()}
    where = {dim: {value: i for i, value in enumerate(values)} for dim, values in {**axes, **coords}.items()}
    length_of = {**sizes, **{dim: len(values) for dim, values in {**axes, **coords}.items()}}
    lead = (*names, "seed")
    lead_shape = tuple(length_of[dim] for dim in lead)
    complete = sum(len(b.members) for b, _ in results) == int(np.prod(lead_shape))
    complete = complete and len({tuple(shapes[p.name, repr(dict(b.static))].steps) for b, _ in results}) == 1

    full: dict[str, np.ndarray] = {}
    for name, dims in layout.items():
        shape_ = (*lead_shape, *(length_of[d] for d in dims))
        kind = kinds[name]
        if not np.issubdtype(kind, np.inexact) and not complete:
            kind = np.dtype(float)
        full[name] = np.full(shape_, np.nan, kind) if np.issubdtype(kind, np.inexact) else np.zeros(shape_, kind)
    diverged = np.zeros(lead_shape, bool)
    stopped = np.full(lead_shape, np.nan)
    stops = trained = False
    for block, arrays in results:
        shape = shapes[p.name, repr(dict(block.static))]
        trained |= shape.rounds > 0
        for row, (seed, traced) in enumerate(block.members):
            cell = {**block.static, **traced}
            at = (*(where[n][cell[n]] for n in names), where["seed"][seed])
            nan = arrays[_SERIES + "diverged"][row]
            # Placeholders (the return of an episode before the first has ended) go away by themselves.
            diverged[at] = bool(nan[int(nan.argmin()) :].any())
            if _SERIES + "done" in arrays:
                stops = True
                done = arrays[_SERIES + "done"][row]
                if done.any():
                    stopped[at] = shape.steps[int(done.argmax())]
            for name, dims in layout.items():
                key = _SERIES + name if _SERIES + name in arrays else _FINAL + name
                if key not in arrays:
                    continue
                grids = [
                    [where[d][v] for v in (shape.steps if d == step else shape.coords[d])]
                    if d in coords
                    else list(range(length_of[d]))
                    for d in dims
                ]
                target = full[name][at]
                if dims:
                    target[np.ix_(*grids)] = arrays[key][row]
                else:
                    full[name][at] = arrays[key][row]
    variables = {name: ((*lead, *layout[name]), array) for name, array in full.items()}
    if trained:
        variables[f"{prefix}diverged"] = (lead, diverged)
    if stops:
        variables[f"{prefix}stopped_at"] = (lead, stopped)
    return xr.Dataset(variables, {**axes, **coords})


def _extend(known: list[Any], values: Iterable[Any]) -> None:
    have = set(known)
    known += [v for v in values if v not in have]


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def to_bytes(evidence: xr.Dataset) -> bytes:
    """The dataset as a netCDF 4 file."""
    import io

    buffer = io.BytesIO()
    evidence.to_netcdf(buffer, engine="h5netcdf")
    return buffer.getvalue()


def from_bytes(data: bytes) -> xr.Dataset:
    """The dataset of a netCDF 4 file, in memory."""
    import io

    with xr.open_dataset(io.BytesIO(data), engine="h5netcdf") as opened:
        return opened.load()
