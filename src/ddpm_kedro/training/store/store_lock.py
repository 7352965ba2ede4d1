"""One run at a time: an flock on a file that says who holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import weakref
from datetime import datetime
from pathlib import Path

from ddpm_kedro.errors import InputError

_held: weakref.WeakSet[StoreLock] = weakref.WeakSet()


class StoreLock:
    """An exclusive lock on a folder, which the kernel drops when its holder dies, however it dies.

    The file's content (process, host, since when) only serves the message of a refusal; whether
    the lock is held is the kernel's knowledge, so a file left by a killed run blocks nobody.

    Args:
        path: the lock file; it stays there when the lock is released.

    Raises:
        InputError: another run holds it, or the file system cannot lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(handle)
            os.close(handle)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(
                    f"{path.parent}: in use by {holder}; wait until it ends, stop it, "
                    "or choose another data_root"
                ) from None
            raise InputError(
                f"{path}: this file system cannot lock files ({error.strerror}); "
                "choose a data_root on another one"
            ) from None
        self._handle: int | None = handle
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(holder).encode(), 0)
        except OSError:
            self.release()
            raise
        _held.add(self)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.release()


def _holder(handle: int) -> str:
    try:
        facts = json.loads(os.pread(handle, 4096, 0))
        who = f"process {facts['pid']} on {facts['host']} since {facts['since']}"
    except (ValueError, KeyError, TypeError):
        return "another run (which has not yet said who it is)"
    this = facts["pid"] == os.getpid() and facts["host"] == socket.gethostname()
    return f"this very process ({who})" if this else who


def _forget_in_child() -> None:
    """A forked child shares the lock's open file and would hold it beyond its parent's death."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)
