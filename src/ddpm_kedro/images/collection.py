"""Image files in a folder, a zip or a tar archive: which there are, and their bytes."""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from PIL import Image

from ddpm_kedro.content import files_below
from ddpm_kedro.errors import InputError
from ddpm_kedro.images.source import file_facts

IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pcx"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
Opened = Iterator[tuple[PurePosixPath, Callable[[], Image.Image]]]
_BROKEN_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)


class FileCollection(ABC):
    """Image files under one root, a folder or archive.

    `members` are their paths below the root, sorted; hidden files and files with another suffix
    than an image's are left out, the latter counted in `num_ignored`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        members = [PurePosixPath(name) for name in self._names()]
        members = [m for m in members if not any(p[0] == "." or p == "__MACOSX" for p in m.parts)]
        self.members = sorted(m for m in members if m.suffix.lower() in IMAGE_SUFFIXES)
        self.num_ignored = len(members) - len(self.members)

    @abstractmethod
    def _names(self) -> Iterator[str]:
        """The paths below the root of all files."""

    @abstractmethod
    def open_all(self, members: Sequence[PurePosixPath]) -> Opened:
        """Each of `members` with a function that opens it, in any order that stays the same."""

    def facts(self) -> dict[str, Any]:
        """Another one when an image is; see `file_facts`."""
        return file_facts([self.path], self.path, self.path.name)


class FolderCollection(FileCollection):
    def _names(self) -> Iterator[str]:
        return files_below(self.path)

    def open_all(self, members: Sequence[PurePosixPath]) -> Opened:
        for member in members:
            yield member, partial(Image.open, self.path / member)

    def facts(self) -> dict[str, Any]:
        files = [self.path / member for member in self.members]
        return file_facts(files, self.path, self.path.name)


class ZipCollection(FileCollection):
    def _names(self) -> Iterator[str]:
        with zipfile.ZipFile(self.path) as archive:
            yield from (entry.filename for entry in archive.infolist() if not entry.is_dir())

    def open_all(self, members: Sequence[PurePosixPath]) -> Opened:
        with zipfile.ZipFile(self.path) as archive:
            for member in members:
                try:
                    opener = partial(Image.open, io.BytesIO(archive.read(str(member))))
                except (*_BROKEN_ARCHIVE, RuntimeError) as error:  # RuntimeError: a password
                    opener = partial(_refuse, error)
                yield member, opener


class TarCollection(FileCollection):
    """Compressed or not; the images come in the archive's own order."""

    def _names(self) -> Iterator[str]:
        with tarfile.open(self.path) as archive:
            yield from (entry.name for entry in archive if entry.isfile())

    def open_all(self, members: Sequence[PurePosixPath]) -> Opened:
        wanted = {str(member) for member in members}
        with tarfile.open(self.path, "r|*") as archive:
            for entry in archive:
                name = str(PurePosixPath(entry.name))
                if entry.isfile() and name in wanted:
                    wanted.discard(name)
                    content = archive.extractfile(entry).read()
                    yield PurePosixPath(name), partial(Image.open, io.BytesIO(content))


def open_collection(path: Path) -> FileCollection:
    """The collection at `path`; InputError where it is a file but no archive, a broken archive, or
    not readable."""
    try:
        if path.is_dir():
            return FolderCollection(path)
        if zipfile.is_zipfile(path):
            return ZipCollection(path)
        if tarfile.is_tarfile(path):
            return TarCollection(path)
    except PermissionError as error:
        raise InputError(f"image_path={path}: not readable ({error})") from error
    except (*_BROKEN_ARCHIVE, OSError) as error:
        raise InputError(f"image_path={path}: the archive is broken ({error})") from error
    raise InputError(f"image_path={path} is neither a folder nor a zip or tar archive of images")


def _refuse(error: Exception) -> NoReturn:
    raise error
