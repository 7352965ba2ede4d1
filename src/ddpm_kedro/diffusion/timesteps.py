"""Timestep sampling: which noise levels a training batch sees.

A draw is a pure function of one uniform number a row, so it has no state, does not depend on how
the batch is split, and runs on the model's device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_kedro.diffusion.noise_schedule import NoiseSchedule, real_dtype
from ddpm_kedro.errors import InputError
from ddpm_kedro.ranges import Positive, Real, Settings


class TimestepSampling(ABC):
    """The distribution of training times t."""

    def check(self, schedule: NoiseSchedule) -> None:  # noqa: B027 - most need no check
        """Raise InputError where this distribution makes no sense on the schedule."""

    @abstractmethod
    def __call__(self, u: Tensor, rows: Tensor, batch_size: int, schedule: NoiseSchedule) -> Tensor:
        """Times t (B,), float64 on u's device (float32 on mps).

        u: (B,) in [0, 1), one uniform number a row; rows: (B,) int64, the rows' numbers in the
        global batch of `batch_size` (larger numbers are taken modulo batch_size).
        """


class UniformTimesteps(TimestepSampling):
    """Every level equally likely, rows independent."""

    def __call__(self, u: Tensor, rows: Tensor, batch_size: int, schedule: NoiseSchedule) -> Tensor:
        return schedule.from_uniform(u)


class StratifiedTimesteps(TimestepSampling):
    """Row i of B draws from the i-th of B equal parts: uniform over a batch, with less variance.

    Kingma et al. 2021, appendix I.1, with a draw of its own for each part.
    """

    def __call__(self, u: Tensor, rows: Tensor, batch_size: int, schedule: NoiseSchedule) -> Tensor:
        u = u.to(real_dtype(u.device))
        return schedule.from_uniform((rows % batch_size + u) / batch_size)


@dataclass(frozen=True)
class LogNormalTimesteps(Settings, TimestepSampling):
    """ln(sigma / alpha) ~ N(mean, std^2).

    On EDMSchedule that is ln(sigma) of Karras et al. 2022, table 1 (-1.2 and 1.2); on FlowSchedule
    it is the logit-normal t of Esser et al. 2024, eq. 19 (take mean 0 and std 1 there).
    """

    mean: Real = -1.2
    std: Positive = 1.2

    def check(self, schedule: NoiseSchedule) -> None:
        if schedule.num_timesteps is not None:
            raise InputError(
                "LogNormalTimesteps draws real noise levels and needs a continuous schedule "
                f"(EDMSchedule, FlowSchedule), not the {schedule.num_timesteps} levels of "
                f"{type(schedule).__name__}; choose UniformTimesteps or StratifiedTimesteps"
            )

    def __call__(self, u: Tensor, rows: Tensor, batch_size: int, schedule: NoiseSchedule) -> Tensor:
        # u is a multiple of 2^-24: half a step up keeps u = 0 away from minus infinity.
        u = u.to(real_dtype(u.device)) + 2.0**-25
        log_ratio = self.mean + self.std * math.sqrt(2) * torch.erfinv(2 * u - 1)
        return schedule.from_log_snr(-2 * log_ratio)
