"""Solver orders: the error against the exact map of the probability flow falls as it should."""

from __future__ import annotations

import math

import pytest
import torch
from gaussians import GaussianDenoiser, MixtureDenoiser

from ddpm_kedro.diffusion.noise_schedule import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
)
from ddpm_kedro.diffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolver2M,
    DPMSolver2S,
    FlowHeun,
    Heun,
)

MEAN, STD = 0.3, 0.5


def error(make, schedule, steps, spacing="karras"):
    """Largest error over 8 samples at the last noisy level, where all steps before were regular.

    Exact map of y = x / alpha from noise level R to r: y_r = mean + (y_R - mean)
    sqrt((std^2 + r^2) / (std^2 + R^2)).
    """
    sampler = make(steps, spacing=spacing, thresholding=None)
    path = sampler.sample(
        GaussianDenoiser(schedule, MEAN, STD),
        (1, 2, 2),
        range(2),
        seed=1,
        trajectory=True,
        dtype=torch.float64,
    )
    first, last = sampler.levels(schedule)[0], sampler.levels(schedule)[-2]
    shrink = math.sqrt((STD**2 + last.ratio**2) / (STD**2 + first.ratio**2))
    exact = MEAN + (path[0] / first.alpha - MEAN) * shrink
    return float((path[-2] / last.alpha - exact).abs().max())


@pytest.mark.parametrize("schedule", [EDMSchedule(), LinearSchedule()], ids=["edm", "linear"])
@pytest.mark.parametrize(
    ("make", "order"), [(DDIM, 1), (Heun, 2), (DPMSolver2M, 2), (DPMSolver2S, 2)]
)
def test_order_on_the_karras_grid(make, order, schedule):
    slope = math.log(error(make, schedule, 160) / error(make, schedule, 640), 4)
    assert abs(slope - order) < 0.1


@pytest.mark.parametrize(("make", "order"), [(DDIM, 1), (FlowHeun, 2)])
def test_order_on_the_straight_path(make, order):
    """From t = 1 to t = 1/4, a level of both grids: x_t has variance t^2 + (1 - t)^2 std^2."""
    errors = []
    for steps in (160, 640):
        path = make(steps, thresholding=None).sample(
            GaussianDenoiser(FlowSchedule(), MEAN, STD),
            (1, 2, 2),
            range(2),
            seed=1,
            trajectory=True,
            dtype=torch.float64,
        )
        t = 0.25
        exact = (1 - t) * MEAN + path[0] * math.sqrt(t**2 + ((1 - t) * STD) ** 2)
        errors.append(float((path[steps * 3 // 4] - exact).abs().max()))
    assert abs(math.log(errors[0] / errors[1], 4) - order) < 0.1


@pytest.mark.parametrize("make", [DDIM, Heun, DPMSolver2M, DPMSolver2S, Ancestral])
def test_many_steps_give_the_data_s_mixture(make):
    """Two clumps, 30% and 70%: shares, means and deviations of 4000 fixed samples."""
    sampler = make(100, thresholding=None, **({"variance": "small"} if make is Ancestral else {}))
    x = sampler.sample(MixtureDenoiser(CosineSchedule()), (1, 10, 10), range(40), seed=2).flatten()
    low, high = x[x < 0.05], x[x >= 0.05]
    # five standard errors of 4000 samples, and the steps' own error
    assert len(low) / len(x) == pytest.approx(0.3, abs=0.037)
    assert float(low.mean()) == pytest.approx(-0.6, abs=0.025)
    assert float(high.mean()) == pytest.approx(0.7, abs=0.03)
    assert float(low.std()) == pytest.approx(0.1, abs=0.02)
    assert float(high.std()) == pytest.approx(0.2, abs=0.03)
