"""Ends from outside: Ctrl-C and SIGTERM, after the step under way, saved; a parent that dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

_PR_SET_PDEATHSIG = 1


class Stopped(Exception):
    """Training was asked to stop, saved its state and ended.

    An ordinary exception, because Kedro tells its hooks (W&B, friendly errors) about those only; a
    KeyboardInterrupt would pass them by. The command line maps it to 128 + ``signum``.

    Attributes:
        signum: the signal that asked, ``SIGINT`` (2) or ``SIGTERM`` (15).
        exit_code: 130 or 143.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message or f"stopped by {signal.Signals(signum).name}")
        self.signum = int(signum)
        self.exit_code = 128 + self.signum

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.signum, str(self))


class StopRequest:
    """While open, SIGINT and SIGTERM only note that they came; the second one acts as ever.

    Outside the main thread no handler can be set: then nothing is caught, and nothing is changed.

    Attributes:
        signum: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            # None: it was set outside Python, and Python cannot set it again.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # it died before we could ask
            os._exit(1)
