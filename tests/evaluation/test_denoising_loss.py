from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.loss_weight import MinSNRWeight
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.noise import Stream, normal
from ddpm_kedro.diffusion.noise_schedule import CosineSchedule, LinearSchedule, NoiseSchedule
from ddpm_kedro.diffusion.objective import (
    EpsilonPrediction,
    Objective,
    VPrediction,
    X0Prediction,
)
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.denoising_loss import denoising_loss
from ddpm_kedro.images.pixels import normalise


class Affine(nn.Module):
    """Answers a x + b: cheap, and wrong by an amount that depends on the noise."""

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.4))
        self.num_classes = num_classes
        self.labels_seen: list[Tensor | None] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.labels_seen.append(labels)
        return self.slope * x + 0.1


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 1, 4, 4), dtype=np.uint8)


@pytest.mark.parametrize("objective", [EpsilonPrediction(), X0Prediction(), VPrediction()])
def test_it_is_the_mean_of_the_training_loss_on_its_levels(
    objective: Objective, images: np.ndarray, device: torch.device
) -> None:
    denoiser = Denoiser(Affine(), LinearSchedule(), objective, MinSNRWeight()).to(device)
    found = denoising_loss(denoiser, images, num_levels=4, seed=3, device=device)
    x0, rows = normalise(torch.from_numpy(images).to(device)), torch.arange(7)
    for level, time in enumerate([125.0, 375.0, 625.0, 875.0]):
        times = torch.full((7,), time, device=device)
        noise = normal(3, Stream.HELD_OUT, level, rows, (1, 4, 4), device=device)
        own = denoiser.loss(x0, times, noise).mean().item()
        assert found.objective[level] == pytest.approx(own, rel=1e-3)


def test_the_noise_error_compares_objectives(images: np.ndarray) -> None:
    class Oracle(nn.Module):
        """A denoiser that answers with x_0 = 0, in the terms of its objective."""

        def __init__(self, schedule: NoiseSchedule, objective: Objective) -> None:
            super().__init__()
            self.schedule, self.objective = schedule, objective

        def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
            eps = x / sigma[:, None, None, None]
            return self.objective.target(torch.zeros_like(x), eps, alpha, sigma)

    found = [
        denoising_loss(
            Denoiser(Oracle(schedule, objective), schedule, objective), images, num_levels=3
        )
        for schedule in [CosineSchedule()]
        for objective in (EpsilonPrediction(), VPrediction())
    ]
    np.testing.assert_allclose(found[0].eps, found[1].eps, rtol=1e-4)
    power = np.square(images / 127.5 - 1).mean()
    np.testing.assert_allclose(found[0].x0, power, rtol=1e-4)
    np.testing.assert_allclose(found[0].eps, np.exp(found[0].log_snr) * power, rtol=1e-4)


def test_half_precision_is_the_network_s_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 1, 8, 8), dtype=np.uint8)
    torch.manual_seed(0)
    model = Model.create(
        backbone={"type": "ddpm_kedro.diffusion.backbones.CompactUNet", "base_channels": 8},
        noise_schedule={"type": "ddpm_kedro.diffusion.noise_schedule.CosineSchedule"},
        objective={"type": "ddpm_kedro.diffusion.objective.VPrediction"},
        image_shape=(1, 8, 8),
    )
    for parameter in model.network.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.1)
    exact = denoising_loss(model.denoiser, images, num_levels=6)
    rough = denoising_loss(model.denoiser, images, num_levels=6, precision="bf16")
    np.testing.assert_allclose(rough.objective, exact.objective, rtol=0.01)
    assert (rough.objective != exact.objective).all()


def test_levels_run_from_clean_to_noisy_and_group_in_thirds(images: np.ndarray) -> None:
    found = denoising_loss(
        Denoiser(Affine(), CosineSchedule(), VPrediction()), images, num_levels=6
    )
    assert (np.diff(found.log_snr) < 0).all()
    low, medium, high = (found.by_noise()[name] for name in ("low", "medium", "high"))
    assert low == pytest.approx((found.objective[:2].mean(), found.eps[:2].mean()))
    assert np.mean([low, medium, high], axis=0) == pytest.approx(
        [found.objective.mean(), found.eps.mean()]
    )


def test_batch_size_changes_nothing_and_the_seed_does(images: np.ndarray) -> None:
    denoiser = Denoiser(Affine(), CosineSchedule(), VPrediction())
    whole = denoising_loss(denoiser, images, num_levels=3)
    parts = denoising_loss(denoiser, images, num_levels=3, batch_size=2)
    other = denoising_loss(denoiser, images, num_levels=3, seed=1)
    np.testing.assert_allclose(parts.x0, whole.x0, rtol=1e-6)
    assert not np.allclose(other.x0, whole.x0, rtol=1e-6)


def test_labels_reach_the_network_row_by_row(images: np.ndarray) -> None:
    network = Affine(num_classes=3)
    labels = np.array([0, 1, 2, 0, 1, 2, 1])
    denoiser = Denoiser(network, CosineSchedule(), VPrediction())
    denoising_loss(denoiser, images, labels, num_levels=3, batch_size=4)
    seen = [given.tolist() for given in network.labels_seen[1:]]  # the first call is a trial
    assert seen == [[0, 1, 2, 0]] * 3 + [[1, 2, 1]] * 3


def test_refusals(images: np.ndarray) -> None:
    denoiser = Denoiser(Affine(), CosineSchedule(), VPrediction())
    with pytest.raises(InputError, match="num_levels >= 3"):
        denoising_loss(denoiser, images, num_levels=2)
    with pytest.raises(InputError, match="needs images"):
        denoising_loss(denoiser, images[:0])
