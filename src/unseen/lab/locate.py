"""Where a study's class is written, said so that another process can find it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from unseen.lab.errors import UserError
from unseen.lab.study import Study


def study_in_file(path: str | Path, name: str | None = None) -> type[Study]:
    """The Study subclass of a Python file.

    Raises:
        UserError: if the file is missing, does not run, or holds no study or several (and `name` picks none).
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise UserError(f"There is no study file {path}.")
    module_name = f"unseen_study_{path.stem}".replace("-", "_")
    if (module := sys.modules.get(module_name)) is None or getattr(module, "__file__", None) != str(path):
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"{path} is not a Python file.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except UserError:
            del sys.modules[module_name]
            raise
        except Exception as error:
            del sys.modules[module_name]
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            reason = error.msg if isinstance(error, SyntaxError) else error
            raise UserError(f"{path}{line} does not load: {type(error).__name__}: {reason}.") from error
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Study) and value is not Study and value.__module__ == module_name
    ]
    found = [value for value in found if name in (None, value.__name__)]
    if len(found) != 1:
        count = "no study" if not found else f"{len(found)} studies ({', '.join(c.__name__ for c in found)})"
        raise UserError(f"{path} holds {count}; it takes exactly one subclass of unseen.Study.")
    (cls,) = found
    if cls.key == module_name.replace("_", "-"):
        cls.key = path.stem.replace("_", "-")
    return cls


def describe(study: Study) -> dict[str, Any]:
    """The class and the settings of a study as JSON knows them.

    Raises:
        UserError: for a class that is written in a notebook or at a prompt.
    """
    cls = type(study)
    where: dict[str, Any] = {"class": cls.__qualname__, "settings": study.settings()}
    if cls.__module__.startswith("unseen."):
        return {**where, "module": cls.__module__}
    source = source_of(cls)
    if source is None or cls.__module__ == "__main__" and not source.exists():
        raise UserError(f"{cls.__name__} must be written in a file to run in other processes.")
    return {**where, "file": str(source)}


def restore(where: dict[str, Any]) -> Study:
    """The inverse of `describe`."""
    if "module" in where:
        cls = getattr(importlib.import_module(where["module"]), where["class"])
    else:
        cls = study_in_file(where["file"], where["class"])
    return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in where["settings"].items()})


def source_of(cls: type[Study]) -> Path | None:
    """The file in which a study's class is written, if there is one."""
    try:
        return Path(inspect.getsourcefile(cls) or "").resolve() if inspect.getsourcefile(cls) else None
    except (TypeError, OSError):
        return None
