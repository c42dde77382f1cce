"""Where a study's class is written, said so that another process can find it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from unseen.lab.errors import UserError
from unseen.lab.study import Study


def study_in_file(path: str | Path, name: str | None = None) -> type[Study]:
    """The Study subclass of a Python file.

    Raises:
        UserError: if the file is missing, is no Python, or holds no study or several (and `name` picks none).
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise UserError(f"There is no study file {path}.")
    module_name = f"unseen_study_{path.stem}".replace("-", "_")
    from unseen.lab.engine import set_up

    set_up()  # some packages start JAX when they are imported; devices are counted then
    module = sys.modules.get(module_name)
    if module is None or getattr(module, "__file__", None) != str(path):
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"{path} is no Python file.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except (SyntaxError, UnicodeDecodeError) as error:
            del sys.modules[module_name]
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise UserError(f"{path}{line}: this is no Python ({getattr(error, 'msg', error)}).") from None
        except BaseException:
            del sys.modules[module_name]
            raise
    cls = only_study(module, str(path), name)
    if cls.key == module_name.replace("_", "-"):
        cls.key = path.stem.replace("_", "-")
    return cls


def only_study(module: ModuleType, where: str, name: str | None = None) -> type[Study]:
    """The one Study subclass that a module writes (or, of several, the one called `name`).

    Raises:
        UserError: if it has none, or more than one.
    """
    found = [
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, Study) and member.__module__ == module.__name__
    ]
    found = [member for member in found if name in (None, member.__name__)]
    if len(found) != 1:
        names = ", ".join(study.__name__ for study in found)
        got = f"more than one study: {names}" if found else "no study: a class that extends unseen.Study"
        raise UserError(f"{where} has {got}.")
    return found[0]


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
    if source is None or (cls.__module__ == "__main__" and not source.exists()):
        raise UserError(f"{cls.__name__} must be written in a file to run in other processes.")
    return {**where, "file": str(source)}


def restore(where: dict[str, Any]) -> Study:
    """The inverse of `describe`."""
    from unseen.lab.engine import set_up

    set_up()
    if "module" in where:
        cls = getattr(importlib.import_module(where["module"]), where["class"])
    else:
        cls = study_in_file(where["file"], where["class"])
    settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in where["settings"].items()}
    return cls(**settings)


def source_of(cls: type[Study]) -> Path | None:
    """The file in which a study's class is written, if there is one."""
    try:
        return Path(inspect.getsourcefile(cls) or "").resolve() if inspect.getsourcefile(cls) else None
    except (TypeError, OSError):
        return None
