"""Images of two classes, dark and bright, and their evaluation by a model that knows nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.noise_schedule import CosineSchedule
from ddpm_kedro.diffusion.objective import VPrediction
from ddpm_kedro.evaluation.evaluate import evaluate
from ddpm_kedro.evaluation.settings import EvaluationSettings
from ddpm_kedro.images.imageset import ImageSet

CLASSES = ("dark", "bright")


class Constant(nn.Module):
    """A network that always answers the same."""

    num_classes = None

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.full_like(x, self.value)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (count, 1, 4, 4) and their labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    noise = generator.normal(0, 25, (count, 1, 4, 4))
    images = 80 + 90 * labels[:, None, None, None] + noise
    return images.clip(0, 255).astype(np.uint8), labels


def image_set(count: int, seed: int) -> ImageSet:
    return ImageSet(*drawn(count, seed), CLASSES)


def judged(samples: np.ndarray, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    sets: dict[str, Any] = {
        "train": image_set(600, seed=1),
        "test": image_set(300, seed=2),
        "denoiser": Denoiser(Constant(), CosineSchedule(), VPrediction()),
    }
    store = changes.pop("store", None)
    sets |= {name: changes.pop(name) for name in sets if name in changes}
    values: dict[str, Any] = {
        "features": {"type": "ddpm_kedro.PrincipalComponents", "num_components": 6},
        "max_images": None,
        "neighbour_images": 2048,
        "denoising_images": 16,
        "noise_levels": 3,
        "every_kimg": None,
        "batch_size": 256,
        "precision": "fp32",
        "seed": 0,
        "device": "cpu",
    }
    settings = EvaluationSettings(**{**values, **changes})
    return evaluate(samples, **sets, settings=settings, store=store)
