"""Progress of long work: a bar on a terminal, a few lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

logger = logging.getLogger(__name__)
_hidden: ContextVar[bool] = ContextVar("hidden", default=False)


class Progress:
    """Shows how far work has come, how fast it goes and how long it will still take.

    On a terminal a bar. Elsewhere lines: the first after ``interval_seconds``, then one each time
    that another share of the time is over, ``most_lines`` at most however long the work is, and
    none where it ends before the first.

    Args:
        total: amount of work in ``unit``; 0 where nobody knows it.
        unit: what is counted, such as ``"images"``.
        description: what is being done, such as ``"training"``.
        initial: amount done before (a resumed training); it counts as done, not towards the rate.
        seconds_left: the time that the work will still take, None while unknown; without it the
            rate so far says that.
        interval_seconds: there are never less between two lines.
        most_lines: at least 1.
        silent: show nothing, as workers beside the first do.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        description: str,
        *,
        initial: int = 0,
        seconds_left: Callable[[], float | None] | None = None,
        interval_seconds: float = 5.0,
        most_lines: int = 2,
        silent: bool = False,
    ) -> None:
        self.total, self.unit, self.description = total, unit, description
        self.initial = initial
        self.done: float = initial
        self.interval_seconds, self.most_lines = interval_seconds, most_lines
        self.silent = silent or _hidden.get()
        self._told_left = seconds_left
        self._started_at = self._logged_at = time.monotonic()
        self._next_share = 0.0  # of the whole time, when the next line is due
        self._facts: dict[str, Any] = {}
        self._bar = None if self.silent else self._new_bar()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def update(self, amount: float, **facts: Any) -> None:
        """Count ``amount`` more as done; ``facts`` (such as ``loss=0.1``) are shown beside it."""
        self.done += amount
        self._facts.update(facts)
        if self._bar is not None:
            if facts:
                self._bar.set_postfix(
                    {key: _short(value) for key, value in self._facts.items()}, refresh=False
                )
            if not self._bar.update(amount) and not amount:
                self._bar.refresh()  # tqdm does not look at the clock when nothing is added
        elif not self.silent:
            self._log_if_due()

    def say(self, message: str, **extra: Any) -> None:
        """Log a line, clear of the bar; ``extra`` become attributes of the log record."""
        if self._bar is not None:
            self._bar.clear()
        if not self.silent:
            logger.info(message, extra=extra)
        if self._bar is not None:
            self._bar.refresh()

    @contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        """Show that ``activity`` goes on instead of what is counted."""
        self.description, usual = f"{self.description} ({activity})", self.description
        try:
            self._describe()
            yield
        finally:
            self.description = usual
            self._describe()

    def seconds_left(self) -> float | None:
        """None where nobody knows."""
        if self._told_left is not None:
            return self._told_left()
        elapsed, done = time.monotonic() - self._started_at, self.done - self.initial
        return elapsed * (self.total - self.done) / done if done and self.total else None

    def _describe(self) -> None:
        if self._bar is not None:
            self._bar.set_description(self.description)

    def _log_if_due(self) -> None:
        now = time.monotonic()
        elapsed = now - self._started_at
        if now - self._logged_at < self.interval_seconds:
            return
        left = self.seconds_left()
        if left is None:  # lines at 5, 10, 20 ... seconds
            if elapsed < 2 * (self._logged_at - self._started_at):
                return
        else:
            share = elapsed / (elapsed + left) if left > 0 else 1.0
            if share < self._next_share or share == 1.0:
                return
            self._next_share = (int(share * self.most_lines) + 1) / self.most_lines
        self._logged_at = now
        done = f"{self.done:,.0f}" + (f"/{self.total:,}" if self.total else "")
        rate = (self.done - self.initial) / elapsed
        facts = "".join(f", {key} {_short(value)}" for key, value in self._facts.items())
        until = "" if left is None else f", {duration(left)} left"
        logger.info(
            f"{self.description}: {done} {self.unit}, "
            f"{rate:,.{0 if rate >= 10 else 2}f} {self.unit}/s{until}{facts}"
        )

    def _new_bar(self) -> Any:
        if not sys.stderr.isatty():
            return None
        try:
            from tqdm import tqdm
        except ImportError:
            return None
        seconds_left = self.seconds_left

        class Bar(tqdm):  # type: ignore[type-arg]
            """tqdm with our time left in the place of its own."""

            @property
            def format_dict(self) -> dict[str, Any]:
                left = seconds_left()
                return super().format_dict | {"left": "?" if left is None else duration(left)}

        return Bar(
            total=self.total or None,
            unit=f" {self.unit}",
            desc=self.description,
            initial=self.initial,
            dynamic_ncols=True,
            leave=True,
            unit_scale=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}{postfix}]"
            if self.total
            else None,
        )


@contextmanager
def hidden() -> Iterator[None]:
    """Show no progress of what is done inside."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``0.31 s``, ``41 s``, ``3:07 min``, ``2:05 h``, ``3 days``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
    if seconds < 48 * 3600:
        return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02d} h"
    return f"{seconds / 86400:.1f} days"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
