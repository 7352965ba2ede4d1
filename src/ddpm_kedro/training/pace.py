"""How fast training goes: images a second between records, and the time that is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ddpm_kedro.progress import duration

logger = logging.getLogger(__name__)

UNTIMED_STEPS = 5  # the first ones compile, capture and allocate
TIMED_STEPS = 20


class Pace:
    """A clock that stands still during previews and held-out losses.

    Args:
        device: waited for twice, before and after the 20 steps of the estimate.
        batch_size: images of a step.
        num_steps: of the whole budget.
        elapsed_seconds: that training took before it was resumed.
    """

    def __init__(
        self, device: torch.device, batch_size: int, num_steps: int, elapsed_seconds: float
    ) -> None:
        self._device, self._batch_size, self._num_steps = device, batch_size, num_steps
        self._elapsed_before = elapsed_seconds
        self._started_at = self._lap_at = time.monotonic()
        self._lap_images = 0
        self._paused_seconds = 0.0
        self._estimate_from = (0.0, 0.0)
        self._steps = 0

    @property
    def session_seconds(self) -> float:
        """Since this process began to train."""
        return time.monotonic() - self._started_at

    @property
    def elapsed_seconds(self) -> float:
        """Of the whole training, over all processes that trained it one after the other."""
        return self._elapsed_before + self.session_seconds

    def count_step(self, step: int) -> None:
        """Note that ``step`` steps are taken; says the estimate when 20 real ones are timed."""
        self._steps += 1
        self._lap_images += self._batch_size
        if self._steps == UNTIMED_STEPS:
            self._wait()
            self._estimate_from = (time.monotonic(), self._paused_seconds)
        elif self._steps == UNTIMED_STEPS + TIMED_STEPS:
            self._wait()
            started_at, paused = self._estimate_from
            paused = self._paused_seconds - paused
            seconds = max((time.monotonic() - started_at - paused) / TIMED_STEPS, 1e-9)
            logger.info(
                "%.4g images/s over %d steps: the %s steps left take about %s",
                self._batch_size / seconds,
                TIMED_STEPS,
                f"{self._num_steps - step:,}",
                duration(seconds * (self._num_steps - step)),
            )

    def lap(self) -> float:
        """Images per second since the last call."""
        now = time.monotonic() - self._paused_seconds
        rate = self._lap_images / max(now - self._lap_at, 1e-9)
        self._lap_at, self._lap_images = now, 0
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count as training."""
        self._wait()
        began_at = time.monotonic()
        yield
        self._paused_seconds += time.monotonic() - began_at

    def _wait(self) -> None:
        if self._device.type == "cuda":  # pragma: cuda only
            torch.cuda.synchronize(self._device)
