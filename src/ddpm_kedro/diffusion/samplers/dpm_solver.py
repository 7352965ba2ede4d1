"""DPM-Solver++ of second order, multistep and singlestep (Lu et al. 2022, arXiv 2211.01095).

In lambda = ln(alpha/sigma) the flow is integrated exactly up to the change of x_0, so each step is
the first-order one with a better x_0. h is the step in lambda.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddpm_kedro.diffusion.samplers.sampler import (
    Level,
    Sampler,
    SamplingRun,
    first_order,
    levels_at,
)


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
