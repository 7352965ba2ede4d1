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
from ddpm_kedro.training.quick_score import NUM_IMAGES, NUM_STEPS
from ddpm_kedro.training.step.state import LearningState

# What training pauses for, and what of it comes at the end too
PREVIEW, HELD_OUT, QUICK_SCORE = "drawing a preview", "held-out loss", "quick score"
AT_THE_END = (PREVIEW, QUICK_SCORE)
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
    """The time that training will still take: steps, and the pauses to come between them.

    It ends with the budget or with `training.max_minutes`, which is looked at after each step and
    what follows it; a preview of the last state comes in either case, and a quick score where there
    are any. A pause takes as long as the latest of its kind; before there was one, as its forward
    passes cost against those of a step, of `rows` images on this device, and for a quick score
    `feature_seconds` besides.
    """

    def __init__(
        self, state: LearningState, pace: Pace, rows: int, held_out_images: int,
        feature_seconds: float = 0.0,
    ) -> None:  # fmt: skip
        self._state, self.pace, self._settings = state, pace, state.settings
        settings = state.settings
        calls = network_calls(build(settings.sampler), state.model.denoiser.schedule)
        drawn = 2 * settings.num_previews * calls  # averaged weights and raw ones
        passes = {PREVIEW: drawn, HELD_OUT: held_out_images, QUICK_SCORE: NUM_IMAGES * NUM_STEPS}
        self._passes = {kind: count / rows for kind, count in passes.items()}
        self._feature_seconds = feature_seconds
        self._intervals = {
            PREVIEW: settings.preview_every_kimg,
            HELD_OUT: settings.checkpoint_every_kimg,
            QUICK_SCORE: settings.score_every_kimg,
        }

    def seconds_left(self) -> float | None:
        """From now to the end; None before the first steps are timed."""
        if self.pace.step_seconds is None:
            return None
        steps, _ = self._end()
        last = sum(self._last(kind, steps) * self._seconds_of(kind) for kind in AT_THE_END)
        return self._seconds(steps) + last + self.pace.left_of_pause()

    def describe(self) -> tuple[str, dict[str, float]]:
        """In words; and the seconds from now to the end, with previews and those alone."""
        settings, rate = self._settings, self._settings.batch_size / self._step_seconds
        steps, out_of_time = self._end()
        number = {kind: self._due(kind, steps) + self._last(kind, steps) for kind in AT_THE_END}
        spent = {kind: number[kind] * self._seconds_of(kind) for kind in AT_THE_END}
        seconds = {"training": self.seconds_left() or 0.0, "previews": spent[PREVIEW]}
        what = f"the {steps:,} steps left take"
        if out_of_time:
            seen = self._state.images_seen + steps * settings.batch_size
            seen = round(seen, 2 - len(str(seen)))  # to two significant digits
            what = f"max_minutes={settings.max_minutes:g} ends it at about {seen:,} of "
            what += f"{settings.budget_images:,} images, after"
        words = {PREVIEW: "previews", QUICK_SCORE: "quick scores"}
        parts = [
            f"{number[kind]} {words[kind]} {duration(spent[kind])}"
            for kind in AT_THE_END
            if kind == PREVIEW or number[kind]
        ]
        return (
            f"{rate:.4g} images/s over {TIMED_STEPS} steps: {what} about "
            f"{duration(seconds['training'])}, of which {', '.join(parts)}"
        ), seconds

    def share_of_scores(self, wanted: float) -> tuple[float, float]:
        """The share of time in [0, 1] that quick scores take at their interval, and the interval in
        kimg, of two digits, at which it is `wanted`; zeros before both are timed."""
        score, step = self.pace.pauses.get(QUICK_SCORE), self.pace.step_seconds
        every = self._intervals[QUICK_SCORE]
        if score is None or step is None or every is None:
            return 0.0, 0.0
        a_kimg = 1000 * step / self._settings.batch_size
        right = score * (1 / wanted - 1) / a_kimg
        digit = 10.0 ** (math.floor(math.log10(right)) - 1)
        return score / (score + every * a_kimg), math.ceil(right / digit) * digit

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
        pauses = sum(self._due(kind, steps) * self._seconds_of(kind) for kind in self._intervals)
        return steps * self._step_seconds + pauses

    def _due(self, kind: str, steps: int) -> int:
        """How often a pause comes within so many steps."""
        seen = self._state.images_seen
        later = seen + steps * self._settings.batch_size
        return min(steps, times_due(self._intervals[kind], seen, later))

    def _last(self, kind: str, steps: int) -> int:
        """1 where one comes at the end of so many steps that no interval asks for, else 0."""
        if kind == QUICK_SCORE and self._intervals[kind] is None:
            return 0
        return int(steps > 0 and self._due(kind, steps) == self._due(kind, steps - 1))

    def _seconds_of(self, kind: str) -> float:
        predicted = self._passes[kind] / TRAINING_PASSES * self._step_seconds
        if kind == QUICK_SCORE:
            predicted += self._feature_seconds
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
    """Memory that training takes with `rows` images at a time, see `Cost`."""
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
