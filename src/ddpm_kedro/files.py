"""Files that are either whole or absent: writing aside, one rename, receipts."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Receipt:
    """What a stage wrote and where: a node returns it instead of the (large) thing itself.

    Args:
        path: the finished file or folder.
        facts: small JSON-serialisable facts about it (counts, hashes, steps).
    """

    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)


def fsync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: a rename survives a power cut only after this."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under ``path`` only when the block ends well.

    Args:
        path: where the finished file goes; its folder is made if it is missing.
        mode: ``"wb"`` or ``"w"`` (UTF-8), or ``"w+b"`` for a file that is also read.

    Raises:
        OSError: the disk is full or the folder is not writable; an older file stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = None if "b" in mode else "utf-8"
    name = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask's bits
    try:
        with os.fdopen(handle, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    fsync_folder(path.parent)


def publish(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Make the finished file ``source`` appear under ``target`` in one rename.

    A hard link where the file system has one (no bytes are copied), else a copy. The two names then
    stand for the same bytes, so a published file is replaced, never written into.

    Raises:
        OSError: ``source`` is missing, or the target's folder is not writable.
    """
    source, target = Path(source), Path(target)
    if target.exists() and os.path.samefile(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    try:
        try:
            os.link(source, aside)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            with open(source, "rb") as reader, open(aside, "wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
                writer.flush()
                os.fsync(writer.fileno())
        os.replace(aside, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        raise
    fsync_folder(target.parent)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
