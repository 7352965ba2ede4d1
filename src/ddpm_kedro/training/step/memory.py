"""A step that fits into the device's memory: fewer images at a time, or a line saying how many."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ddpm_kedro.diffusion.cost import cost_of
from ddpm_kedro.diffusion.lanes import Lanes
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.errors import InputError
from ddpm_kedro.training.estimates import training_bytes
from ddpm_kedro.training.step.acceleration import Step, make_step
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.workers.team import Team

LOGGER = logging.getLogger(__name__)


class FittingStep:
    """The step that `make_step` makes; out of memory, one with half the images at a time.

    Nothing of the state has changed when forward or backward pass run out of memory, so the step is
    taken again: with the same images, t and noise, and the same seed of dropout; the settings of
    `state` get the smaller micro-batch. One that was asked for is kept, and so is a team's, whose
    workers would have to agree: those end with an InputError, which says what would fit.
    """

    def __init__(
        self, state: LearningState, precision: Precision, team: Team, lanes: Lanes | None = None
    ) -> None:
        self._state, self._precision, self._team, self._lanes = state, precision, team, lanes
        part = team.part_of(state.settings.batch_size)
        share = part.stop - part.start
        self.rows = min(state.settings.micro_batch_size or share, share)
        self._may_shrink = state.settings.micro_batch_size is None and team.world_size == 1
        self._step: Step | None = None
        self._until_it_fits(lambda step: None)

    def __call__(self, images: Tensor, labels: Tensor | None) -> None:
        """As `TrainingStep`."""
        self._until_it_fits(lambda step: step(images, labels))

    def _until_it_fits(self, use: Callable[[Step], None]) -> None:
        while True:
            try:
                if self._step is None:
                    self._step = make_step(
                        self._state, self._precision, self._team, lanes=self._lanes
                    )
                    torch.manual_seed(torch.initial_seed())  # as when the step began
                use(self._step)
                return
            except torch.OutOfMemoryError as error:
                failure = error.with_traceback(None)  # it holds the tensors that are in the way
            self._shrink(failure)

    def _shrink(self, failure: torch.OutOfMemoryError) -> None:
        if not self._may_shrink or self.rows == 1:
            raise InputError(self._what_would_fit()) from failure
        before, self.rows = self.rows, (self.rows + 1) // 2
        LOGGER.warning(
            "out of memory with %d images at a time: going on with %d, and the same draws",
            before,
            self.rows,
        )
        self._step = None
        self._state.settings = replace(self._state.settings, micro_batch_size=self.rows)
        self._state.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()

    def _what_would_fit(self) -> str:
        said = (
            f"training: out of memory on {self._state.device} with {self.rows} images at a time in "
            f"{self._precision.name}"
        )
        rows = self.rows // 2
        try:
            shape = self._state.model.spec.image_shape
            cost = cost_of(self._state.network, shape, self._precision.name)
            _, total = torch.cuda.mem_get_info(self._state.device)
            while rows and training_bytes(self._state, rows, cost) > total:
                rows //= 2
        except InputError:
            pass  # no estimate of this network: half may do
        if rows == 0:
            return f"{said}; not one would fit: choose a smaller backbone or image_size"
        return f"{said}; training.micro_batch_size={rows} may fit, and keeps the same draws"
