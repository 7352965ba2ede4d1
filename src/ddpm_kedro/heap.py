"""Host memory that a computation frees and takes again at each step, kept instead of returned."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator

# glibc's malloc.h; and where its own adjustment of the two thresholds ends on 64-bit machines
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _MMAP_MAX = 32 << 20, 64 << 20, 65536
_NEVER = 2**31 - 1

_process = ctypes.CDLL(None) if sys.platform == "linux" else None
# Its calls, which no other C library promises
_glibc = _process if hasattr(_process, "gnu_get_libc_version") else None
_lock = threading.Lock()
_holders = 0


@contextlib.contextmanager
def kept_heap() -> Iterator[None]:
    """Inside, memory that the process frees stays its own, and the next step finds it mapped.

    glibc gives each large block back to the kernel at once, which then hands out zeroed pages for
    the next step's blocks of the same sizes: a third to a half of a training step on a CPU at batch
    128. At the end of the outermost block everything free is returned. Anywhere but on Linux with
    glibc this does nothing. The allocator is the whole process's: other threads keep theirs too.
    """
    global _holders
    with _lock:
        _holders += 1
        if _holders == 1:
            _set(mmap_max=0, trim_threshold=_NEVER)
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0:
                _set(mmap_max=_MMAP_MAX, trim_threshold=_TRIM_THRESHOLD)
                if _glibc is not None:
                    _glibc.malloc_trim(0)


def _set(mmap_max: int, trim_threshold: int) -> None:
    if _glibc is not None:
        _glibc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        _glibc.mallopt(_M_MMAP_MAX, mmap_max)
        _glibc.mallopt(_M_TRIM_THRESHOLD, trim_threshold)
