"""Ancestral sampling: the reverse Markov chain of DDPM, one Gaussian step at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from ddpm_kedro.diffusion.noise_schedule import VARIANCE_PRESERVING, NoiseSchedule
from ddpm_kedro.diffusion.samplers.sampler import Level, Sampler, SamplingRun
from ddpm_kedro.errors import InputError
from ddpm_kedro.ranges import choice


def step_variance(now: Level, then: Level) -> float:
    """beta = sigma^2 - (alpha/alpha')^2 sigma'^2: variance of x given x', beta_t for neighbours."""
    return now.sigma**2 - (now.alpha / then.alpha * then.sigma) ** 2


def posterior_variance(now: Level, then: Level) -> float:
    """Variance of q(x_then | x_now, x_0) (Ho et al. 2020, eq. 7, for any two levels)."""
    return step_variance(now, then) * (then.sigma / now.sigma) ** 2


@dataclass(eq=False)
class Ancestral(Sampler):
    """x' ~ N(mean of q(x' | x, x_0), variance), x_0 the denoiser's estimate.

    mean = (alpha/alpha') (sigma'/sigma)^2 x + alpha' (beta / sigma^2) x_0 with beta the variance of
    x given x'. Ho et al. 2020, eq. 6 and 7. variance: "small" is the posterior's, exact for a
    single image; "large" is beta, exact for data of unit variance, and better at many steps. The
    last step, to the clean image, adds no noise.
    """

    variance: Annotated[str, choice("small", "large")] = "large"

    def check(self, schedule: NoiseSchedule) -> None:
        super().check(schedule)
        if self.variance == "large" and schedule.family != VARIANCE_PRESERVING:
            raise InputError(
                f"variance=large belongs to variance-preserving schedules, not to "
                f"{type(schedule).__name__}; choose variance=small"
            )

    def step(self, run: SamplingRun, x: Tensor, now: Level, then: Level) -> Tensor:
        x0 = run.denoise(x, now)
        beta = step_variance(now, then)
        on_x = now.alpha / then.alpha * (then.sigma / now.sigma) ** 2
        mean = on_x * x + then.alpha * beta / now.sigma**2 * x0
        if then.sigma == 0:
            return mean
        variance = beta if self.variance == "large" else posterior_variance(now, then)
        return mean + math.sqrt(variance) * run.noise()
