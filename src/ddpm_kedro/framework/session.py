"""How a `kedro run` ends: one clear line for a user's mistake, and the exit code that tells why."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import click
from kedro.framework.session import KedroSession
from kedro.io import DatasetError
from kedro.runner import AbstractRunner, ParallelRunner, SequentialRunner

from ddpm_kedro.errors import InputError, Stopped, one_line
from ddpm_kedro.framework.run_log import (
    lines_above_bars,
    use_logging_of,
    warnings_as_lines,
    without_echoes,
)
from ddpm_kedro.framework.skipping import SkippingRunner

LOGGER = logging.getLogger(__name__)

_EXIT_INTERRUPTED = 130
# Mistakes of a user's that Kedro finds and words well itself
_KEDROS_OWN = (
    (ValueError, "Failed to find the pipeline named"),
    (DatasetError, "An exception occurred when parsing config"),
)


class ProjectSession(KedroSession):
    """A session whose failures read well and whose interruptions reach the hooks.

    - An `InputError`, also one that Kedro wrapped, is printed as one line without a
      traceback; the exit code is 1.
    - ParallelRunner is refused before any work; a SequentialRunner, also where none is named,
      does nothing twice, see `framework.skipping`.
    - Ctrl-C ends with 130 and SIGTERM with 143, after each hook that has a method
      `on_interrupt(exit_code)` had its say: Kedro itself tells hooks of an `Exception` only.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        use_logging_of(self._conf_source)

    def run(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, AbstractRunner)]
        runner = type(given[0]) if given else SequentialRunner
        try:
            if issubclass(runner, ParallelRunner):
                raise InputError(
                    f"--runner {runner.__name__}: training holds locks and starts processes of its "
                    "own, which do not travel between Kedro's; leave --runner out"
                )
            if runner is SequentialRunner:
                skipping = SkippingRunner(bool(given) and given[0]._is_async, self._project_path)
                args = tuple(skipping if value in given else value for value in args)
                kwargs = kwargs if skipping in args else {**kwargs, "runner": skipping}
            quiet = without_echoes(runner, _is_told)
            unwinding = signals_raise(lambda number: SystemExit(128 + number), signal.SIGTERM)
            with unwinding, lines_above_bars(), warnings_as_lines(), quiet:
                return super().run(*args, **kwargs)
        except KeyboardInterrupt:
            self._tell_hooks(_EXIT_INTERRUPTED)
            raise SystemExit(_EXIT_INTERRUPTED) from None
        except SystemExit as stop:
            self._tell_hooks(stop.code if isinstance(stop.code, int) else 1)
            raise
        except Stopped as stop:  # training saved itself; Kedro has told the hooks
            LOGGER.warning("%s", stop)
            raise SystemExit(stop.exit_code) from None
        except Exception as error:
            mistake = mistake_in(error)
            if mistake is None:
                raise
            if click.get_current_context(silent=True) is None:
                raise mistake from None
            raise click.ClickException(str(mistake)) from None

    def _tell_hooks(self, exit_code: int) -> None:
        for plugin in self._hook_manager.get_plugins():
            if hasattr(plugin, "on_interrupt"):
                plugin.on_interrupt(exit_code)


def mistake_in(error: BaseException | None) -> InputError | None:
    """The user's mistake behind an error: itself, or what Kedro wrapped when it failed."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InputError):
            return error
        if any(isinstance(error, kind) and words in str(error) for kind, words in _KEDROS_OWN):
            return InputError(one_line(error))
        seen.add(id(error))
        error = error.__cause__
    return None


def _is_told(error: BaseException | None) -> bool:
    return isinstance(error, Stopped) or mistake_in(error) is not None


@contextlib.contextmanager
def signals_raise(error: Callable[[int], BaseException], *signums: int) -> Iterator[None]:
    """Inside, each of the signals raises the `error` of its number, so that files are closed and
    hooks are told."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only; a server runs us in another
        return

    def stop(signum: int, frame: types.FrameType | None) -> None:
        raise error(signum)

    older = {signum: signal.signal(signum, stop) for signum in signums}
    try:
        yield
    finally:
        for signum, handler in older.items():
            signal.signal(signum, handler)
