"""Timestep sampling: distributions, coverage, independence of the split."""

from __future__ import annotations

import math

import pytest
import torch

from ddpm_kedro.diffusion.noise_schedule import EDMSchedule, FlowSchedule, LinearSchedule
from ddpm_kedro.diffusion.timesteps import (
    LogNormalTimesteps,
    StratifiedTimesteps,
    UniformTimesteps,
)
from ddpm_kedro.errors import InputError

N = 4000
MIDDLES = (torch.arange(N, dtype=torch.float64) + 0.5) / N  # a perfectly uniform u
ROWS = torch.arange(N)


def test_uniform_reaches_every_level_equally():
    schedule = LinearSchedule()
    t = UniformTimesteps()(MIDDLES, ROWS, N, schedule)
    assert torch.equal(t.long().bincount(minlength=1000), torch.full((1000,), N // 1000))
    assert t.dtype == torch.float64


def test_the_largest_uniform_number_stays_on_the_grid():
    u = torch.tensor([0.0, 1 - 2**-24])
    assert UniformTimesteps()(u, ROWS[:2], 2, LinearSchedule()).tolist() == [0, 999]
    for sampling in (UniformTimesteps(), StratifiedTimesteps()):
        for size in (1, 3, 128):
            rows = torch.full((2,), size - 1)
            assert sampling(u, rows, size, LinearSchedule()).max() == 999


def test_uniform_on_the_continuous_paths():
    t = UniformTimesteps()(MIDDLES, ROWS, N, FlowSchedule())
    assert t.min() > 0  # never the clean image
    assert t.max() <= 1
    assert float(t.mean()) == pytest.approx(0.5, abs=1e-9)
    edm = EDMSchedule()
    root = UniformTimesteps()(MIDDLES, ROWS, N, edm) ** (1 / edm.rho)
    assert torch.allclose(root.diff(), root.diff()[:1].expand(N - 1), rtol=1e-6)
    assert 0.002 < float(root.min()) ** 7 < float(root.max()) ** 7 < 80


@pytest.mark.parametrize("batch_size", [8, 10, 128])
def test_stratified_puts_one_row_in_each_part(batch_size):
    u = torch.rand(batch_size, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(batch_size) + 7 * batch_size  # numbers go on from batch to batch
    t = StratifiedTimesteps()(u, rows, batch_size, FlowSchedule())
    part = ((1 - t) * batch_size).floor().long()
    assert part.tolist() == list(range(batch_size))
    discrete = StratifiedTimesteps()(u, rows, batch_size, LinearSchedule())
    assert discrete.diff().min() >= 0
    assert discrete.max() <= 999


def test_log_normal_has_its_mean_and_deviation():
    log_sigma = LogNormalTimesteps()(MIDDLES, ROWS, N, EDMSchedule()).log()
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=1e-6)
    assert float(log_sigma.std()) == pytest.approx(1.2, abs=2e-3)
    assert float((log_sigma < -1.2 + 1.2).double().mean()) == pytest.approx(0.841345, abs=5e-4)


def test_log_normal_on_the_straight_path_is_logit_normal():
    t = LogNormalTimesteps(0.5, 0.7)(MIDDLES, ROWS, N, FlowSchedule())
    logit = (t / (1 - t)).log()
    assert float(logit.mean()) == pytest.approx(0.5, abs=1e-6)
    assert float(logit.std()) == pytest.approx(0.7, abs=2e-3)


def test_log_normal_is_finite_at_both_ends_of_u():
    u = torch.tensor([0.0, 1 - 2**-24])
    t = LogNormalTimesteps()(u, ROWS[:2], 2, EDMSchedule())
    assert t.isfinite().all()
    assert 0 < t[0] < t[1]
    tail = (t.log() + 1.2) / 1.2
    assert tail.tolist() == pytest.approx([-5.42, 5.42], abs=0.05)


@pytest.mark.parametrize(
    ("sampling", "schedule"),
    [
        (UniformTimesteps(), LinearSchedule()),
        (StratifiedTimesteps(), LinearSchedule()),
        (LogNormalTimesteps(), EDMSchedule()),
        (LogNormalTimesteps(0, 1), FlowSchedule()),
    ],
)
def test_a_part_of_a_batch_gets_the_part_of_the_times(sampling, schedule, device):
    u = torch.rand(32, generator=torch.Generator().manual_seed(1)).to(device)
    rows = torch.arange(32, device=device)
    whole = sampling(u, rows, 32, schedule)
    part = sampling(u[8:16], rows[8:16], 32, schedule)
    assert torch.equal(whole[8:16], part)
    assert whole.device.type == device.type
    assert sampling(u.to("meta"), rows.to("meta"), 32, schedule).device.type == "meta"


def test_refusals():
    with pytest.raises(InputError, match=r"continuous.*UniformTimesteps"):
        LogNormalTimesteps().check(LinearSchedule())
    LogNormalTimesteps().check(EDMSchedule())
    UniformTimesteps().check(LinearSchedule())
    for std in (0, -1, math.nan):
        with pytest.raises(InputError, match="std"):
            LogNormalTimesteps(std=std)
