"""DDIM: from the deterministic probability flow (eta = 0) to ancestral sampling (eta = 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ddpm_kedro.diffusion.samplers.ancestral import posterior_variance
from ddpm_kedro.diffusion.samplers.sampler import Level, Sampler, SamplingRun, first_order
from ddpm_kedro.ranges import Probability


@dataclass(eq=False)
class DDIM(Sampler):
    """x' = alpha' x_0 + sqrt(sigma'^2 - c^2) eps + c z, c = eta times the posterior's std.

    Song et al. 2021 (DDIM), eq. 12 and 16; eps = (x - alpha x_0)/sigma follows a thresholded x_0.
    eta in [0, 1]: 0 adds no noise and is Euler's step of the probability flow and of the straight
    path too; 1 equals `Ancestral(variance="small")`.
    """

    eta: Probability = 0.0

    def step(self, run: SamplingRun, x: Tensor, now: Level, then: Level) -> Tensor:
        x0 = run.denoise(x, now)
        variance = self.eta**2 * posterior_variance(now, then)
        if variance == 0:
            return first_order(x, x0, now, then)
        on_eps = math.sqrt(then.sigma**2 - variance)
        eps = (x - now.alpha * x0) / now.sigma
        return then.alpha * x0 + on_eps * eps + math.sqrt(variance) * run.noise()
