"""What a file or a folder holds, as one hash, which may be remembered between processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddpm_kedro.files import atomic_write, sha256_of

_YOUNG_SECONDS = 2.0  # so coarse a clock may be that two changes have the same time
_Known = dict[str, list[Any]]  # path -> size, mtime_ns, ctime_ns, inode, sha256

_memories: list[_Known] = []  # of the whole process: nodes run in threads of the runner's


def content_hash(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of what is at `path`, as 64 hexadecimal digits; names and times of files do not
    count. Of a folder it is over the paths below it, sorted, and the hashes of these files; names
    that begin with a dot are left out, and so are empty folders. OSError where nothing is there or
    something in it cannot be read."""
    path = os.path.abspath(path)
    if not os.path.isdir(path):
        return _file_hash(path)
    whole = hashlib.sha256()
    for name in sorted(files_below(path)):
        whole.update(os.fsencode(f"{name}\0{_file_hash(os.path.join(path, name))}\n"))
    return whole.hexdigest()


@contextlib.contextmanager
def remembering(memory: Path) -> Iterator[None]:
    """Inside, a file is not read again whose hash the file `memory` knows for the same path, size,
    inode and times (mtime and ctime, in ns); what is new is written there at the end. All memories
    open in this process are asked and told. One that is damaged or cannot be written is only
    slower."""
    before = _read(memory)
    known = dict(before)
    _memories.append(known)
    try:
        yield
    finally:
        _memories[:] = [each for each in _memories if each is not known]
        new = {path: entry for path, entry in list(known.items()) if before.get(path) != entry}
        if new:
            others = _read(memory)  # of another process in the meantime
            kept = {path: others[path] for path in others.keys() - new if os.path.lexists(path)}
            with contextlib.suppress(OSError), atomic_write(memory, "w") as file:
                json.dump({**kept, **new}, file)


def _file_hash(path: str) -> str:
    before = _status(path)
    entries = (known.get(path, []) for known in list(_memories))
    entry = next((entry for entry in entries if entry[:4] == before), None)
    if entry is None:
        entry = [*before, sha256_of(path)]
        is_old = time.time() - before[2] / 1e9 > _YOUNG_SECONDS
        if not (is_old and before == _status(path)):
            return entry[4]
    for known in list(_memories):
        known[path] = entry
    return entry[4]


def _status(path: str) -> list[int]:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is neither a file nor a folder")  # a pipe would never end
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def files_below(root: str | os.PathLike[str]) -> Iterator[str]:
    """The paths below the folder `root` of all files that are not hidden; links are followed, but
    each folder is entered once. OSError where a folder cannot be read."""
    visited: set[str] = set()  # links may lead round in circles
    for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root)


def _refuse(error: OSError) -> None:
    raise error


def _read(memory: Path) -> _Known:
    """What is in a memory; nothing where it is damaged, in parts or as a whole."""
    try:
        known = json.loads(memory.read_bytes())
        return {path: entry for path, entry in known.items() if len(entry) == 5}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}
