"""Which version of a study's code made a result: a hash over what the code says, not how it is laid out."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

# What runs and shows a study does not belong to what the study computes.
_OUTSIDE = ("lab", "cli", "atlas")
_LAYOUT = {"ctx", "kind", "type_comment", "type_ignores"}


def source_version(path: Path, package_root: Path | None = None) -> str:
    """Twelve hex digits that change when the code of a study or of what it imports from `unseen` changes.

    Hashed are the study's file and the modules of the package that it imports, and those that they
    import, except `unseen.lab`, `unseen.cli` and `unseen.atlas`. Docstrings, comments and formatting do not
    count, nor does the Python version. A name that a package's `__init__.py` re-exports leads to the one
    module that defines it, so a new world beside the one that a study uses leaves the version as it is.
    Nothing is imported: the files are only parsed.

    Args:
        path: the study's file, inside the package or anywhere else.
        package_root: folder of the `unseen` package; by default the installed one.

    Raises:
        OSError, SyntaxError: if one of the files cannot be read or parsed.
    """
    root = Path(__file__).resolve().parents[1] if package_root is None else Path(package_root).resolve()
    path = Path(path).resolve()
    done: dict[Path, str] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in done:
            continue
        source = _source(file, file.stat().st_mtime_ns)
        done[file] = source.text
        waiting += _imports(source, file, root)
    digest = hashlib.sha256()
    digest.update(done.pop(path).encode())
    for file in sorted(done, key=lambda f: f.relative_to(root).as_posix()):
        digest.update(f"\n{file.relative_to(root).as_posix()}\n{done[file]}".encode())
    return digest.hexdigest()[:12]


def canonical(node: ast.AST) -> str:
    """What the code says: node types with their non-empty fields, without positions and docstrings."""
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__}:{node.value!r}"
    parts = []
    for name, value in ast.iter_fields(node):
        if name in _LAYOUT or value is None or value == []:
            continue
        if isinstance(value, list):
            kept = [item for item in value if not _is_docstring(item)]
            said = "[" + ",".join(canonical(v) if isinstance(v, ast.AST) else repr(v) for v in kept) + "]"
        else:
            said = canonical(value) if isinstance(value, ast.AST) else repr(value)
        parts.append(f"{name}={said}")
    return f"{type(node).__name__}({','.join(parts)})"


def _is_docstring(node: object) -> bool:
    """A statement that is nothing but a string has no effect wherever it stands."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a file says, what it imports, and which attributes it takes of each name (None: the name itself)."""

    text: str
    imports: tuple[ast.Import | ast.ImportFrom, ...]
    uses: Mapping[str, set[str] | None]


@functools.lru_cache(maxsize=2048)
def _source(file: Path, mtime_ns: int) -> _Source:
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    imports = []
    uses: dict[str, set[str] | None] = {}
    owned = set()  # names that were seen as the `a` of `a.b`; `ast.walk` comes to the outer node first
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owned.add(id(node.value))
            known = uses.setdefault(node.value.id, set())
            if known is not None:
                known.add(node.attr)
        elif isinstance(node, ast.Name) and id(node) not in owned:
            uses[node.id] = None
    return _Source(canonical(tree), tuple(imports), uses)


def _imports(source: _Source, file: Path, root: Path) -> Iterator[Path]:
    """The package's files that a module depends on."""
    for node in source.imports:
        if isinstance(node, ast.Import):
            for alias in node.names:
                names = alias.name.split(".")
                if names[0] == root.name:
                    yield from _whole(names[1:], root)
        elif (module := _module_of(node, file, root)) is not None:
            for alias in node.names:
                used = source.uses.get(alias.asname or alias.name, set())
                yield from _named(module, alias.name, used, root)


def _module_of(node: ast.ImportFrom, file: Path, root: Path) -> list[str] | None:
    """The module of a from-import as names below the package, None if it is someone else's."""
    names = node.module.split(".") if node.module else []
    if not node.level:
        return names[1:] if names and names[0] == root.name else None
    folder = file.parents[node.level - 1]
    return [*folder.relative_to(root).parts, *names] if folder.is_relative_to(root) else None


def _named(module: list[str], name: str, used: set[str] | None, root: Path) -> Iterator[Path]:
    """Files behind `from module import name`; `used` are the attributes taken of `name`, None if unknown."""
    if (module and module[0] in _OUTSIDE) or (not module and name in _OUTSIDE):
        return
    folder = root.joinpath(*module)
    if not (folder / "__init__.py").is_file():
        yield from _whole(module, root)
    elif (folder / f"{name}.py").is_file():
        yield folder / f"{name}.py"
    elif (folder / name / "__init__.py").is_file():
        if used is None:
            yield from _whole([*module, name], root)
        else:
            for attribute in sorted(used):
                yield from _named([*module, name], attribute, None, root)
    else:
        yield from _defined(folder / "__init__.py", name, used, root)


def _defined(init: Path, name: str, used: set[str] | None, root: Path) -> Iterator[Path]:
    """Files behind a name that a package offers: the module it comes from, or `__init__.py` itself."""
    for node in _source(init, init.stat().st_mtime_ns).imports:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    module = _module_of(node, init, root)
                    if module is not None:
                        yield from _named(module, alias.name, used, root)
                    return
    yield init


def _whole(module: list[str], root: Path) -> Iterator[Path]:
    """A module by its dotted name; a package stands for all that its `__init__.py` imports."""
    if not module or module[0] in _OUTSIDE:
        return
    place = root.joinpath(*module)
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.is_file():
            yield file
