"""Thresholding of the estimates of x_0."""

from __future__ import annotations

import pytest
import torch

from ddpm_kedro.diffusion.noise_schedule import LinearSchedule
from ddpm_kedro.diffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolver2M,
    DPMSolver2S,
    Heun,
)
from ddpm_kedro.diffusion.samplers.thresholding import DynamicThreshold, StaticThreshold
from ddpm_kedro.errors import InputError


def draw(*shape, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_static_is_a_clamp():
    x0 = draw(4, 3, 8, 8)
    assert torch.equal(StaticThreshold()(x0), x0.clamp(-1, 1))


def test_dynamic_with_p_1_and_maximum_1_is_the_clamp():
    x0 = draw(4, 3, 8, 8)
    assert torch.equal(DynamicThreshold(1.0, 1.0)(x0), x0.clamp(-1, 1))


def test_dynamic_is_each_sample_s_own_quantile():
    x0 = draw(4, 3, 8, 8) * torch.tensor([0.1, 1, 2, 5])[:, None, None, None]
    for quantile in (0.5, 0.9, 0.995, 1.0):
        size = torch.quantile(x0.abs().flatten(1), quantile, dim=1).clamp(min=1)
        size = size[:, None, None, None]
        expected = torch.minimum(torch.maximum(x0, -size), size) / size
        assert torch.allclose(DynamicThreshold(quantile)(x0), expected, atol=1e-6)
    whole, part = DynamicThreshold()(x0), DynamicThreshold()(x0[2:3])
    assert torch.equal(whole[2:3], part)


def test_dynamic_leaves_estimates_in_range_alone_and_obeys_its_maximum():
    x0 = draw(2, 1, 8, 8).clamp(-1, 1)
    assert torch.equal(DynamicThreshold()(x0), x0)
    large = draw(2, 1, 8, 8, scale=100)
    limited = DynamicThreshold(1.0, 3.0)(large)
    assert torch.allclose(limited, large.clamp(-3, 3) / 3)


class Constant:
    """A denoiser that always answers 3."""

    schedule = LinearSchedule()

    def __call__(self, x, t, labels=None):
        return torch.full_like(x, 3.0)


@pytest.mark.parametrize("make", [Ancestral, DDIM, Heun, DPMSolver2M, DPMSolver2S])
@pytest.mark.parametrize("thresholding", ["static", "dynamic", DynamicThreshold(1.0)])
def test_every_sampler_thresholds_before_it_uses_the_estimate(make, thresholding):
    path = make(5, thresholding=thresholding).sample(Constant(), (1, 2, 2), [0], 0, trajectory=True)
    assert torch.allclose(path[-1], torch.ones(1, 1, 2, 2), atol=1e-6)
    assert float(path[-2].abs().max()) < 2  # 3 was never mixed in
    free = make(5, thresholding=None).sample(Constant(), (1, 2, 2), [0], 0)
    assert torch.allclose(free, torch.full((1, 1, 2, 2), 3.0), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DynamicThreshold(0.0), "quantile"),
        (lambda: DynamicThreshold(1.5), "quantile"),
        (lambda: DynamicThreshold(maximum=0.5), "maximum"),
        (lambda: DDIM(4, thresholding="clip"), "choose static, dynamic or null"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(InputError, match=words):
        make()
