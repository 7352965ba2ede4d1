"""What is laid over a dataset of kedro-datasets: whole saves, and one clear line for a mistake."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any, ClassVar

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from kedro.io.core import get_filepath_str

from ddpm_kedro.datasets.local_entry import run_first, writing
from ddpm_kedro.datasets.place import loaded_place
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write


class FileEntry:
    """A mixin, put before the dataset class that reads and writes the file, which takes `options`.

    `written_by` are the pipelines that write the file, named to a user who loads it too early. A
    load fails where there is no file, unless it is not `required`: then it gives None. InputError
    where nothing installed reaches that file system, or `versioned` does not fit what lies there.
    """

    _content: ClassVar[str]  # what the file is, in messages
    _end: ClassVar[bytes] = b""  # added to what the class below writes

    def __init__(
        self, *, written_by: str | None = None, required: bool = True, **options: Any
    ) -> None:
        try:
            super().__init__(**options)
        except (ImportError, ValueError) as error:  # fsspec's: no s3fs, say, or no such protocol
            raise InputError(f"{options['filepath']}: {error}") from error
        self._written_by = written_by
        self._required = required
        self._is_local = isinstance(self._fs, LocalFileSystem)
        if self._is_local and self._version and Path(self._filepath).is_file():
            hint = "versions need a folder of that name: move it, or leave `versioned: true` out"
            raise InputError(f"{self._filepath} is a file, {hint}")
        if self._is_local and not self._version and Path(self._filepath).is_dir():
            hint = "if it holds versions, say `versioned: true`, else move it"
            raise InputError(f"{self._filepath} is a folder, not a file: {hint}")

    def load(self) -> Any:
        """What the class below makes of the file, None where it is missing and not required;
        InputError where it is missing, cannot be read, or holds something else."""
        failures = (OSError, ValueError) if self._is_local else (Exception,)
        try:
            if self._exists():
                return super().load.__wrapped__(self)
        except failures as error:
            is_content = isinstance(error, ValueError | OSError) and not getattr(error, "errno", 0)
            reason = f"is not {self._content}" if is_content else "cannot be read"
            raise InputError(f"{self._shown(self._get_load_path())} {reason}: {error}") from error
        wanted = self._version and self._version.load
        if wanted:
            known = ", ".join(Path(path).parent.name for path in self._get_versions())
            where = self._shown(self._filepath)
            raise InputError(f"no version {wanted} of {where}: there are {known or 'none'}")
        if self._required:
            where = self._shown(self._filepath)
            raise InputError(f"no file {where}: {run_first(self._written_by)}")
        return None

    def facts(self) -> dict[str, Any] | None:
        """The hash of the file, or of the version that a load would read; None where there is none
        to read: a load says why."""
        place = loaded_place(self)
        sha256 = place and place.sha256()
        return {"sha256": sha256} if sha256 else None

    def save(self, data: Any) -> None:
        """Let the class below write into memory, then the file appear whole, or not at all;
        InputError where no such file can hold `data`, or it cannot be written."""
        aside, memory = copy.copy(self), _Memory(skip_instance_cache=True)
        aside._fs = memory
        with writing(self._shown(self._filepath), self._is_local):
            where = self._get_save_path()
            try:
                super().save.__wrapped__(aside, data)
            except (OSError, TypeError, ValueError) as error:
                message = f"{self._shown(where)}: cannot be written as {self._content}: {error}"
                raise InputError(message) from error
            content = memory.file.getvalue() + self._end
            if self._is_local:
                with atomic_write(where) as file:
                    file.write(content)
            else:
                self._fs.pipe_file(get_filepath_str(where, self._protocol), content)
        self._invalidate_cache()

    def _shown(self, path: Any) -> str:
        return str(path) if self._is_local else f"{self._protocol}://{path}"


class _Memory(AbstractFileSystem):
    """Stands in for the file system of a save: one file, which stays readable when it is closed.

    fsspec would close, and so publish, what a failing save has written by then.
    """

    def _open(self, *args: Any, **options: Any) -> io.BytesIO:
        self.file = _Kept()
        return self.file


class _Kept(io.BytesIO):
    def close(self) -> None:
        """The bytes are read afterwards."""
