"""The public worlds and the public names of the package, read from the source: nothing is imported."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]


def worlds(folder: Path | None = None) -> list[dict[str, Any]]:
    """The public worlds with their axes.

    A world is a class that a package under `unseen.worlds` exports and whose docstring names its axes, in a
    paragraph `Axes: ...` or as entries of an `Axes:` section.
    """
    folder = PACKAGE / "worlds" if folder is None else folder
    found = []
    for file in sorted(folder.glob("**/*.py")):
        init = file.with_name("__init__.py")
        exported = {name for _, name, _ in _exports(init)}
        module = ".".join(["unseen.worlds", *file.relative_to(folder).with_suffix("").parts])
        for node in ast.parse(file.read_text()).body:
            if not isinstance(node, ast.ClassDef) or (node.name not in exported and file != init):
                continue
            doc = ast.get_docstring(node) or ""
            axes = _section(doc, "Axes")
            if axes:
                summary = " ".join(doc.split("\n\n")[0].split())
                found.append({"name": node.name, "module": module, "summary": summary, "axes": axes})
    return found


@functools.cache
def _exports(init: Path) -> list[tuple[str, str, str]]:
    """What an `__init__.py` gives: module, name, and the name that it has there.

    What it imports, and what its `__getattr__` imports when it is asked for: `_ON_DEMAND = {module: names}`.
    """
    found = []
    for node in ast.walk(ast.parse(init.read_text() if init.is_file() else "")):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unseen."):
            found += [(str(node.module), alias.asname or alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_ON_DEMAND":
            package = ".".join(["unseen", *init.parent.relative_to(PACKAGE).parts])
            for module, names in ast.literal_eval(node.value).items():
                found += [(f"{package}.{module}", name, name) for name in names]
    return found


def _section(doc: str, title: str) -> str:
    """What a docstring says under `Title:`, to the next blank line; empty if it does not."""
    for paragraph in doc.split("\n\n"):
        head, colon, text = paragraph.strip().partition(":")
        if head == title and colon:
            return " ".join(text.split())
    return ""


@dataclasses.dataclass(frozen=True)
class PublicName:
    """Something that a package exports.

    Attributes:
        name: what to import.
        package: from where.
        signature: how it is called; empty for what is neither a function nor a class.
        documentation: its docstring.
    """

    name: str
    package: str
    signature: str
    documentation: str

    @property
    def path(self) -> str:
        """Its whole name."""
        return f"{self.package}.{self.name}"

    @property
    def statement(self) -> str:
        """The line that imports it."""
        return f"from {self.package} import {self.name}"

    @property
    def summary(self) -> str:
        """The first paragraph of its docstring."""
        return " ".join(self.documentation.split("\n\n")[0].split())


@functools.lru_cache(maxsize=1)
def public_names() -> dict[str, PublicName]:
    """What worlds, models, methods, measures and learners export, by whole name."""
    found = {}
    for floor in ("learners", "measures", "methods", "models", "worlds"):
        for init in sorted((PACKAGE / floor).glob("**/__init__.py")):
            package = ".".join(["unseen", *init.parent.relative_to(PACKAGE).parts])
            for module, name, defined in _exports(init):
                known = _definitions(PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py"))
                public = PublicName(name, package, *known.get(defined, ("", "")))
                found[public.path] = public
    return found


@functools.lru_cache(maxsize=1)
def _spellings() -> dict[str, PublicName]:
    return {_plain(name.name): name for name in public_names().values()}


def _plain(name: str) -> str:
    return re.sub(r"[_-]", "", name).lower()


def _definitions(file: Path) -> dict[str, tuple[str, str]]:
    """Signature and docstring of the functions and classes of a file."""
    if not file.is_file():
        return {}
    nodes = (n for n in ast.parse(file.read_text()).body if isinstance(n, ast.ClassDef | ast.FunctionDef))
    return {node.name: (_signature(node), ast.get_docstring(node) or "") for node in nodes}


def _signature(node: ast.ClassDef | ast.FunctionDef) -> str:
    """As a call, an argument a line where it is long: of a class its constructor's, or its fields."""
    returns = ""
    if isinstance(node, ast.FunctionDef):
        function, returns = node, f" -> {ast.unparse(node.returns)}" if node.returns else ""
    else:
        function = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if function is None:
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        given = [ast.unparse(n) for n in fields if not ast.unparse(n.target).startswith("_")]
    else:
        given = _arguments(function.args)
        given = given[1:] if isinstance(node, ast.ClassDef) else given
    line = f"{node.name}({', '.join(given)}){returns}"
    return (
        line if len(line) <= 88 else "\n    ".join([f"{node.name}(", *(f"{one}," for one in given)]) + f"\n){returns}"
    )


def _arguments(args: ast.arguments) -> list[str]:
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    given = [_argument(a, d) for a, d in zip(positional, defaults, strict=True)]
    if args.posonlyargs:
        given.insert(len(args.posonlyargs), "/")
    if args.vararg or args.kwonlyargs:
        given.append(f"*{_argument(args.vararg, None) if args.vararg else ''}")
    given += [_argument(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return given + ([f"**{_argument(args.kwarg, None)}"] if args.kwarg else [])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    said = ast.unparse(argument)
    if default is None:
        return said
    return f"{said} = {ast.unparse(default)}" if argument.annotation else f"{said}={ast.unparse(default)}"


def public_name(component: str) -> PublicName | None:
    """The public name that a component of the catalogue became, None if there is none yet."""
    spelled = re.match(r"[A-Za-z][\w-]*", component)
    return _spellings().get(_plain(spelled.group())) if spelled else None
