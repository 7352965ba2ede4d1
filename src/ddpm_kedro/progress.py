"""Progress of long work: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


class Progress:
    """Shows how far work has come, how fast it goes and how long it will still take.

    Args:
        total: amount of work in ``unit``.
        unit: what is counted, such as ``"images"``.
        description: what is being done, such as ``"training"``.
        initial: amount done before (a resumed training); it counts as done, not towards the rate.
        interval_seconds: how often a line is logged where there is no terminal.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        description: str,
        *,
        initial: int = 0,
        interval_seconds: float = 5.0,
    ) -> None:
        self.total, self.unit, self.description = total, unit, description
        self.initial = self.done = initial
        self.interval_seconds = interval_seconds
        self._started_at = self._logged_at = time.monotonic()
        self._facts: dict[str, Any] = {}
        self._bar = _bar(total, unit, description, initial)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self.done > self.initial and exception[0] is None:
            self._log()

    def update(self, amount: int, **facts: Any) -> None:
        """Count ``amount`` more as done; ``facts`` (such as ``loss=0.1``) are shown beside it."""
        self.done += amount
        self._facts.update(facts)
        if self._bar is not None:
            if facts:
                self._bar.set_postfix(
                    {key: _short(value) for key, value in self._facts.items()}, refresh=False
                )
            self._bar.update(amount)
        elif time.monotonic() - self._logged_at >= self.interval_seconds:
            self._log()

    def _log(self) -> None:
        self._logged_at = time.monotonic()
        elapsed_seconds = max(self._logged_at - self._started_at, 1e-9)
        rate = (self.done - self.initial) / elapsed_seconds
        left = duration((self.total - self.done) / rate) if rate else "unknown time"
        facts = "".join(f", {key} {_short(value)}" for key, value in self._facts.items())
        logger.info(
            f"{self.description}: {self.done:,}/{self.total:,} {self.unit}, "
            f"{rate:,.{0 if rate >= 10 else 2}f} {self.unit}/s, {left} left{facts}"
        )


def track(iterable: Iterable[Item], total: int, unit: str, description: str) -> Iterator[Item]:
    """Yield the items of ``iterable`` and show each as one ``unit`` of progress when it is done."""
    with Progress(total, unit, description) as progress:
        for item in iterable:
            yield item
            progress.update(1)


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``41 s``, ``3:07 min``, ``2:05 h``, ``3.1 days``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
    if seconds < 48 * 3600:
        return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02d} h"
    return f"{seconds / 86400:.1f} days"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bar(total: int, unit: str, description: str, initial: int) -> Any:
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(
        total=total,
        unit=f" {unit}",
        desc=description,
        initial=initial,
        dynamic_ncols=True,
        leave=True,
        unit_scale=True,
    )
