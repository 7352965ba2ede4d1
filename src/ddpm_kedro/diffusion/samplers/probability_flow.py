"""Solvers of the probability flow ODE of second order: Heun's rule in two forms, DPM-Solver++.

With y = x / alpha and r = sigma / alpha the ODE is dy/dr = (y - x_0)/r = eps (Karras et al. 2022,
eq. 1, and Song et al. 2021, eq. 14): straight lines wherever x_0 does not change. On the straight
path it is also dx/dt = eps - x_0. Euler's rule is the same step in either form, DDIM's with
eta = 0; the mean of two slopes is not: it is taken along r in one form and along t in the other.

DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) integrates the flow exactly in lambda =
ln(alpha/sigma) up to the change of x_0, so each step is the first-order one with a better x_0. h is
the step in lambda.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddpm_kedro.diffusion.noise_schedule import STRAIGHT_PATH, NoiseSchedule
from ddpm_kedro.diffusion.samplers.sampler import (
    Level,
    Sampler,
    SamplingRun,
    first_order,
    levels_at,
)
from ddpm_kedro.errors import InputError


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


class FlowHeun(Sampler):
    """x' = x + (t' - t) (u + u')/2, u = eps - x_0 = (x - x_0)/t, u' at Euler's x'.

    Heun's rule in the time of the straight path (Liu et al. 2023, eq. 1): second order from pure
    noise on, two calls a step; the last step is Euler's.
    """

    def check(self, schedule: NoiseSchedule) -> None:
        super().check(schedule)
        if schedule.family != STRAIGHT_PATH:
            raise InputError(
                f"FlowHeun follows the straight path of FlowSchedule and not "
                f"{type(schedule).__name__}, which is {schedule.family}; choose DDIM, Heun or "
                "DPMSolver2M, or noise_schedule FlowSchedule"
            )

    def step(self, run: SamplingRun, x: Tensor, now: Level, then: Level) -> Tensor:
        u = (x - run.denoise(x, now)) / now.t
        guess = x + (then.t - now.t) * u
        if then.t == 0:
            return guess
        return x + (then.t - now.t) * (u + (guess - run.denoise(guess, then)) / then.t) / 2


class DPMSolver2M(Sampler):
    """x_0 extrapolated from this step's and the last: D = x_0 + (h/h_last) (x_0 - x_0_last)/2.

    Lu et al. 2022, algorithm 2: one call of the denoiser a step. The first step and the last (h is
    infinite) are first order.
    """

    def step(self, run: SamplingRun, x: Tensor, now: Level, then: Level) -> Tensor:
        x0 = run.denoise(x, now)
        better = x0
        if "x0" in run.history and then.sigma > 0:
            h = then.half_log_snr - now.half_log_snr
            h_last = now.half_log_snr - run.history["level"].half_log_snr  # inf after pure noise
            better = x0 + h / h_last / 2 * (x0 - run.history["x0"])
        run.history.update(x0=x0, level=now)
        return first_order(x, better, now, then)


class DPMSolver2S(Sampler):
    """x_0 taken at the middle of the step in lambda, reached by a first-order step.

    Lu et al. 2022, algorithm 1 with r = 1/2: two calls of the denoiser a step. A first step from
    pure noise and the last, infinite in lambda, are first order.
    """

    def step(self, run: SamplingRun, x: Tensor, now: Level, then: Level) -> Tensor:
        x0 = run.denoise(x, now)
        middle_log_snr = now.half_log_snr + then.half_log_snr  # twice the middle's lambda
        if math.isinf(middle_log_snr):
            return first_order(x, x0, now, then)
        schedule = run.denoiser.schedule
        t = schedule.from_log_snr(torch.tensor(middle_log_snr, dtype=torch.float64))
        (middle,) = levels_at(schedule, [float(t)])
        x0 = run.denoise(first_order(x, x0, now, middle), middle)
        return first_order(x, x0, now, then)
