"""Progress of long work: a bar on a terminal, a few lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

LOGGER = logging.getLogger(__name__)
INTERVAL_SECONDS = 5.0  # there are never less between two lines
_hidden: ContextVar[bool] = ContextVar("hidden", default=False)


class Progress:
    """Shows how far work has come, how fast it goes and how long it will still take.

    On a terminal a bar. Elsewhere lines: the first after 5 seconds, then one each time that another
    share of the time is over, `most_lines` at most however long the work is, and none where it ends
    before the first. `silent` shows nothing, as workers beside the first do.

    `total` is the amount of work in `unit`, such as "images", 0 where nobody knows it; `initial` of
    it was done before (a resumed training) and does not count towards the rate. `seconds_left` says
    the time that it will still take, None while unknown; without it the rate so far does.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        description: str,
        *,
        initial: int = 0,
        seconds_left: Callable[[], float | None] | None = None,
        most_lines: int = 2,
        silent: bool = False,
    ) -> None:
        self.total, self.unit, self.description = total, unit, description
        self.initial, self.done = initial, float(initial)
        self.most_lines, self.silent = most_lines, silent or _hidden.get()
        self.seconds_left = seconds_left or self._seconds_by_rate
        self._started_at = self._logged_at = time.monotonic()
        self._next_share = 0.0  # of the whole time, when the next line is due
        self._facts: dict[str, str] = {}
        self._bar = None if self.silent or not sys.stderr.isatty() else self._new_bar()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def update(self, amount: float, **facts: Any) -> None:
        """Count `amount` more as done; `facts` (such as `loss=0.1`) are shown beside it."""
        self.done += amount
        for key, value in facts.items():
            self._facts[key] = f"{value:.4g}" if isinstance(value, float) else str(value)
        if self._bar is not None:
            if facts:
                self._bar.set_postfix(self._facts, refresh=False)
            if not self._bar.update(amount) and not amount:
                self._bar.refresh()  # tqdm does not look at the clock when nothing is added
        elif not self.silent:
            self._log_if_due()

    def say(self, message: str, **extra: Any) -> None:
        """Log a line, clear of the bar; `extra` become attributes of the log record."""
        if not self.silent:
            with nullcontext() if self._bar is None else self._bar.external_write_mode():
                LOGGER.info(message, extra=extra)

    @contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        """Show that `activity` goes on instead of what is counted."""
        usual = self.description
        try:
            self._describe(f"{usual} ({activity})")
            yield
        finally:
            self._describe(usual)

    def _describe(self, description: str) -> None:
        self.description = description
        if self._bar is not None:
            self._bar.set_description(description)

    def _seconds_by_rate(self) -> float | None:
        elapsed, done = time.monotonic() - self._started_at, self.done - self.initial
        return elapsed * (self.total - self.done) / done if done and self.total else None

    def _log_if_due(self) -> None:
        now = time.monotonic()
        elapsed = now - self._started_at
        if now - self._logged_at < INTERVAL_SECONDS:
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
        rate = (self.done - self.initial) / elapsed
        done = f"{self.done:,.0f}/{self.total:,}" if self.total else f"{self.done:,.0f}"
        news = [f"{rate:,.{0 if rate >= 10 else 2}f} {self.unit}/s"] if rate else []
        news += [] if left is None else [f"{duration(left)} left"]
        news += [f"{key} {value}" for key, value in self._facts.items()]
        LOGGER.info("%s: %s %s, %s", self.description, done, self.unit, ", ".join(news))

    def _new_bar(self) -> Any:
        from tqdm import tqdm

        seconds_left = self.seconds_left

        class Bar(tqdm):  # type: ignore[type-arg]
            """tqdm with our time left in the place of its own."""

            @property
            def format_dict(self) -> dict[str, Any]:
                left = seconds_left()
                return super().format_dict | {"left": "?" if left is None else duration(left)}

        known = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}{postfix}]"
        return Bar(
            total=self.total or None,
            unit=f" {self.unit}",
            desc=self.description,
            initial=self.initial,
            dynamic_ncols=True,
            unit_scale=True,
            bar_format=known if self.total else None,
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
    """Seconds as a person says them: `0.31 s`, `41 s`, `3:07 min`, `2:05 h`, `3 days`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    if hours < 1:
        return f"{minutes}:{int(seconds) % 60:02d} min"
    if hours < 48:
        return f"{hours}:{minutes % 60:02d} h"
    return f"{seconds / 86400:.1f} days"
