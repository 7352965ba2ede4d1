"""One process at a time: an flock on a file that says who holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import weakref
from datetime import datetime
from pathlib import Path

from ddpm_kedro.errors import InputError

LOGGER = logging.getLogger(__name__)

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive lock, which the kernel drops when its holder dies, however it dies.

    The file at `path`, made where missing, stays; its content (process, host, since when) only
    serves the messages. Whether the lock is held is the kernel's knowledge, so a file left by a
    killed run blocks nobody. `work` is what the holder does, for the line that says that this
    process waits for it; None refuses at once. InputError where another run holds it and `work` is
    None, or the file system cannot lock; OSError where the folder is missing or not writable.
    """

    _handle: int | None = None

    def __init__(self, path: Path, *, work: str | None = None) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(path, self._handle, work)
            with contextlib.suppress(OSError):  # a full disk keeps nobody from reading
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, json.dumps(_this_process()).encode(), 0)
        except BaseException:
            self.release()
            raise
        _held.add(self)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def fileno(self) -> int:
        """The open file: a child process that gets a duplicate of it holds the lock too."""
        assert self._handle is not None, "the lock was released"
        return self._handle

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    __del__ = release


def _take(path: Path, handle: int, work: str | None) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise InputError(
                f"{path}: this file system cannot lock files ({error.strerror}); "
                "choose a data_root on another one"
            ) from None
    if work is None:
        raise InputError(
            f"{path.parent}: in use by {_holder(handle)}; wait until it ends, stop it, "
            "or choose another data_root"
        )
    LOGGER.info("%s is %s; waiting for it", _holder(handle), work)
    fcntl.flock(handle, fcntl.LOCK_EX)


def _this_process() -> dict[str, str | int]:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _holder(handle: int) -> str:
    try:
        facts = json.loads(os.pread(handle, 4096, 0))
        who = f"process {facts['pid']} on {facts['host']} since {facts['since']}"
    except (ValueError, KeyError, TypeError):
        return "another run (which has not yet said who it is)"
    this = _this_process()
    is_this = (facts["pid"], facts["host"]) == (this["pid"], this["host"])
    return f"this very process ({who})" if is_this else who


def _forget_in_child() -> None:
    """A forked child shares the lock's open file and would hold it beyond its parent's death."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)
