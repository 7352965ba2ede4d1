"""Samplers of the straight path: integrate dx/dt = u(x, t) = eps - x_0 from t = 1 to 0."""

from __future__ import annotations

from torch import Tensor

from ddpm_kedro.diffusion.noise_schedule import STRAIGHT_PATH, NoiseSchedule
from ddpm_kedro.diffusion.samplers.sampler import Level, Sampler, SamplingRun
from ddpm_kedro.errors import InputError


class FlowEuler(Sampler):
    """x' = x + (t' - t) u: first order, one call a step (Liu et al. 2023, eq. 1)."""

    def check(self, schedule: NoiseSchedule) -> None:
        super().check(schedule)
        if schedule.family != STRAIGHT_PATH:
            raise InputError(
                f"{type(self).__name__} follows the straight path of FlowSchedule and not "
                f"{type(schedule).__name__}, which is {schedule.family}; choose DDIM, Heun or "
                "DPMSolver2M, or noise_schedule FlowSchedule"
            )

    def step(self, run: SamplingRun, x: Tensor, now: Level, then: Level) -> Tensor:
        return x + (then.t - now.t) * self.velocity(run, x, now)

    def velocity(self, run: SamplingRun, x: Tensor, level: Level) -> Tensor:
        """u = eps - x_0 = (x - x_0) / t, (B, C, H, W)."""
        return (x - run.denoise(x, level)) / level.t


class FlowHeun(FlowEuler):
    """x' = x + (t' - t) (u + u')/2, u' at Euler's x': second order; the last step is Euler's."""

    def step(self, run: SamplingRun, x: Tensor, now: Level, then: Level) -> Tensor:
        u = self.velocity(run, x, now)
        guess = x + (then.t - now.t) * u
        if then.t == 0:
            return guess
        return x + (then.t - now.t) * (u + self.velocity(run, guess, then)) / 2
