"""Where a dataset's content lies, whatever its class: a local path, or one in a file system."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from fsspec import AbstractFileSystem
from kedro.io import DatasetError
from kedro.io.core import get_filepath_str

from ddpm_kedro.content import content_hash
from ddpm_kedro.files import atomic_write

_PATHS = ("_filepath", "filepath", "_path", "path", "_folder")
_ASKS_A_DATABASE = ("create_connection", "_project_id")  # then the path is that of the query


@dataclass(frozen=True)
class Place:
    """A file or folder: on the local disk where `files` is None, else in that file system."""

    path: str
    files: AbstractFileSystem | None = None

    def beside(self, name: str) -> Place:
        """The place of `name` in the same folder."""
        return Place(posixpath.join(posixpath.dirname(self.path), name), self.files)

    def to(self, other: Place) -> str:
        """The path of `other` as seen from this file's folder, where both are local."""
        if self.files is None and other.files is None:
            return os.path.relpath(other.path, os.path.dirname(self.path))
        return other.path

    def sha256(self) -> str | None:
        """The hash of the content, as by `content_hash`; None where there is none to read."""
        if self.files is None:
            with contextlib.suppress(OSError):
                return content_hash(self.path)
            return None
        if (data := self.read()) is not None:
            return hashlib.sha256(data).hexdigest()
        with contextlib.suppress(Exception):  # each file system has errors of its own
            found = self.files.find(self.path)
            parts = [(path[len(self.path) :], self.files.cat_file(path)) for path in sorted(found)]
            whole = [f"{name}\0{hashlib.sha256(data).hexdigest()}\n" for name, data in parts]
            return hashlib.sha256("".join(whole).encode()).hexdigest() if whole else None
        return None

    def read(self) -> bytes | None:
        """The bytes of a file; None where there is none to read."""
        with contextlib.suppress(OSError if self.files is None else Exception):
            return Path(self.path).read_bytes() if self.files is None else self._cat()
        return None

    def write(self, data: bytes) -> None:
        """Replace a file, on the local disk in one rename."""
        if self.files is not None:
            self.files.pipe_file(self.path, data)
            return
        with atomic_write(self.path) as file:
            file.write(data)

    def remove(self) -> None:
        """Remove a file if there is one."""
        if self.files is None:
            Path(self.path).unlink(missing_ok=True)
        elif self.files.exists(self.path):
            self.files.rm_file(self.path)

    def _cat(self) -> bytes:
        self.files.invalidate_cache(posixpath.dirname(self.path))
        return self.files.cat_file(self.path)


def place_of(dataset: Any) -> Place | None:
    """Where a dataset lies, a versioned one as if it had no versions; None where that cannot be
    looked at: in memory, in a database, nowhere yet."""
    dataset = getattr(dataset, "_dataset", dataset)  # what a CachedDataset holds
    path = stated_path(dataset)
    if path is None or any(hasattr(dataset, name) for name in _ASKS_A_DATABASE):
        return None
    return _placed(dataset, path)


def loaded_place(dataset: Any) -> Place | None:
    """Where `load` would find a dataset's content: of a versioned one the newest version, unless
    one is pinned; None where it has no place, or no version yet."""
    dataset = getattr(dataset, "_dataset", dataset)
    place = place_of(dataset)
    if place is None or not getattr(dataset, "_version", None):
        return place
    with contextlib.suppress(DatasetError):
        return _placed(dataset, dataset._get_load_path())
    return None


def stated_path(dataset: Any) -> Any:
    """The path that a dataset was given, without its version, or None."""
    paths = (getattr(dataset, name, None) for name in _PATHS)
    return next((path for path in paths if path is not None), None)


def _placed(dataset: Any, path: Any) -> Place | None:
    protocol = getattr(dataset, "_protocol", "file")
    if protocol in ("file", "local"):
        return None if "://" in str(path) else Place(str(path))
    files = getattr(dataset, "_fs", None) or getattr(dataset, "_filesystem", None)
    if files is None:
        return None
    whole = get_filepath_str(path, protocol) if isinstance(path, PurePath) else str(path)
    return Place(whole, files)
