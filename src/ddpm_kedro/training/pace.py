"""How fast training goes: images a second between records, seconds a step, what pauses take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

UNTIMED_STEPS = 5  # the first ones compile, capture and allocate
TIMED_STEPS = 20


class Pace:
    """A clock that stands still during previews and held-out losses.

    Args:
        device: waited for before and after the 20 steps of the first figure, and before pauses.
        batch_size: images of a step.
        elapsed_seconds: that training took before it was resumed.

    Attributes:
        pauses: seconds of the latest pause of each kind.
        spent: seconds of all of them, by kind.
    """

    def __init__(self, device: torch.device, batch_size: int, elapsed_seconds: float) -> None:
        self._device, self._batch_size = device, batch_size
        self._elapsed_before = elapsed_seconds
        self._started_at = self._lap_at = time.monotonic()
        self._lap_images = 0
        self._timed_from = 0.0
        self._steps = 0
        self._pause: tuple[str, float] | None = None  # the one now: its kind and its beginning
        self.pauses: dict[str, float] = {}
        self.spent: dict[str, float] = {}

    @property
    def session_seconds(self) -> float:
        """Since this process began to train."""
        return time.monotonic() - self._started_at

    @property
    def elapsed_seconds(self) -> float:
        """Of the whole training, over all processes that trained it one after the other."""
        return self._elapsed_before + self.session_seconds

    @property
    def step_seconds(self) -> float | None:
        """A step's mean over this session, pauses left out; None before 20 real ones are timed."""
        timed = self._steps - UNTIMED_STEPS
        return (
            max((self._clock() - self._timed_from) / timed, 1e-9) if timed >= TIMED_STEPS else None
        )

    def count_step(self) -> bool:
        """Note that a step is taken; tells when 20 real ones are timed."""
        self._steps += 1
        self._lap_images += self._batch_size
        if self._steps == UNTIMED_STEPS:
            self._wait()
            self._timed_from = self._clock()
        elif self._steps == UNTIMED_STEPS + TIMED_STEPS:
            self._wait()
            return True
        return False

    def lap(self) -> float:
        """Images per second since the last call."""
        now = self._clock()
        rate = self._lap_images / max(now - self._lap_at, 1e-9)
        self._lap_at, self._lap_images = now, 0
        return rate

    @contextmanager
    def paused(self, kind: str) -> Iterator[None]:
        """Time that does not count as training."""
        self._wait()
        self._pause = kind, time.monotonic()
        yield
        seconds, self._pause = self._pause_seconds(), None
        self.pauses[kind] = seconds
        self.spent[kind] = self.spent.get(kind, 0.0) + seconds

    def left_of_pause(self) -> float:
        """Seconds until the pause of now is as long as the latest one of its kind."""
        usual = self.pauses.get(self._pause[0], 0.0) if self._pause else 0.0
        return max(usual - self._pause_seconds(), 0.0)

    def _pause_seconds(self) -> float:
        return time.monotonic() - self._pause[1] if self._pause else 0.0

    def _clock(self) -> float:
        """Seconds of training, from an arbitrary beginning."""
        return time.monotonic() - sum(self.spent.values()) - self._pause_seconds()

    def _wait(self) -> None:
        if self._device.type == "cuda":  # pragma: cuda only
            torch.cuda.synchronize(self._device)
