"""Running a catalogued study, or one's own, by its name: what `unseen run` and a notebook call."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from unseen.atlas import catalogue
from unseen.lab import Study, UserError
from unseen.lab.locate import study_in_file
from unseen.lab.run import Run
from unseen.lab.run import run as run_study


def load(name: str) -> type[Study]:
    """The study of a catalogue key, or of a file (a name that ends in .py or has a slash).

    Raises:
        UserError: if there is no such study, or a package that it needs is missing.
    """
    if not name.endswith(".py") and os.sep not in name:
        return catalogue.load_study(name)
    try:
        return study_in_file(name)
    except ModuleNotFoundError as error:
        raise catalogue.missing_package(error, name) from error


def run(
    study: str | type[Study] | Study,
    *,
    scale: str = "laptop",
    out: str | os.PathLike[str] | None = None,
    workers: int = 1,
    on: str | None = None,
    fresh: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Run a study, go on with an interrupted run, or return a finished one at once.

    Args:
        study: a key of the catalogue ("grokking"), the path of a study file, a Study subclass or an instance.
        scale: "smoke" (seconds), "laptop" (minutes, the recorded one) or "paper" (the paper's own sizes).
        out: the run's directory or fsspec URL, by default `runs/KEY/ID`.
        workers: processes; 1 runs in this one, with a JAX device a core.
        on: "ray" or "ray=ADDRESS".
        fresh: start again instead of resuming or returning what is there.
        quiet: no progress.
        settings: fields and conditions of the study; a condition takes a value or a list.

    Returns:
        The run: `.evidence`, `.verdicts`, `.directory`, `.figure()`.

    Raises:
        UserError: one sentence about a setting, a directory or a missing extra.

    Example:
        >>> unseen.run("grokking", seeds=4, weight_decay=(0.0, 1.0))
    """
    if isinstance(study, str):
        study = load(study)
    if isinstance(study, Study):
        if settings:
            study = dataclasses.replace(study, **settings)
    else:
        study = study.at_scale(scale, **settings)
    known = catalogue.papers().get(study.key)
    if workers < 1:
        raise UserError(f"workers takes a whole number from 1 on, got {workers}.")
    return run_study(
        study,
        out=out,
        scale=scale,
        registered=catalogue.registered(type(study)),
        paper=dataclasses.asdict(known) if known else None,
        workers=workers,
        on=on,
        fresh=fresh,
        quiet=quiet,
    )
