"""What stays on the local disk, where it can be mapped into memory, linked, locked and renamed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from kedro.io import AbstractDataset, DatasetError, Version
from kedro.io.core import get_protocol_and_path

from ddpm_kedro.content import content_hash
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import Receipt, publish


class LocalEntry(AbstractDataset):
    """A local file at `filepath`, whose folder is made on the first save, or a folder at `path`;
    neither where the user has yet to name it.

    `written_by` is the pipeline that writes it, named to a user who loads it too early; `metadata`
    is for plugins, such as Kedro-Viz's layer. InputError where the place is remote, or Kedro hands
    over a `version` (for `versioned: true`) or `credentials`.
    """

    _missing: ClassVar[str] = "no file"

    def __init__(
        self,
        *,
        filepath: str | None = None,
        path: str | None = None,
        written_by: str | None = None,
        version: Version | None = None,
        credentials: Any = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        place = path or filepath
        protocol, where = get_protocol_and_path(place) if place else ("file", None)
        stays = "arrays, models, logs, previews and stores are plain local files (docs/data.md)"
        if version is not None:
            out = "leave `versioned: true` out of its catalog entry"
            raise InputError(f"{place or 'an entry without a place'}: {out}; {stays}")
        if protocol != "file" or credentials is not None:
            raise InputError(f"{place}: give a local path, without credentials; {stays}")
        self._path = None if where is None else Path(where)
        self._written_by = written_by
        self.metadata = metadata

    def facts(self) -> dict[str, Any] | None:
        """What a load depends on, told without loading; None where nothing is there. InputError
        where it cannot be read."""
        if not self._exists():
            return None
        try:
            return {"sha256": content_hash(self._path)}
        except OSError as error:
            raise InputError(f"{self._path} cannot be read: {error}") from error

    def _existing(self) -> Path:
        """The path of the file; InputError where there is none yet."""
        if not self._exists():
            raise InputError(f"{self._missing} {self._path}: {run_first(self._written_by)}")
        return self._path

    def _exists(self) -> bool:
        return self._path is not None and self._path.exists()

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path and str(self._path)}


class PublishedFile(LocalEntry):
    """A file that a stage wrote elsewhere, saved from its receipt; `is_finished` is whether the
    receipt saved last says that nothing is left to do for it."""

    is_finished = True

    def save(self, data: Receipt) -> None:
        """Publish the file in one rename: a link where the file system has links, else a copy.
        InputError where the folder is not writable, or its disk is full."""
        with writing(self._path):
            publish(data.path, self._path)
        self.is_finished = data.facts.get("finished", True)


@contextlib.contextmanager
def writing(path: str | Path, is_local: bool = True) -> Iterator[None]:
    """Turn an OSError, of a remote file system any error, into one line, an InputError."""
    failures = (OSError,) if is_local else (Exception,)
    try:
        yield
    except (InputError, DatasetError):
        raise
    except failures as error:
        hint = ": set data_root to a folder that you may write to and that has room"
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {path} ({reason}){hint if is_local else ''}") from error


def run_first(written_by: str | None) -> str:
    """What to do where a file is missing, for the end of a message."""
    return f"run `kedro run{f' --pipelines {written_by}' if written_by else ''}` first"
