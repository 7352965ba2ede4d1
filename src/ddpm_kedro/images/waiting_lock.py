"""One process at a time, the others wait: for downloads and preparations that runs share."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def waiting_lock(path: Path, work: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; the kernel drops it when the holder dies.

    Args:
        path: the lock file; it is made where missing and stays.
        work: what is done under the lock, for the line that says that another run is doing it.

    Raises:
        OSError: the folder is not writable.
    """
    try:
        import fcntl
    except ImportError:  # without flock (Windows) two runs at once do the work twice
        yield
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info(f"another run is {work}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
