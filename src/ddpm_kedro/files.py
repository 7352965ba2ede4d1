"""Files and folders that are whole or absent: written aside, one rename; receipts."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

_ASIDE = ".aside-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class Receipt:
    """What a stage wrote and where: a node returns it instead of the (large) thing itself."""

    path: Path
    """The finished file or folder."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Small, JSON-serialisable: counts, hashes, steps."""


def fsync(path: str | os.PathLike[str]) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under `path` only when the block ends well; `mode` is
    `"wb"` or `"w"` (UTF-8). The folder is made if it is missing. An older file stays as it was
    at an OSError, where the disk is full or the folder is not writable."""
    encoding = None if "b" in mode else "utf-8"
    with _aside(Path(path)) as aside:
        handle = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask's bits
        with os.fdopen(handle, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder to fill that appears under `path` only when the block ends well.

    What stood there before changes places with it in one system call on Linux. Where that call is
    missing two renames follow each other, and between them a reader finds nothing. The files in it
    are the caller's to bring to the disk. Only one process at a time may write to a `path`. At an
    OSError, where the disk is full or the folder is not writable, an older folder stays.
    """
    path = Path(path)
    for left in path.parent.glob(f"{_ASIDE}{'?' * 32}-{glob.escape(path.name)}"):  # by a kill
        _delete(left)
    with _aside(path) as aside:
        aside.mkdir()
        yield aside
        fsync(aside)


def publish(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Make the finished file `source` appear under `target` in one rename, or raise OSError.

    A hard link where the file system has one (no bytes are copied), else a copy. The two names then
    stand for the same bytes, so a published file is replaced, never written into.
    """
    source, target = Path(source), Path(target)
    if target.exists() and os.path.samefile(source, target):
        return
    with _aside(target) as aside:
        try:
            os.link(source, aside)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            shutil.copyfile(source, aside)
            fsync(aside)


def remove(path: Path) -> None:
    """Remove a folder, file or link so that nobody ever finds half of it under its name."""
    aside = _name_aside(path)
    os.rename(path, aside)
    _delete(aside)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed writers and `remove` left in `folder`; none may be at work there."""
    for path in folder.glob(f"{_ASIDE}*"):
        _delete(path)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A free hidden name beside `path`: what the block makes there comes to stand under `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _name_aside(path)
    try:
        yield aside
        _replace(aside, path)
    finally:
        _delete(aside)  # by now what stood there before, or what failed
    fsync(path.parent)


def _name_aside(path: Path) -> Path:
    return path.with_name(f"{_ASIDE}{uuid.uuid4().hex}-{path.name}")


def _replace(new: Path, path: Path) -> None:
    """Put `new` in the place of `path`; an older folder may be left under the name `new`."""
    if not new.is_dir() or not path.exists():
        os.replace(new, path)
    elif not _exchange(new, path):
        old = _name_aside(path)
        os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(old, path)
            raise
        _delete(old)


def _exchange(first: Path, second: Path) -> bool:
    """Let two names change places at once; False where the system or file system cannot."""
    with contextlib.suppress(OSError, AttributeError):
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        names = os.fsencode(first), os.fsencode(second)
        return renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
    return False


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
