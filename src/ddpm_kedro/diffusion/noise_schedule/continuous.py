"""Schedules of continuous time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddpm_kedro.diffusion.noise_schedule.base import (
    STRAIGHT_PATH,
    VARIANCE_EXPLODING,
    NoiseSchedule,
    real_dtype,
)
from ddpm_kedro.errors import InputError


class EDMSchedule(NoiseSchedule):
    """Time is the noise level itself: alpha = 1, sigma(t) = t in (0, sigma_max].

    Karras et al. 2022, table 1, column "Ours". The network is told ln(sigma)/4. sigma_min and
    sigma_max bound the sampling grid; rho is its exponent.
    """

    family = VARIANCE_EXPLODING

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        if not (0 < sigma_min < sigma_max < math.inf and rho > 0):
            raise InputError(
                "EDMSchedule: needs 0 < sigma_min < sigma_max and rho > 0, not "
                f"{sigma_min}, {sigma_max} and {rho}"
            )
        self.t_min, self.t_max, self.rho = float(sigma_min), float(sigma_max), float(rho)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=real_dtype(t.device))

    def sigma(self, t: Tensor) -> Tensor:
        return t.to(real_dtype(t.device))

    def time_input(self, t: Tensor) -> Tensor:
        """ln(sigma) / 4."""
        return (self.sigma(t).log() / 4).float()

    def from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr.to(real_dtype(log_snr.device)) / 2)

    def from_uniform(self, u: Tensor) -> Tensor:
        """Uniform in sigma^(1/rho), as the Karras grid is."""
        low, high = self.t_min ** (1 / self.rho), self.t_max ** (1 / self.rho)
        return (low + u.to(real_dtype(u.device)) * (high - low)) ** self.rho


class FlowSchedule(NoiseSchedule):
    """The straight path x_t = (1 - t) x_0 + t eps, t in [0, 1]; the network is told 1000 t.

    Lipman et al. 2023, example II (with sigma_min = 0); Liu et al. 2023, rectified flow.
    """

    family = STRAIGHT_PATH

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t.to(real_dtype(t.device))

    def sigma(self, t: Tensor) -> Tensor:
        return t.to(real_dtype(t.device))

    def from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr.to(real_dtype(log_snr.device)) / 2)
