"""Spacing: the grids for any number of steps, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from ddpm_kedro.diffusion.noise_schedule import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    ZeroTerminalSNR,
)
from ddpm_kedro.diffusion.samplers.spacing import timestep_grid
from ddpm_kedro.errors import InputError

SIZES = (1, 2, 3, 7, 10, 33, 300, 667, 999, 1000)


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


@pytest.mark.parametrize("num_steps", SIZES)
def test_discrete_grids_are_their_formulas(num_steps):
    schedule, total, n = LinearSchedule(), 1000, num_steps
    assert timestep_grid(schedule, n, "leading") == [i * total // n for i in range(n)][::-1]
    trailing = [half_up(Fraction(total * (n - i), n)) - 1 for i in range(n)]
    assert timestep_grid(schedule, n, "trailing") == trailing
    if n > 1:
        linspace = [half_up(Fraction((total - 1) * i, n - 1)) for i in range(n)][::-1]
        assert timestep_grid(schedule, n, "linspace") == linspace
    else:
        assert timestep_grid(schedule, n, "linspace") == [999]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "karras"])
@pytest.mark.parametrize("total", [1, 2, 30, 1000])
def test_every_number_of_steps_gives_that_many_falling_levels(spacing, total):
    schedule = CosineSchedule(total)
    for num_steps in {1, 2, 3, 7, 29, 30, total // 3, total - 1, total} - {0}:
        if num_steps > total:
            continue
        grid = timestep_grid(schedule, num_steps, spacing)
        assert len(grid) == num_steps
        assert all(a > b for a, b in pairwise(grid))
        assert total - 1 >= grid[0] >= grid[-1] >= 0
        if spacing in ("trailing", "linspace"):
            assert grid[0] == total - 1
        if num_steps > 1 and spacing != "trailing":
            assert grid[-1] == 0


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_all_steps_are_all_levels(spacing):
    assert timestep_grid(LinearSchedule(50), 50, spacing) == list(range(49, -1, -1))


def test_the_tables_of_the_paper():
    """Lin et al. 2023, table 2 (there counted from 1)."""
    schedule = LinearSchedule()
    assert timestep_grid(schedule, 10, "leading") == list(range(900, -1, -100))
    assert timestep_grid(schedule, 10, "trailing") == list(range(999, -1, -100))
    assert timestep_grid(schedule, 10, "linspace") == list(range(999, -1, -111))


@pytest.mark.parametrize(
    "schedule",
    [EDMSchedule(), EDMSchedule(sigma_max=500), LinearSchedule(beta_end=0.01), LinearSchedule(),
     CosineSchedule(200)],
)  # fmt: skip
@pytest.mark.parametrize("num_steps", [2, 5, 18, 100])
def test_karras_grid_is_the_paper_s(schedule, num_steps):
    grid = torch.tensor(timestep_grid(schedule, num_steps, "karras"), dtype=torch.float64)
    ratio = schedule.sigma(grid) / schedule.alpha(grid)
    ends = torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64)
    noisy, clean = (schedule.sigma(ends) / schedule.alpha(ends)).tolist()
    if schedule.num_timesteps is not None:
        noisy = min(noisy, 80)
    high, low = noisy ** (1 / 7), clean ** (1 / 7)
    expected = [(high + i / (num_steps - 1) * (low - high)) ** 7 for i in range(num_steps)]
    assert ratio.tolist() == pytest.approx(expected, rel=1e-6)
    if noisy != 80:
        assert grid[0] == schedule.t_max
    assert grid[-1] == schedule.t_min


def test_edm_levels_of_the_paper():
    grid = timestep_grid(EDMSchedule(), 18, "karras")
    assert (grid[0], grid[-1]) == (80, 0.002)
    assert grid[1] == pytest.approx(57.586, abs=1e-3)


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_continuous_time_is_cut_into_equal_parts(spacing):
    assert timestep_grid(FlowSchedule(), 4, spacing) == [1, 0.75, 0.5, 0.25]
    with pytest.raises(InputError, match=f"spacing={spacing} on EDMSchedule.*choose karras"):
        timestep_grid(EDMSchedule(), 4, spacing)  # 80, 60, 40, 20: the image would come in one step


@pytest.mark.parametrize(
    ("schedule", "fitting"),
    [
        (LinearSchedule(), "trailing"),
        (ZeroTerminalSNR(LinearSchedule()), "trailing"),
        (FlowSchedule(), "trailing"),
        (EDMSchedule(), "karras"),
    ],
)
def test_without_a_name_it_is_the_one_that_fits(schedule, fitting):
    assert timestep_grid(schedule, 7) == timestep_grid(schedule, 7, fitting)
    assert timestep_grid(schedule, 7) == timestep_grid(schedule, 7, None)


@pytest.mark.parametrize(
    ("schedule", "num_steps", "spacing", "words"),
    [
        (LinearSchedule(), 1001, "trailing", "more than the 1000 timesteps"),
        (LinearSchedule(), 1001, "karras", "more than the 1000 timesteps"),
        (FlowSchedule(), 10, "leading", "never visits the noise"),
        (EDMSchedule(), 10, "leading", "choose karras"),
        (FlowSchedule(), 10, "karras", "finite sigma/alpha"),
        (ZeroTerminalSNR(LinearSchedule()), 10, "karras", "choose trailing"),
    ],
)
def test_undefined_grids_are_refused(schedule, num_steps, spacing, words):
    with pytest.raises(InputError, match=words):
        timestep_grid(schedule, num_steps, spacing)
