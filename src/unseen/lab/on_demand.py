"""Names of a package whose modules are imported when they are first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def on_demand(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A package's `__getattr__`: what needs an extra, or loads slowly, costs nothing to those who do not use it.

    Example:
        >>> _ON_DEMAND = {"smerl": ("SMERL", "DIAYN")}
        >>> __getattr__ = on_demand(__name__, _ON_DEMAND)

    Args:
        package: its name.
        modules: of the package, each with the names that it defines.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def found(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return found
