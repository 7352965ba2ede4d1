"""Classifier-free guidance: identities, mixed batches, intervals, refusals."""

from __future__ import annotations

import pytest
import torch
from gaussians import PixelNetwork

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.guidance import ClassifierFreeGuidance
from ddpm_kedro.diffusion.noise_schedule import CosineSchedule
from ddpm_kedro.diffusion.objective import VPrediction
from ddpm_kedro.diffusion.samplers import DDIM, Ancestral
from ddpm_kedro.errors import InputError

T = torch.tensor(400.0, dtype=torch.float64)


@pytest.fixture
def denoiser():
    return Denoiser(PixelNetwork(2, num_classes=3), CosineSchedule(), VPrediction()).eval()


@pytest.fixture
def x():
    return torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 0])
NONE = torch.full((4,), 3)


@torch.no_grad()
def test_guidance_extrapolates_from_no_label_through_the_label(denoiser, x):
    without, with_label = denoiser(x, T, NONE), denoiser(x, T, LABELS)
    for scale in (0.5, 2.0, 7.5):
        guided = ClassifierFreeGuidance(denoiser, scale)(x, T, LABELS)
        assert torch.allclose(guided, without + scale * (with_label - without), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("t", [T, T.expand(4)])
def test_scale_0_and_1_are_exact(denoiser, x, t):
    assert torch.equal(ClassifierFreeGuidance(denoiser, 0)(x, t, LABELS), denoiser(x, t, NONE))
    assert torch.equal(ClassifierFreeGuidance(denoiser, 1)(x, t, LABELS), denoiser(x, t, LABELS))
    sampler = DDIM(5)
    for scale, labels in ((0, NONE), (1, LABELS)):
        guided = ClassifierFreeGuidance(denoiser, scale)
        assert torch.equal(
            sampler.sample(guided, (2, 5, 5), range(4), 0, labels=LABELS),
            sampler.sample(denoiser, (2, 5, 5), range(4), 0, labels=labels),
        )


@torch.no_grad()
def test_rows_without_a_label_are_left_unguided(denoiser, x):
    mixed = torch.tensor([0, 3, 2, 3])
    guided = ClassifierFreeGuidance(denoiser, 4.0)(x, T, mixed)
    alone = ClassifierFreeGuidance(denoiser, 4.0)(x, T, LABELS)
    without = denoiser(x, T, NONE)
    assert torch.equal(guided[[1, 3]], without[[1, 3]])
    assert torch.equal(guided[[0, 2]], alone[[0, 2]])
    assert not torch.allclose(guided[[0, 2]], without[[0, 2]], atol=1e-3)


@torch.no_grad()
def test_interval_is_of_sigma_over_alpha_and_outside_is_exactly_conditional(denoiser, x):
    schedule = denoiser.schedule
    t = torch.tensor([100.0, 400.0, 700.0, 950.0], dtype=torch.float64)
    ratio = (schedule.sigma(t) / schedule.alpha(t)).tolist()
    between = ClassifierFreeGuidance(denoiser, 3.0, interval=(ratio[0], ratio[2]))
    inside = torch.tensor([False, True, True, False])  # low < sigma/alpha <= high
    got = between(x, t, LABELS)
    assert torch.equal(got[inside], ClassifierFreeGuidance(denoiser, 3.0)(x, t, LABELS)[inside])
    assert torch.equal(got[~inside], denoiser(x, t, LABELS)[~inside])
    for level, here in zip(t, inside.tolist(), strict=True):
        expected = ClassifierFreeGuidance(denoiser, 3.0 if here else 1.0)(x, level, LABELS)
        assert torch.equal(between(x, level, LABELS), expected)
    # scale 0 inside the interval: no label there, the label outside
    zero = ClassifierFreeGuidance(denoiser, 0.0, interval=(ratio[0], ratio[2]))(x, t, LABELS)
    assert torch.allclose(zero[inside], denoiser(x, t, NONE)[inside], atol=1e-6)
    assert torch.equal(zero[~inside], denoiser(x, t, LABELS)[~inside])


@pytest.mark.parametrize("interval", [None, (0.1, 2.0)])
def test_guided_samples_do_not_depend_on_their_batch(denoiser, interval):
    guided = ClassifierFreeGuidance(denoiser, 2.5, interval)
    sampler = Ancestral(5)
    together = sampler.sample(guided, (2, 5, 5), range(4), 1, labels=LABELS)
    for i in range(4):
        alone = sampler.sample(guided, (2, 5, 5), [i], 1, labels=LABELS[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)


@pytest.mark.parametrize("interval", [None, (0.1, 2.0)])
def test_guidance_stays_on_the_model_s_device(interval, device):
    for place in (device, torch.device("meta")):
        network = PixelNetwork(2, num_classes=3).to(place)
        guided = ClassifierFreeGuidance(
            Denoiser(network, CosineSchedule(), VPrediction()), 2.0, interval
        )
        images = DDIM(3).sample(guided, (2, 5, 5), range(4), 0, labels=LABELS)
        assert images.device.type == place.type


def test_guidance_has_no_dropout_while_sampling(denoiser):
    guided = ClassifierFreeGuidance(denoiser, 2.0)
    expected = DDIM(3).sample(guided, (2, 5, 5), range(4), 0, labels=LABELS)
    guided.train()
    assert torch.equal(DDIM(3).sample(guided, (2, 5, 5), range(4), 0, labels=LABELS), expected)
    assert denoiser.network.dropout.training


def test_refusals(denoiser, x):
    unconditional = Denoiser(PixelNetwork(2), CosineSchedule(), VPrediction())
    with pytest.raises(InputError, match="class-conditional"):
        ClassifierFreeGuidance(unconditional, 2.0)
    with pytest.raises(InputError, match="guidance needs labels"):
        ClassifierFreeGuidance(denoiser, 2.0)(x, T)
    with pytest.raises(InputError, match="guidance needs labels"):
        DDIM(3).sample(ClassifierFreeGuidance(denoiser, 2.0), (2, 5, 5), range(4), 0)
    with pytest.raises(InputError, match="scale"):
        ClassifierFreeGuidance(denoiser, -1.0)
    for interval in ((2.0, 1.0), (1.0,), (-1.0, 1.0)):
        with pytest.raises(InputError, match="interval"):
            ClassifierFreeGuidance(denoiser, 2.0, interval)
