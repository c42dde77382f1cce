"""Where runs and artifacts are kept: files written whole or not at all, checked when read, never unpickled."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import posixpath
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unseen.lab.errors import UserError

_MAGIC = b"unseen-arrays-1\n"


class StorageError(UserError):
    """The place to write to is full, read-only or not reachable; what was written before is still whole."""


class Damaged(Exception):
    """A stored file is truncated, altered or not ours."""


class Store:
    """A directory on any filesystem that fsspec knows: a path, or a URL such as `s3://bucket/run`.

    Every write is whole or not at all: a local file is written beside its name, flushed to disk and renamed;
    an object store puts whole objects by nature.
    """

    def __init__(self, url: str | os.PathLike[str]):
        import fsspec

        self.url = os.fspath(url)
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise StorageError(f"Cannot use {self.url} as a directory: {_sentence(error)}") from error
        self.is_local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def __str__(self) -> str:
        return self.root if self.is_local else self.url

    def path(self, name: str) -> str:
        """The full path of a file of this store, as its filesystem spells it."""
        return posixpath.join(self.root, name) if name else self.root

    def under(self, name: str) -> Store:
        """A store for a folder of this one."""
        return Store(posixpath.join(self.url, name))

    def exists(self, name: str = "") -> bool:
        """Whether a file (or, without a name, the directory) is there."""
        with self._plainly("read"):
            self.fs.invalidate_cache()
            return self.fs.exists(self.path(name))

    def names(self) -> list[str]:
        """Names of the files and folders in the directory; empty if it is not there."""
        with self._plainly("read"):
            self.fs.invalidate_cache()
            if not self.fs.exists(self.root):
                return []
            return sorted(posixpath.basename(p.rstrip("/")) for p in self.fs.ls(self.root, detail=False))

    def make(self) -> None:
        """Make the directory if it is missing."""
        with self._plainly("create"):
            self.fs.makedirs(self.root, exist_ok=True)

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            Damaged: if it is not there.
        """
        try:
            with self._plainly("read"):
                return self.fs.cat_file(self.path(name))
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            StorageError: if the disk is full, read-only or not reachable.
        """
        with self._plainly("write", name):
            path = self.path(name)
            if not self.is_local:
                self.fs.pipe_file(path, data)
                return
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            beside = f"{path}.{os.getpid()}-{threading.get_ident()}.part"
            try:
                with open(beside, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(beside, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
                raise

    def remove(self, name: str) -> None:
        """Remove a file or a folder with what is in it; nothing happens if it is not there."""
        with self._plainly("remove", name), contextlib.suppress(FileNotFoundError):
            self.fs.invalidate_cache()
            self.fs.rm(self.path(name), recursive=True)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object that `write_json` wrote.

        Raises:
            Damaged: if it is missing, does not parse, or its checksum does not fit.
        """
        try:
            record = json.loads(self.read(name))
            checksum = record.pop("checksum")
        except (ValueError, KeyError, AttributeError, TypeError):
            raise Damaged(f"{name} is damaged (it does not parse as a record of unseen)") from None
        if checksum != _json_checksum(record):
            raise Damaged(f"{name} is damaged (its checksum does not fit)")
        return record

    def write_json(self, name: str, record: Mapping[str, Any]) -> None:
        """A JSON object with a checksum of its own content."""
        full = {**record, "checksum": _json_checksum(record)}
        self.write(name, (json.dumps(full, indent=2) + "\n").encode())

    def read_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Arrays that `write_arrays` wrote.

        Raises:
            Damaged: if the file is missing, truncated, altered or foreign.
        """
        return unpack(self.read(name), name)

    def arrays_if_kept(self, name: str, otherwise: str) -> dict[str, np.ndarray] | None:
        """Arrays that `write_arrays` wrote, or None: where there is no such file, and where it is damaged, with a
        warning that names it and says what happens `otherwise`."""
        if not self.exists(name):
            return None
        try:
            return self.read_arrays(name)
        except Damaged as damage:
            import warnings

            warnings.warn(f"{self.path(name)}: {damage}; {otherwise}.", stacklevel=3)
            return None

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Named arrays in one checked file."""
        self.write(name, pack(arrays))

    @contextlib.contextmanager
    def _plainly(self, verb: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if verb in ("read", "remove"):
                raise
            raise StorageError(f"Cannot {verb} {self.path(name)}: no such directory.") from None
        except (OSError, PermissionError) as error:
            hint = " Free some space and run the same command to resume." if getattr(error, "errno", 0) == 28 else ""
            raise StorageError(f"Cannot {verb} {self.path(name)}: {_sentence(error)}{hint}") from error


def _sentence(error: BaseException) -> str:
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().splitlines()[0]
    return text if text.endswith(".") else text + "."


def _json_checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named arrays as bytes: a magic line, a SHA-256 of what follows, and an npz archive without pickles."""
    buffer = io.BytesIO()
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise TypeError(f"{name} is an array of Python objects, which cannot be stored.")
    np.savez(buffer, **{name.replace("/", "\x1f"): np.asarray(a) for name, a in arrays.items()})  # type: ignore[arg-type]
    body = buffer.getvalue()
    return _MAGIC + hashlib.sha256(body).digest() + body


def unpack(data: bytes, name: str = "the file") -> dict[str, np.ndarray]:
    """The inverse of `pack`.

    Raises:
        Damaged: if the bytes are truncated, altered or foreign.
    """
    if not data.startswith(_MAGIC):
        raise Damaged(f"{name} is damaged or was not written by unseen")
    digest, body = data[len(_MAGIC) : len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
    if hashlib.sha256(body).digest() != digest:
        raise Damaged(f"{name} is damaged (its checksum does not fit)")
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        return {key.replace("\x1f", "/"): archive[key] for key in archive.files}


def home() -> Path:
    """Where artifacts, compiled programs and (later) the atlas's database live: `UNSEEN_HOME`, or the user's
    cache directory."""
    named = os.environ.get("UNSEEN_HOME")
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("unseen"))
