"""Objectives: which mixture of image and noise the network is asked to predict.

Every objective here is linear: the target is a(alpha, sigma) x_0 + b(alpha, sigma) eps. With
x_t = alpha x_0 + sigma eps that pair of coefficients fixes the target, the estimate of x_0 from an
output and the ratio of the losses, so a new objective is one class with one method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_kedro.diffusion.noise_schedule import (
    VARIANCE_EXPLODING,
    NoiseSchedule,
    at_least_float32,
    per_row,
)
from ddpm_kedro.errors import InputError
from ddpm_kedro.ranges import Positive, Settings


class Objective(ABC):
    """What the network predicts at x_t = alpha x_0 + sigma eps.

    In all methods x, x0, eps and output are (B, C, H, W), alpha and sigma are (B,) or 0-dim in
    float64, and the answer has the images' precision (at least float32): coefficients are worked
    out in float64 and rounded once.
    """

    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) of the target a x_0 + b eps, each in the shape of alpha."""

    def check(self, schedule: NoiseSchedule) -> None:
        """Raise InputError where x_0 cannot be recovered from the output on this schedule."""
        if schedule.family == VARIANCE_EXPLODING:
            raise InputError(
                f"{type(self).__name__} does not scale the network's input, which on "
                f"{type(schedule).__name__} has a standard deviation of up to {schedule.t_max:g}; "
                "choose objective EDMPreconditioning or a variance-preserving noise schedule"
            )

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network should answer: a x_0 + b eps."""
        x0, eps = at_least_float32(x0), at_least_float32(eps)
        a, b = self.coefficients(alpha, sigma)
        return per_row(a, x0) * x0 + per_row(b, x0) * eps

    def to_x0(self, x: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_0 from x_t and the output: (sigma output - b x) / (sigma a - alpha b); sigma > 0."""
        x = at_least_float32(x)
        a, b = self.coefficients(alpha, sigma)
        scale = sigma * a - alpha * b
        return per_row(sigma / scale, x) * output - per_row(b / scale, x) * x

    def scale_input(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t as the network gets to see it."""
        return x

    def x0_loss_ratio(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """r in L_x0 = r L_output, the squared errors of x_0 and of the output; (B,), sigma > 0."""
        a, b = self.coefficients(alpha, sigma)
        return (sigma / (sigma * a - alpha * b)) ** 2


class EpsilonPrediction(Objective):
    """The noise eps itself (Ho et al. 2020, eq. 14). Undefined where alpha = 0: x_t = eps there."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(sigma)

    def check(self, schedule: NoiseSchedule) -> None:
        super().check(schedule)
        if float(schedule.alpha(torch.tensor(schedule.t_max, dtype=torch.float64))) == 0:
            raise InputError(
                f"EpsilonPrediction is undefined at the last level of {type(schedule).__name__}, "
                "which is pure noise (alpha = 0): the noise says nothing about the image there; "
                "choose objective VPrediction, X0Prediction or FlowVelocity, or another schedule"
            )


class X0Prediction(Objective):
    """The clean image x_0."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), torch.zeros_like(sigma)


class VPrediction(Objective):
    """v = alpha eps - sigma x_0 (Salimans & Ho 2022, appendix D)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -sigma, alpha


class FlowVelocity(Objective):
    """u = eps - x_0, the velocity dx/dt of the straight path (Liu et al. 2023, eq. 1)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(alpha), torch.ones_like(sigma)


@dataclass(frozen=True)
class EDMPreconditioning(Settings, Objective):
    """Input and output scaled to unit variance for data of standard deviation sigma_data.

    With d^2 = alpha^2 sigma_data^2 + sigma^2 the network sees x / d and answers
    (sigma x_0 / sigma_data - alpha sigma_data eps) / d. On alpha = 1 that is Karras et al. 2022,
    table 1: c_in, c_skip and c_out; on a variance-preserving schedule with sigma_data = 1 it is -v.
    """

    sigma_data: Positive = 0.5

    def check(self, schedule: NoiseSchedule) -> None:
        """Defined on every schedule."""

    def _total_std(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.sqrt((alpha * self.sigma_data) ** 2 + sigma**2)

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        total = self._total_std(alpha, sigma)
        return sigma / self.sigma_data / total, -alpha * self.sigma_data / total

    def scale_input(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        x = at_least_float32(x)
        return x * per_row(1 / self._total_std(alpha, sigma), x)
