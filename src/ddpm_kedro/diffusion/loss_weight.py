"""Loss weights: how much each noise level counts.

Papers state them for the loss of x_0 or of eps; here each is turned into the weight of the chosen
objective's own squared error with L_x0 = ratio L_output, so that one class serves all objectives.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ddpm_kedro.diffusion.objective import Objective
from ddpm_kedro.ranges import Positive, Settings, kept


class LossWeight(ABC):
    """Weight of a noise level in the training loss."""

    @abstractmethod
    def __call__(self, alpha: Tensor, sigma: Tensor, objective: Objective) -> Tensor:
        """(B,) factors, >= 0, of the squared error of the objective's output.

        alpha, sigma: (B,) float64, sigma > 0.
        """


class UniformWeight(LossWeight):
    """1: the plain squared error of what the network predicts (Ho et al. 2020, eq. 14)."""

    def __call__(self, alpha: Tensor, sigma: Tensor, objective: Objective) -> Tensor:
        return torch.ones_like(alpha)


@dataclass(frozen=True)
class MinSNRWeight(Settings, LossWeight):
    """min(SNR, gamma) on the loss of x_0, SNR = alpha^2 / sigma^2 (Hang et al. 2023, eq. 8).

    For eps that is min(SNR, gamma) / SNR, for v min(SNR, gamma) / (SNR + 1). gamma = inf leaves the
    loss of eps unweighted.
    """

    takes_inf = ("gamma",)
    gamma: Annotated[float, kept((lambda gamma: gamma > 0, "input should be above 0"))] = 5.0

    def __call__(self, alpha: Tensor, sigma: Tensor, objective: Objective) -> Tensor:
        snr = (alpha / sigma) ** 2
        return snr.clamp(max=self.gamma) * objective.x0_loss_ratio(alpha, sigma)


class SoftMinSNRWeight(MinSNRWeight):
    """SNR gamma / (SNR + gamma) on the loss of x_0: min-SNR without its corner.

    Crowson et al. 2024 (HDiT), section 3.
    """

    def __call__(self, alpha: Tensor, sigma: Tensor, objective: Objective) -> Tensor:
        snr = (alpha / sigma) ** 2
        bounded = snr if math.isinf(self.gamma) else snr * self.gamma / (snr + self.gamma)
        return bounded * objective.x0_loss_ratio(alpha, sigma)


@dataclass(frozen=True)
class P2Weight(Settings, LossWeight):
    """1 / (k + SNR)^gamma on the loss of eps (Choi et al. 2022, eq. 8)."""

    gamma: Positive = 1.0
    k: Positive = 1.0

    def __call__(self, alpha: Tensor, sigma: Tensor, objective: Objective) -> Tensor:
        snr = (alpha / sigma) ** 2
        return snr / (self.k + snr) ** self.gamma * objective.x0_loss_ratio(alpha, sigma)


@dataclass(frozen=True)
class EDMWeight(Settings, LossWeight):
    """(s^2 + sigma_data^2) / (s sigma_data)^2 on the loss of x_0, s = sigma / alpha.

    Karras et al. 2022, table 1: with EDMPreconditioning of the same sigma_data it is 1 everywhere.
    """

    sigma_data: Positive = 0.5

    def __call__(self, alpha: Tensor, sigma: Tensor, objective: Objective) -> Tensor:
        on_x0 = ((alpha * self.sigma_data) ** 2 + sigma**2) / (sigma * self.sigma_data) ** 2
        return on_x0 * objective.x0_loss_ratio(alpha, sigma)
