"""What training takes: the time it took and will take, and what an image costs."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.cost import TRAINING_PASSES, Cost, cost_of, network_calls
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.errors import InputError
from ddpm_kedro.progress import duration
from ddpm_kedro.training.step.state import LearningState

PREVIEW, HELD_OUT = "drawing a preview", "held-out loss"  # what training pauses for
UNTIMED_STEPS = 5  # the first ones compile, capture and allocate
TIMED_STEPS = 20


class Pace:
    """A clock that stands still during previews and held-out losses.

    `device` is waited for before and after the 20 steps of the first figure, and before pauses.
    """

    def __init__(self, device: torch.device, batch_size: int, elapsed_seconds: float) -> None:
        self._device, self._batch_size, self._elapsed_before = device, batch_size, elapsed_seconds
        self._started_at = self._lap_at = time.monotonic()
        self._timed_from = 0.0
        self._steps = self._lap_steps = 0
        self._pause: tuple[str, float] | None = None  # the one now: its kind and its beginning
        self.pauses: dict[str, float] = {}  # seconds of the latest one, by kind
        self.spent: dict[str, float] = {}  # and of all of them

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
        if timed < TIMED_STEPS:
            return None
        return max((self._clock() - self._timed_from) / timed, 1e-9)

    def count_step(self) -> bool:
        """Note that a step is taken; tells when 20 real ones are timed."""
        self._steps += 1
        if self._steps in (UNTIMED_STEPS, UNTIMED_STEPS + TIMED_STEPS):
            self._wait()
        if self._steps == UNTIMED_STEPS:
            self._timed_from = self._clock()
        return self._steps == UNTIMED_STEPS + TIMED_STEPS

    def lap(self) -> float:
        """Images per second since the last call."""
        now, steps = self._clock(), self._steps - self._lap_steps
        rate = steps * self._batch_size / max(now - self._lap_at, 1e-9)
        self._lap_at, self._lap_steps = now, self._steps
        return rate

    @contextmanager
    def paused(self, kind: str) -> Iterator[None]:
        """Time that does not count as training."""
        self._wait()
        began_at = time.monotonic()
        self._pause = kind, began_at
        yield
        self._pause = None
        self.pauses[kind] = time.monotonic() - began_at
        self.spent[kind] = self.spent.get(kind, 0.0) + self.pauses[kind]

    def left_of_pause(self) -> float:
        """Seconds until the pause of now is as long as the latest one of its kind."""
        if self._pause is None:
            return 0.0
        kind, began_at = self._pause
        return max(began_at + self.pauses.get(kind, 0.0) - time.monotonic(), 0.0)

    def _clock(self) -> float:
        """Seconds of training, from an arbitrary beginning."""
        now = time.monotonic() if self._pause is None else self._pause[1]
        return now - sum(self.spent.values())

    def _wait(self) -> None:
        if self._device.type == "cuda":  # pragma: cuda only
            torch.cuda.synchronize(self._device)


class Forecast:
    """The time that training will still take: steps, previews and held-out losses to come.

    It ends with the budget or with `training.max_minutes`, which is looked at after each step and
    what follows it; a preview of the last state comes in either case. A pause takes as long as the
    latest of its kind; before there was one, as its forward passes cost against those of a step, of
    `rows` images on this device.
    """

    def __init__(self, state: LearningState, pace: Pace, rows: int, held_out_images: int) -> None:
        self._state, self.pace, self._settings = state, pace, state.settings
        calls = network_calls(build(state.settings.sampler), state.model.denoiser.schedule)
        drawn = 2 * state.settings.num_previews * calls  # averaged weights and raw ones
        self._passes = {PREVIEW: drawn / rows, HELD_OUT: held_out_images / rows}

    def seconds_left(self) -> float | None:
        """From now to the end; None before the first steps are timed."""
        if self.pace.step_seconds is None:
            return None
        steps, _ = self._end()
        return self._seconds(steps) + self._last_preview(steps) + self.pace.left_of_pause()

    def describe(self) -> tuple[str, dict[str, float]]:
        """In words; and the seconds from now to the end, with previews and those alone."""
        settings, rate = self._settings, self._settings.batch_size / self._step_seconds
        steps, out_of_time = self._end()
        previews = self._due(settings.preview_every_kimg, steps) + (self._last_preview(steps) > 0)
        drawing = previews * self._seconds_of(PREVIEW)
        seconds = {"training": self.seconds_left() or 0.0, "previews": drawing}
        what = f"the {steps:,} steps left take"
        if out_of_time:
            seen = self._state.images_seen + steps * settings.batch_size
            seen = round(seen, 2 - len(str(seen)))  # to two significant digits
            what = f"max_minutes={settings.max_minutes:g} ends it at about {seen:,} of "
            what += f"{settings.budget_images:,} images, after"
        training, drawing = map(duration, seconds.values())
        return (
            f"{rate:.4g} images/s over {TIMED_STEPS} steps: {what} about {training}, of which "
            f"{previews} previews {drawing}"
        ), seconds

    def _end(self) -> tuple[int, bool]:
        """Steps to come, and whether the time allowed ends them."""
        left = self._settings.num_steps - self._state.step
        if self._settings.max_minutes is None:
            return left, False
        allowed = 60 * self._settings.max_minutes - self.pace.session_seconds
        steps = bisect_left(range(left), allowed, key=self._seconds)
        return steps, steps < left

    def _seconds(self, steps: int) -> float:
        """Of so many steps from here on, with what comes between them."""
        pauses = self._due(self._settings.preview_every_kimg, steps) * self._seconds_of(PREVIEW)
        losses = self._due(self._settings.checkpoint_every_kimg, steps)
        pauses += losses * self._seconds_of(HELD_OUT)
        return steps * self._step_seconds + pauses

    def _due(self, every_kimg: float | None, steps: int) -> int:
        """How often something with that interval comes within so many steps."""
        seen = self._state.images_seen
        return min(steps, times_due(every_kimg, seen, seen + steps * self._settings.batch_size))

    def _last_preview(self, steps: int) -> float:
        """Seconds of the one that no interval asks for, at the end of so many steps."""
        every = self._settings.preview_every_kimg
        is_due = not steps or self._due(every, steps) > self._due(every, steps - 1)
        return 0.0 if is_due else self._seconds_of(PREVIEW)

    def _seconds_of(self, kind: str) -> float:
        predicted = self._passes[kind] / TRAINING_PASSES * self._step_seconds
        return self.pace.pauses.get(kind, predicted)

    @property
    def _step_seconds(self) -> float:
        return self.pace.step_seconds or math.nan  # known before anything is foretold


def times_due(every_kimg: float | None, seen: int, later: int) -> int:
    """How many multiples of the interval are reached on the way from `seen` images to `later`."""
    every = math.inf if every_kimg is None else 1000 * every_kimg
    return int(later // every - seen // every)


def describe_cost(state: LearningState, rows: int, precision: Precision) -> str:
    """Parameters, FLOPs of an image, and an estimate of the memory for `rows` images in one forward
    and backward pass on this device."""
    try:
        cost = cost_of(state.network, state.model.spec.image_shape, precision.name)
    except InputError as error:  # the network needs values, and fake tensors have none
        parameters = sum(parameter.numel() for parameter in state.parameters)
        return f"{parameters:,} parameters; no estimate of cost ({error})"
    return (
        f"{cost.parameters:,} parameters, {cost.forward_flops / 1e9:,.3g} GFLOP forward, "
        f"{cost.training_flops / 1e9:,.3g} in training per image, about "
        f"{_size(training_bytes(state, rows, cost))} of memory for {rows:,} images at a time"
    )


def training_bytes(state: LearningState, rows: int, cost: Cost) -> int:
    """Memory that training takes with `rows` images at a time, see :class:`Cost`."""
    group = state.optimizer.param_groups[0]
    slots = 2 if "betas" in group else int(bool(group.get("momentum")))
    averages = len(state.ema.averages)
    return cost.training_bytes(rows, num_averages=averages, optimizer_slots=slots)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"
