"""How many lanes a training's batches are split into: chosen once, and kept when it is resumed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.execution import tiled
from ddpm_kedro.diffusion.lanes import Lanes, drawing_from, watched
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.workers.team import Team

LOGGER = logging.getLogger(__name__)

LEAST_ROWS = 8  # that a lane gets by itself: fewer make small products, which are slow


@dataclass(frozen=True)
class CoreUse:
    """What decides how sums are rounded in a training on a CPU.

    `num_lanes` are parts of each micro-batch that are computed at the same time, each with one
    OpenMP thread; 1: whole micro-batches, with several `openmp_threads`. With more lanes these are
    None: then cores change no bytes. Both are None where there is no such choice: on a GPU, with
    torch.compile, in a team of processes.
    """

    num_lanes: int | None = None
    openmp_threads: int | None = None

    @cached_property
    def lanes(self) -> Lanes:
        """To compute in."""
        return Lanes(self.num_lanes or 1)

    def __str__(self) -> str:
        if self.openmp_threads is None:
            return f"{self.num_lanes} lanes"
        return f"1 lane with {self.openmp_threads} OpenMP thread(s)"

    def facts(self) -> dict[str, int | None]:
        """For a checkpoint."""
        return {"lanes": self.num_lanes, "openmp_threads": self.openmp_threads}

    @classmethod
    def of_checkpoint(cls, facts: Mapping[str, Any]) -> CoreUse:
        """What a checkpoint was trained with."""
        if "lanes" not in facts:  # older than lanes are: it goes on as it always did
            return cls(1, torch.get_num_threads())
        return cls(facts["lanes"], facts["openmp_threads"])

    def measured(self, model: Model) -> Denoiser:
        """To measure a loss with: in lanes too, so that cores do not change that either."""
        if self.lanes.count == 1:
            return model.denoiser
        return tiled(model.denoiser, model.spec.height * model.spec.width, self.lanes)

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """The OpenMP threads that belong to it; afterwards their former number, and no lane."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.openmp_threads or before)
        try:
            with self.lanes:
                yield
        finally:
            torch.set_num_threads(before)


def choose_core_use(
    state: LearningState, precision: Precision, team: Team, facts: Mapping[str, Any] | None
) -> CoreUse:
    """What the settings ask for; else what the training was begun with, as the `facts` of the
    restored checkpoint say; else one lane a core. A network that lanes would share something of,
    see `watched`, gets one."""
    settings = state.settings
    if team.world_size > 1 or state.device.type != "cpu" or settings.compile == "on":
        return CoreUse()
    cores = torch.get_num_threads()  # that this process may use, or fewer by OMP_NUM_THREADS
    rows = min(settings.micro_batch_size or settings.batch_size, settings.batch_size)
    so_far = CoreUse() if facts is None else CoreUse.of_checkpoint(facts)

    wanted, threads = min(cores, max(1, rows // LEAST_ROWS)), cores
    if settings.lanes is not None:
        wanted = settings.lanes
    elif so_far.num_lanes is not None:
        wanted, threads = so_far.num_lanes, so_far.openmp_threads or cores
    shared = _what_lanes_would_share(state, precision) if wanted > 1 else None
    chosen = CoreUse(wanted) if wanted > 1 and shared is None else CoreUse(1, threads)
    because = f", since the network {shared}" if shared is not None else ""
    LOGGER.info("each batch is computed in %s%s", chosen, because)
    if so_far.num_lanes is not None and chosen != so_far:
        LOGGER.warning(
            "this training had %s so far: its model will not have the bytes of an undisturbed one",
            so_far,
        )
    return chosen


def _what_lanes_would_share(state: LearningState, precision: Precision) -> str | None:
    """In words, from one pass forward and back of two black images; None if there is nothing."""
    spec, denoiser = state.model.spec, state.model.denoiser
    x0 = torch.zeros((2, *spec.image_shape))
    labels = torch.zeros(2, dtype=torch.int64) if spec.conditional else None
    t = denoiser.schedule.from_uniform(torch.full((2,), 0.5))
    generator = torch.Generator()
    with watched(state.network) as found, drawing_from(generator):
        with precision.autocast():
            loss = denoiser.loss(x0, t, torch.ones_like(x0), labels).sum()
        drawn = generator.get_state()
        torch.autograd.grad(loss, state.parameters, allow_unused=True)
    if not torch.equal(drawn, generator.get_state()):
        return "draws again in its backward pass"  # recomputed activations
    return found[0] if found else None
