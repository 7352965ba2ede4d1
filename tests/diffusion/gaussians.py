"""Denoisers known in closed form: pixels that are Gaussian, or a mixture of Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.noise_schedule import NoiseSchedule
from ddpm_kedro.diffusion.objective import (
    EDMPreconditioning,
    EpsilonPrediction,
    FlowVelocity,
    Objective,
    VPrediction,
    X0Prediction,
)


def column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) or () numbers as factors of (B, C, H, W) in its dtype."""
    return values.to(like.dtype).reshape(-1, 1, 1, 1)


class GaussianDenoiser:
    """E[x_0 | x_t] for pixels N(mean, std^2)."""

    def __init__(self, schedule: NoiseSchedule, mean: float = 0.3, std: float = 0.5) -> None:
        self.schedule, self.mean, self.std = schedule, mean, std

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + column(gain, x) * (x - column(alpha, x) * self.mean)


class MixtureDenoiser:
    """E[x_0 | x_t] for pixels of a mixture: responsibilities times each component's estimate."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        means: tuple[float, ...] = (-0.6, 0.7),
        stds: tuple[float, ...] = (0.1, 0.2),
        weights: tuple[float, ...] = (0.3, 0.7),
    ) -> None:
        self.schedule = schedule
        self.means, self.stds, self.weights = means, stds, weights

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = column(self.schedule.alpha(t), x), column(self.schedule.sigma(t), x)
        scores, estimates = [], []
        for mean, std, weight in zip(self.means, self.stds, self.weights, strict=True):
            total = alpha**2 * std**2 + sigma**2
            scores.append(math.log(weight) - total.log() / 2 - (x - alpha * mean) ** 2 / total / 2)
            estimates.append(mean + alpha * std**2 / total * (x - alpha * mean))
        shares = torch.stack(scores).softmax(0)
        return (shares * torch.stack(estimates)).sum(0)


def best_output(
    objective: Objective, x: Tensor, alpha: float, sigma: float, mean: float, std: float
) -> Tensor:
    """What a perfect network answers at x_t for pixels N(mean, std^2), written out by objective."""
    x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
    eps = (x - alpha * x0) / sigma
    if isinstance(objective, EpsilonPrediction):
        return eps
    if isinstance(objective, X0Prediction):
        return x0
    if isinstance(objective, VPrediction):
        return alpha * eps - sigma * x0
    if isinstance(objective, FlowVelocity):
        return eps - x0
    assert isinstance(objective, EDMPreconditioning)
    # Karras et al. 2022, table 1, of y = x/alpha at noise level r = sigma/alpha.
    r, data = sigma / alpha, objective.sigma_data
    skip, out = data**2 / (r**2 + data**2), r * data / math.sqrt(r**2 + data**2)
    return (x0 - skip * x / alpha) / out


class PixelNetwork(nn.Module):
    """A small network whose rows depend on their own x, t and label and on nothing else."""

    def __init__(self, channels: int = 1, num_classes: int | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Linear(1, channels, bias=False)
        self.dropout = nn.Dropout(0.5)
        self.num_classes = num_classes
        if num_classes is not None:
            self.embedding = nn.Embedding(num_classes + 1, channels)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        extra = torch.tanh(t / 500)[:, None, None, None] * self.time.weight.reshape(-1, 1, 1)
        if labels is not None:
            extra = extra + self.embedding(labels)[:, :, None, None]
        # row by row, as a convolution's last bit depends on the size of the batch
        rows = [self.convolution(row[None]) for row in x]
        return self.dropout(torch.tanh(torch.cat(rows) + extra))
