"""What training will take: what an image costs, and when all of it is done."""

from __future__ import annotations

import math
from bisect import bisect_left

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.cost import TRAINING_PASSES, Cost, cost_of, network_calls
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.errors import InputError
from ddpm_kedro.progress import duration
from ddpm_kedro.training.pace import TIMED_STEPS, Pace
from ddpm_kedro.training.step.state import LearningState

PREVIEW, HELD_OUT = "drawing a preview", "held-out loss"  # what training pauses for


class Forecast:
    """The time that training will still take: steps, previews and held-out losses to come.

    It ends with the budget or with ``training.max_minutes``, which is looked at after each step and
    what follows it; a preview of the last state comes in either case. A pause takes as long as the
    latest of its kind; before there was one, as its forward passes cost against those of a step.

    Args:
        state: says how far training has come.
        pace: the measured times.
        rows: images of a step on this device.
        held_out_images: of a held-out loss; 0 where there is none.
    """

    def __init__(self, state: LearningState, pace: Pace, rows: int, held_out_images: int) -> None:
        self._state, self._pace, self._settings = state, pace, state.settings
        self._has_held_out = held_out_images > 0
        calls = network_calls(build(state.settings.sampler), state.model.denoiser.schedule)
        drawn = 2 * state.settings.num_previews * calls  # averaged weights and raw ones
        self._passes = {PREVIEW: drawn / rows, HELD_OUT: held_out_images / rows}

    def seconds_left(self) -> float | None:
        """From now to the end; None before the first steps are timed."""
        if self._pace.step_seconds is None:
            return None
        steps, _ = self._end()
        return self._seconds(steps) + self._last_preview(steps) + self._pace.left_of_pause()

    def describe(self) -> tuple[str, dict[str, float]]:
        """In words; and the seconds from now to the end, with previews and those alone."""
        settings, state = self._settings, self._state
        steps, out_of_time = self._end()
        last = self._last_preview(steps)
        previews = self._due(settings.preview_every_kimg, steps) + (last > 0)
        seconds = {
            "training": self.seconds_left() or 0.0,
            "previews": previews * self._seconds_of(PREVIEW),
        }
        what = f"the {steps:,} steps left take"
        if out_of_time:
            seen, budget = state.images_seen + steps * settings.batch_size, settings.budget_images
            what = (
                f"max_minutes={settings.max_minutes:g} ends it at about {_round(seen):,} of "
                f"{budget:,} images, after"
            )
        return (
            f"{settings.batch_size / (self._pace.step_seconds or math.inf):.4g} images/s over "
            f"{TIMED_STEPS} steps: {what} about {duration(seconds['training'])}, of which "
            f"{previews} previews {duration(seconds['previews'])}"
        ), seconds

    def _end(self) -> tuple[int, bool]:
        """Steps to come, and whether the time allowed ends them."""
        left = self._settings.num_steps - self._state.step
        if self._settings.max_minutes is None:
            return left, False
        allowed = 60 * self._settings.max_minutes - self._pace.session_seconds
        steps = bisect_left(range(left), allowed, key=self._seconds)
        return steps, steps < left

    def _seconds(self, steps: int) -> float:
        """Of so many steps from here on, with what comes between them."""
        pauses = self._due(self._settings.preview_every_kimg, steps) * self._seconds_of(PREVIEW)
        if self._has_held_out:
            losses = self._due(self._settings.checkpoint_every_kimg, steps)
            pauses += losses * self._seconds_of(HELD_OUT)
        return steps * (self._pace.step_seconds or 0.0) + pauses

    def _due(self, every_kimg: float | None, steps: int) -> int:
        """How often something with that interval comes within so many steps."""
        if every_kimg is None:
            return 0
        every, seen = 1000 * every_kimg, self._state.images_seen
        return min(steps, int((seen + steps * self._settings.batch_size) // every - seen // every))

    def _last_preview(self, steps: int) -> float:
        """Seconds of the one that no interval asks for, at the end of so many steps."""
        every = self._settings.preview_every_kimg
        if not steps or self._due(every, steps) > self._due(every, steps - 1):
            return 0.0
        return self._seconds_of(PREVIEW)

    def _seconds_of(self, kind: str) -> float:
        predicted = self._passes[kind] / TRAINING_PASSES * (self._pace.step_seconds or 0.0)
        return self._pace.pauses.get(kind, predicted)


def describe_cost(state: LearningState, rows: int, precision: Precision) -> str:
    """Parameters, FLOPs of an image, and an estimate of the memory.

    Args:
        state: before the first step.
        rows: images of one forward and backward pass on this device.
        precision: of the network.
    """
    try:
        cost = cost_of(state.network, state.model.spec.image_shape, precision.name)
    except InputError as error:  # the network needs values, and fake tensors have none
        parameters = sum(parameter.numel() for parameter in state.parameters)
        return f"{parameters:,} parameters; no estimate of cost ({error})"
    memory_bytes = training_bytes(state, rows, cost)
    return (
        f"{cost.parameters:,} parameters, {cost.forward_flops / 1e9:,.3g} GFLOP forward, "
        f"{cost.training_flops / 1e9:,.3g} in training per image, about "
        f"{_size(memory_bytes)} of memory for {rows:,} images at a time"
    )


def training_bytes(state: LearningState, rows: int, cost: Cost) -> int:
    """Memory that training takes with ``rows`` images at a time, see :class:`Cost`."""
    group = state.optimizer.param_groups[0]
    slots = 2 if "betas" in group else int(bool(group.get("momentum")))
    averages = len(state.ema.averages)
    return cost.training_bytes(rows, num_averages=averages, optimizer_slots=slots)


def _round(count: int) -> int:
    """To two significant digits."""
    return int(float(f"{count:.1e}"))


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"
