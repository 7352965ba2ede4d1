"""What a command prints without a traceback: a user's mistake, and a training that was stopped."""

from __future__ import annotations

import signal
from typing import Any


class InputError(ValueError):
    """Wrong input from the user: a parameter, a path, a file or a combination of them.

    The message is one line that says what is wrong, where it stands and what would be right. A
    command prints it without a traceback and exits with 1; in Python it is an ordinary ValueError.
    """


def one_line(error: BaseException | str) -> str:
    """What an error says, in one line; its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


class Stopped(Exception):
    """Training was asked to stop, saved its state and ended.

    An ordinary exception, because Kedro tells its hooks (W&B, friendly errors) about those only; a
    KeyboardInterrupt would pass them by. `signum` is SIGINT (2) or SIGTERM (15), `exit_code`, of
    the command line, 130 or 143.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message or f"stopped by {signal.Signals(signum).name}")
        self.signum = int(signum)
        self.exit_code = 128 + self.signum

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.signum, str(self))
