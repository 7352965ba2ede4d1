"""What every noise schedule answers, and the mixing of image and noise."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ddpm_kedro.errors import InputError

VARIANCE_PRESERVING = "variance preserving"  # alpha^2 + sigma^2 = 1
VARIANCE_EXPLODING = "variance exploding"  # alpha = 1
STRAIGHT_PATH = "straight path"  # alpha + sigma = 1
HALVINGS = 64  # of an interval of time, down to neighbouring numbers of float64


def real_dtype(device: torch.device | str) -> torch.dtype:
    """Widest real type for times and coefficients on `device`: float64, which mps has not."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


class NoiseSchedule(ABC):
    """A Gaussian path between an image and noise, x_t = alpha(t) x_0 + sigma(t) eps, eps ~ N(0, I).

    A new one writes `alpha` and `sigma`, and whatever of the rest is not true of it: time runs from
    `t_clean` = 0 (alpha = 1, sigma = 0) to `t_max` = 1, the noisiest level, is drawn uniformly and
    told to the network times 1000, and the path is of the `family` that preserves variance.

    Every method takes t as a real tensor of any shape and answers in that shape on t's device, in
    float64 (float32 on mps).
    """

    family: str = VARIANCE_PRESERVING
    t_clean: float = 0.0
    t_min: float = 0.0  # where karras spacing ends: the cleanest level a network is trained on
    t_max: float = 1.0
    num_timesteps: int | None = None  # T of a discrete schedule, None where time is continuous
    rho: float = 7.0  # exponent of the Karras grid, Karras et al. 2022, eq. 5

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the image at time t, in [0, 1], falling."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Factor of the noise at time t, >= 0 (in units of the pixel range [-1, 1]), growing."""

    def check(self) -> None:
        """Raise InputError where alpha and sigma are no path from an image to noise."""
        name = type(self).__name__
        t = torch.linspace(self.t_clean, self.t_max, 65, dtype=torch.float64)
        alpha, sigma = self.alpha(t), self.sigma(t)
        if (alpha[0] - 1).abs() > 1e-6 or sigma[0].abs() > 1e-6:
            raise InputError(
                f"{name}: alpha and sigma are 1 and 0 at t_clean={self.t_clean:g}, "
                f"not {alpha[0]:.3g} and {sigma[0]:.3g}"
            )
        if not (self.log_snr(t).diff() < 0).all():
            raise InputError(f"{name}: alpha / sigma must fall from t_clean to t_max")
        if self.family == VARIANCE_PRESERVING and ((alpha**2 + sigma**2 - 1).abs() > 1e-6).any():
            raise InputError(f"{name}: alpha^2 + sigma^2 is not 1; say of which family the path is")

    def time_input(self, t: Tensor) -> Tensor:
        """What the network is told about time, float32: 0 at t_clean to 1000 at t_max."""
        way = (t.to(real_dtype(t.device)) - self.t_clean) / (self.t_max - self.t_clean)
        return (1000 * way).float()

    def from_uniform(self, u: Tensor) -> Tensor:
        """Training times of u in [0, 1), so that a uniform u is the schedule's uniform draw.

        In (t_clean, t_max]: never the clean image, where there is nothing to learn.
        """
        return self.t_max - (self.t_max - self.t_clean) * u.to(real_dtype(u.device))

    def from_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time t at which log_snr(t) is the given one, by halving; clamped to the path."""
        log_snr = log_snr.to(real_dtype(log_snr.device))
        low, high = torch.full_like(log_snr, self.t_clean), torch.full_like(log_snr, self.t_max)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            too_clean = self.log_snr(middle) > log_snr
            low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        return high

    def log_snr(self, t: Tensor) -> Tensor:
        """ln(alpha^2 / sigma^2), natural logarithm: +inf at t_clean, falling with t."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def initial_std(self, t: float) -> float:
        """Standard deviation of the noise x_t that sampling starts from at time t.

        1 where variance is preserved: images are taken to have about unit variance, so x_t has too.
        """
        if self.family == VARIANCE_PRESERVING:
            return 1.0
        return float(self.sigma(torch.tensor(t, dtype=torch.float64)))


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it has that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def perturb(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_t = alpha x_0 + sigma noise, the forward process (Ho et al. 2020, eq. 4), (B, C, H, W).

    x0, noise: (B, C, H, W); alpha, sigma: (B,) or 0-dim. Half-precision images are widened first:
    in bfloat16 the ten lowest of 1000 levels would add no noise at all.
    """
    x0, noise = at_least_float32(x0), at_least_float32(noise)
    return per_row(alpha, x0) * x0 + per_row(sigma, x0) * noise


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Shape numbers of (B,) or () for products with `like` (B, C, H, W), in its dtype."""
    return values.to(like.dtype).reshape(values.shape + (1,) * (like.ndim - 1))
