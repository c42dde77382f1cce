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
        exported = {
            alias.asname or alias.name
            for node in ast.walk(ast.parse(init.read_text() if init.is_file() else ""))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
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


def _section(doc: str, title: str) -> str:
    """What a docstring says under `Title:`, to the next blank line; empty if it does not."""
    for paragraph in doc.split("\n\n"):
        head, colon, text = paragraph.strip().partition(":")
        if head == title and colon:
            return " ".join(text.split())
    return ""


@dataclasses.dataclass(frozen=True)
class PublicName:
    """Something that a package exports: what to import, from where, and the first line of its docstring."""

    name: str
    package: str
    summary: str


@functools.lru_cache(maxsize=1)
def public_names() -> dict[str, PublicName]:
    """What worlds, models, methods, measures and learners export, by their names in lower case without underscores."""
    found = {}
    for floor in ("learners", "measures", "methods", "models", "worlds"):
        for init in sorted((PACKAGE / floor).glob("**/__init__.py")):
            package = ".".join(["unseen", *init.parent.relative_to(PACKAGE).parts])
            for node in ast.parse(init.read_text()).body:
                if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("unseen."):
                    continue
                summaries = _summaries(PACKAGE.joinpath(*(node.module or "").split(".")[1:]).with_suffix(".py"))
                for alias in node.names:
                    name = alias.asname or alias.name
                    summary = summaries.get(alias.name, "")
                    found[name.lower().replace("_", "")] = PublicName(name, package, summary)
    return found


def _summaries(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    nodes = (n for n in ast.parse(file.read_text()).body if isinstance(n, ast.ClassDef | ast.FunctionDef))
    return {node.name: " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()) for node in nodes}


def public_name(component: str) -> PublicName | None:
    """The public name that a component of the catalogue became, None if there is none yet."""
    spelled = re.match(r"[A-Za-z][\w-]*", component)
    return public_names().get(re.sub(r"[_-]", "", spelled.group()).lower()) if spelled else None
