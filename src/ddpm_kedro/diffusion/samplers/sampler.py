"""The sampler: one loop from noise to images, of which a subclass writes a single step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.noise import Stream, normal
from ddpm_kedro.diffusion.noise_schedule import NoiseSchedule, real_dtype
from ddpm_kedro.diffusion.samplers.spacing import SPACINGS, timestep_grid
from ddpm_kedro.diffusion.samplers.thresholding import Threshold, threshold_named
from ddpm_kedro.errors import InputError
from ddpm_kedro.ranges import Check, Count, Settings, choice


class DenoiserLike(Protocol):
    """What a sampler needs: an estimate of x_0 at any time of a schedule."""

    schedule: NoiseSchedule

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Level:
    """One noise level as Python floats: its time and the factors of image and noise."""

    t: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """sigma / alpha, inf for pure noise."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def half_log_snr(self) -> float:
        """lambda = ln(alpha / sigma), -inf for pure noise, +inf for the clean image."""
        if not self.alpha or not self.sigma:
            return math.inf if self.alpha else -math.inf
        return math.log(self.alpha) - math.log(self.sigma)


def levels_at(schedule: NoiseSchedule, times: Sequence[float]) -> list[Level]:
    """The levels at the given times, worked out in float64 on the CPU."""
    t = torch.tensor(times, dtype=torch.float64)
    return list(map(Level, times, schedule.alpha(t).tolist(), schedule.sigma(t).tolist()))


@dataclass
class SamplingRun:
    """What one call of `Sampler.sample` carries from step to step.

    `history` is the sampler's to keep what later steps need; it starts empty.
    """

    denoiser: DenoiserLike
    threshold: Threshold | None
    labels: Tensor | None
    shape: tuple[int, ...]
    rows: Tensor
    seed: int
    dtype: torch.dtype
    history: dict[str, Any] = field(default_factory=dict)
    step_number: int = 0
    draws: int = 0  # of noise, in this step so far

    def denoise(self, x: Tensor, level: Level) -> Tensor:
        """Estimate of x_0 (B, C, H, W) at this level, thresholded if the sampler does that."""
        t = torch.full((), level.t, dtype=real_dtype(x.device), device=x.device)
        x0 = self.denoiser(x, t, self.labels).to(self.dtype)
        return self.threshold(x0) if self.threshold else x0

    def noise(self) -> Tensor:
        """N(0, I) numbers (B, C, H, W), new ones with every call, each row from its own stream."""
        # The generator's step has 56 bits: the low 32 number steps, those above draws within one.
        number = self.step_number + (self.draws << 32)
        self.draws += 1
        return self.normal(Stream.SAMPLER, number)

    def normal(self, stream: Stream, number: int) -> Tensor:
        """N(0, I) numbers (B, C, H, W) of this stream, in the dtype of the walk."""
        return normal(self.seed, stream, number, self.rows, self.shape).to(self.dtype)


@dataclass(eq=False)
class Sampler(Settings, ABC):
    """Draws images by walking a denoiser down a grid of noise levels.

    A new one writes `step`, in terms of `run.denoise` and, where it is stochastic, `run.noise`.

    """

    num_steps: Count
    """Intervals of the grid (at most T on a discrete schedule)."""
    spacing: Annotated[str, choice(*SPACINGS)] | None = None
    """See `spacing.timestep_grid`; None is the one that fits the schedule."""
    thresholding: Annotated[str | Threshold, Check(threshold_named)] | None = "static"
    """What is done to every estimate of x_0: nothing, "static" (clamp to [-1, 1]), "dynamic"
    (Saharia et al. 2022) or what an object of `thresholding.Threshold` does."""

    def check(self, schedule: NoiseSchedule) -> None:
        """Raise InputError where this sampler cannot work on the schedule."""
        self.levels(schedule)

    def levels(self, schedule: NoiseSchedule) -> list[Level]:
        """The num_steps + 1 noise levels of the walk: falling, the last one clean (sigma = 0)."""
        grid = timestep_grid(schedule, self.num_steps, self.spacing)
        return levels_at(schedule, [*grid, schedule.t_clean])

    @abstractmethod
    def step(self, run: SamplingRun, x: Tensor, now: Level, then: Level) -> Tensor:
        """x at level `then` from x (B, C, H, W) at level `now`; `then.sigma` is 0 in the last."""

    @torch.no_grad()
    def sample(
        self,
        denoiser: DenoiserLike,
        shape: Sequence[int],
        rows: Tensor | Sequence[int],
        seed: int,
        labels: Tensor | None = None,
        device: torch.device | str | None = None,
        on_step: Callable[[int, Tensor], None] | None = None,
        trajectory: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw the samples numbered `rows`: (B, C, H, W) in about [-1, 1], on `device`.

        Sample i is a function of (seed, i) and its label, never of the others in the batch. A
        denoiser that is a module runs in evaluation mode and gets its modes back afterwards.

        shape: (C, H, W); rows: int64 (B,), the samples' numbers; labels: int64 (B,) or None;
        device: None is that of the weights; on_step(number, x): called after every step, from 1;
        trajectory: return (num_steps + 1, B, C, H, W), from noise to image; dtype: of the walk.

        Raises InputError as `check` does, and where labels and rows differ in length.
        """
        self.check(denoiser.schedule)
        levels = self.levels(denoiser.schedule)
        device = _device_of(denoiser) if device is None else torch.device(device)
        rows = torch.as_tensor(rows, dtype=torch.int64).to(device)  # (B,)
        if labels is not None:
            labels = torch.as_tensor(labels, dtype=torch.int64).to(device)
            if labels.shape != rows.shape:
                raise InputError(f"labels: one for each of {len(rows)} samples, not {labels.shape}")
        run = SamplingRun(denoiser, self.thresholding, labels, tuple(shape), rows, seed, dtype)

        with _evaluation_mode(denoiser):
            x = run.normal(Stream.INITIAL, 0) * denoiser.schedule.initial_std(levels[0].t)
            path = [x]
            for run.step_number, (now, then) in enumerate(pairwise(levels)):
                run.draws = 0
                x = self.step(run, x, now, then)
                if trajectory:
                    path.append(x)
                if on_step is not None:
                    on_step(run.step_number + 1, x)
        return torch.stack(path) if trajectory else x


def first_order(x: Tensor, x0: Tensor, now: Level, then: Level) -> Tensor:
    """Keep x_0 and eps = (x - alpha x_0)/sigma, change the level: x' = alpha' x_0 + sigma' eps.

    DDIM with eta = 0, Euler's step and the first-order DPM-Solver++ are all this (Song et al. 2021,
    eq. 12; Lu et al. 2022, eq. 9). It takes alpha = 0, and gives x_0 itself where sigma' = 0.
    """
    keep = then.sigma / now.sigma
    return keep * x + (then.alpha - now.alpha * keep) * x0


def _device_of(denoiser: DenoiserLike) -> torch.device:
    weights = denoiser.parameters() if isinstance(denoiser, nn.Module) else ()
    return next((weight.device for weight in weights), torch.device("cpu"))


@contextmanager
def _evaluation_mode(denoiser: DenoiserLike) -> Iterator[None]:
    """No dropout inside; each submodule's own mode comes back, whatever happens."""
    modules = denoiser.modules() if isinstance(denoiser, nn.Module) else ()
    modes = [(module, module.training) for module in modules]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
