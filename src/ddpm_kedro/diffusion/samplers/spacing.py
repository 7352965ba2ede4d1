"""Spacing: which noise levels a sampler with few steps visits."""

from __future__ import annotations

import math

import torch

from ddpm_kedro.diffusion.noise_schedule import VARIANCE_EXPLODING, NoiseSchedule
from ddpm_kedro.errors import InputError

LOG_SIGMA_MAX = math.log(80)
SPACINGS = ("leading", "trailing", "linspace", "karras")


def timestep_grid(
    schedule: NoiseSchedule, num_steps: int, spacing: str | None = None
) -> list[float]:
    """The `num_steps` falling times that a sampler denoises at, without t_clean where it ends.

    On a discrete schedule, i = 0..n-1, for any n up to T (the names are those of Lin et al. 2023,
    table 2):
        leading:  floor(i T / n), ends at the cleanest level 0;
        trailing: round(T - i T / n) - 1 with halves up, starts at the noisiest level T - 1;
        linspace: round((T - 1) i / (n - 1)), has both ends (only T - 1 for n = 1).
    On the straight path trailing and linspace both cut [t_clean, t_max] into n equal parts; on a
    variance-exploding schedule, where nearly all parts would lie above any image, only karras is.
        karras: (sigma/alpha)^(1/rho) equally spaced from t_max to t_min, at real times (Karras et
        al. 2022, eq. 5); only t_max for n = 1. On a discrete schedule from sigma/alpha = 80 at most
        (table 1 there): the cosine schedule reaches 20,000, where most steps would be lost.
    None is the one that fits: karras on a variance-exploding schedule, trailing on all others.

    Raises InputError for more steps than levels, and where a spacing is undefined.
    """
    explodes = schedule.family == VARIANCE_EXPLODING
    if spacing is None:
        spacing = "karras" if explodes else "trailing"
    total = schedule.num_timesteps
    if total is not None and num_steps > total:
        raise InputError(
            f"num_steps={num_steps} is more than the {total} timesteps of "
            f"{type(schedule).__name__}; choose at most {total}"
        )
    if spacing == "karras":
        return _karras_grid(schedule, num_steps)
    steps = range(num_steps)
    if explodes:
        raise InputError(
            f"spacing={spacing} on {type(schedule).__name__} spends nearly all steps above "
            "sigma = 1, where no image is seen; choose karras"
        )
    if total is None:
        if spacing == "leading":
            raise InputError(
                f"spacing=leading never visits the noise that {type(schedule).__name__} starts "
                "from; choose trailing or karras"
            )
        span = schedule.t_max - schedule.t_clean
        return [schedule.t_max - span * i / num_steps for i in steps]
    if spacing == "leading":
        return [float(i * total // num_steps) for i in reversed(steps)]
    if spacing == "trailing":
        steps = range(num_steps, 0, -1)
        return [float((2 * total * i + num_steps) // (2 * num_steps) - 1) for i in steps]
    if num_steps == 1:
        return [schedule.t_max]
    gaps = num_steps - 1
    return [float((2 * (total - 1) * i + gaps) // (2 * gaps)) for i in reversed(steps)]


def _karras_grid(schedule: NoiseSchedule, num_steps: int) -> list[float]:
    ends = torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64)
    noisy, clean = (-schedule.log_snr(ends) / 2).tolist()  # ln(sigma / alpha)
    if not (math.isfinite(noisy) and math.isfinite(clean)):
        raise InputError(
            f"spacing=karras needs a finite sigma/alpha at both ends of the schedule, which "
            f"{type(schedule).__name__} has not; choose trailing"
        )
    if num_steps == 1 or noisy == clean:
        return [schedule.t_max]
    starts_below = schedule.num_timesteps is not None and clean < LOG_SIGMA_MAX < noisy
    rho = schedule.rho
    high = math.exp((LOG_SIGMA_MAX if starts_below else noisy) / rho)
    low = math.exp(clean / rho)
    roots = [high + (low - high) * i / (num_steps - 1) for i in range(num_steps - 1)]
    log_snr = torch.tensor([-2 * rho * math.log(root) for root in roots], dtype=torch.float64)
    noisiest, *inner = schedule.from_log_snr(log_snr).tolist()
    return [noisiest if starts_below else schedule.t_max, *inner, schedule.t_min]
