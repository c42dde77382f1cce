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
# The sizes of other scales: settings are part of a run's id and record anyway.
_SCALES = {"smoke", "paper"}


def source_version(path: Path, package_root: Path | None = None) -> str:
    """Twelve hex digits that change when the code of a study or of what it imports from `unseen` changes.

    Hashed are the study's file and the modules of the package that it imports, and those that they
    import, except `unseen.lab`, `unseen.cli` and `unseen.atlas`. Docstrings, comments and formatting do not
    count, nor do a study's sizes at other scales (`smoke`, `paper`), nor the Python version. A name that a
    package's `__init__.py` re-exports leads to the one module that defines it, so a new world beside the one
    that a study uses leaves the version as it is.
    Nothing is imported: the files are only parsed.

    Args:
        path: the study's file, inside the package or anywhere else.
        package_root: folder of the `unseen` package; by default the installed one.

    Raises:
        OSError, SyntaxError: if one of the files cannot be read or parsed.
    """
    study, others = _Walk(package_root).of(path)
    digest = hashlib.sha256(study.encode())
    for name, text in sorted(others.items()):
        digest.update(f"\n{name}\n{text}".encode())
    return digest.hexdigest()[:12]


def source_digests(path: Path, package_root: Path | None = None) -> dict[str, str]:
    """The files on which `source_version` depends, each with a hash of its bytes: as long as they are the
    same, so is the version, and nothing needs to be parsed. Names are relative to the package.

    Raises:
        ValueError: if the study is not in the package.
    """
    walk = _Walk(package_root)
    walk.of(path)
    return {file.relative_to(walk.root).as_posix(): file_digest(file) for file in sorted(walk.read)}


def file_digest(file: Path) -> str:
    """Twelve hex digits of a file's bytes; empty if there is no such file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.is_file() else ""


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
            if isinstance(node, ast.ClassDef) and name == "body":
                kept = [item for item in kept if not _is_scale(item)]
            said = "[" + ",".join(canonical(v) if isinstance(v, ast.AST) else repr(v) for v in kept) + "]"
        else:
            said = canonical(value) if isinstance(value, ast.AST) else repr(value)
        parts.append(f"{name}={said}")
    return f"{type(node).__name__}({','.join(parts)})"


def _is_docstring(node: object) -> bool:
    """A statement that is nothing but a string has no effect wherever it stands."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_scale(node: object) -> bool:
    """`smoke = dict(...)` or `paper = dict(...)` in a class."""
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return isinstance(target, ast.Name) and target.id in _SCALES


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


class _Walk:
    """Follows a study's imports through the package and notes every file that it reads on the way."""

    def __init__(self, package_root: Path | None):
        self.root = Path(__file__).resolve().parents[1] if package_root is None else Path(package_root).resolve()
        self.read: set[Path] = set()

    def of(self, path: Path) -> tuple[str, dict[str, str]]:
        """What the study says, and what each module says that it depends on."""
        path = Path(path).resolve()
        done: dict[Path, str] = {}
        waiting = [path]
        while waiting:
            file = waiting.pop()
            if file not in done:
                source = self.source(file)
                done[file] = source.text
                waiting += self.imports(source, file)
        study = done.pop(path)
        return study, {file.relative_to(self.root).as_posix(): text for file, text in done.items()}

    def source(self, file: Path) -> _Source:
        """A file, parsed."""
        self.read.add(file)
        return _source(file, file.stat().st_mtime_ns)

    def imports(self, source: _Source, file: Path) -> Iterator[Path]:
        """The package's files that a module depends on."""
        for node in source.imports:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    names = alias.name.split(".")
                    if names[0] == self.root.name:
                        yield from self.whole(names[1:])
            elif (module := self.module_of(node, file)) is not None:
                for alias in node.names:
                    used = source.uses.get(alias.asname or alias.name, set())
                    yield from self.named(module, alias.name, used)

    def module_of(self, node: ast.ImportFrom, file: Path) -> list[str] | None:
        """The module of a from-import as names below the package, None if it is someone else's."""
        names = node.module.split(".") if node.module else []
        if not node.level:
            return names[1:] if names and names[0] == self.root.name else None
        folder = file.parents[node.level - 1]
        return [*folder.relative_to(self.root).parts, *names] if folder.is_relative_to(self.root) else None

    def named(self, module: list[str], name: str, used: set[str] | None) -> Iterator[Path]:
        """Files behind `from module import name`; `used` are the attributes taken of it, None if unknown."""
        if (module and module[0] in _OUTSIDE) or (not module and name in _OUTSIDE):
            return
        folder = self.root.joinpath(*module)
        if not (folder / "__init__.py").is_file():
            yield from self.whole(module)
        elif (folder / f"{name}.py").is_file():
            yield folder / f"{name}.py"
        elif (folder / name / "__init__.py").is_file():
            if used is None:
                yield from self.whole([*module, name])
            else:
                for attribute in sorted(used):
                    yield from self.named([*module, name], attribute, None)
        else:
            yield from self.defined(folder / "__init__.py", name, used)

    def defined(self, init: Path, name: str, used: set[str] | None) -> Iterator[Path]:
        """Files behind a name that a package offers: the module it comes from, or `__init__.py` itself."""
        for node in self.source(init).imports:
            if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
                module = self.module_of(node, init)
                if module is not None:
                    original = next(a.name for a in node.names if (a.asname or a.name) == name)
                    yield from self.named(module, original, used)
                return
        yield init

    def whole(self, module: list[str]) -> Iterator[Path]:
        """A module by its dotted name; a package stands for all that its `__init__.py` imports."""
        if not module or module[0] in _OUTSIDE:
            return
        place = self.root.joinpath(*module)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                yield file
