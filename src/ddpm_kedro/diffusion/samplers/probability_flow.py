"""Euler and Heun on the probability flow ODE, in its variance-exploding form.

With y = x / alpha and r = sigma / alpha the ODE is dy/dr = (y - x_0)/r = eps (Karras et al. 2022,
eq. 1, and Song et al. 2021, eq. 14): straight lines wherever x_0 does not change.
"""

from __future__ import annotations

from torch import Tensor

from ddpm_kedro.diffusion.samplers.sampler import Level, Sampler, SamplingRun, first_order


class Euler(Sampler):
    """y' = y + (r' - r) eps: first order, one call of the denoiser a step; equals DDIM(eta=0)."""

    def step(self, run: SamplingRun, x: Tensor, now: Level, then: Level) -> Tensor:
        return first_order(x, run.denoise(x, now), now, then)


class Heun(Sampler):
    """y' = y + (r' - r) (eps + eps')/2, eps' at Euler's y': second order, two calls a step.

    Karras et al. 2022, algorithm 1. The last step (sigma' = 0) and a first one from pure noise
    (alpha = 0, where r is infinite) are Euler's.
    """

    def step(self, run: SamplingRun, x: Tensor, now: Level, then: Level) -> Tensor:
        x0 = run.denoise(x, now)
        guess = first_order(x, x0, now, then)
        if then.sigma == 0 or now.alpha == 0:
            return guess
        # (eps' - eps) = (x_0 - x_0')/r' exactly: no difference of large numbers where r is large.
        change = then.alpha * (now.ratio / then.ratio - 1) / 2
        return guess + change * (run.denoise(guess, then) - x0)
