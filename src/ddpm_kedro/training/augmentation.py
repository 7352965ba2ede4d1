"""Changes to training images that a person would not mind, made on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_kedro.diffusion.noise import Stream, uniform
from ddpm_kedro.ranges import Probability, Settings


class Augmentation(ABC):
    """A random map of a batch of images, without state."""

    @abstractmethod
    def __call__(self, images: Tensor, *, seed: int, step: int | Tensor, rows: Tensor) -> Tensor:
        """The changed images, uint8 (B, C, H, W) on the same device. `seed`, `step` and `rows`,
        numbers in the global batch (B,), are of the random numbers, as in `noise.uniform`."""


class NoAugmentation(Augmentation):
    """The images as they are."""

    def __call__(self, images: Tensor, *, seed: int, step: int | Tensor, rows: Tensor) -> Tensor:
        return images


@dataclass(frozen=True)
class Flip(Settings, Augmentation):
    """Left and right exchanged with `probability` (0..1), each image by itself."""

    probability: Probability = 0.5

    def __call__(self, images: Tensor, *, seed: int, step: int | Tensor, rows: Tensor) -> Tensor:
        chance = uniform(seed, Stream.FLIP, step, rows, device=images.device)  # (B,)
        flipped = (chance < self.probability)[:, None, None, None]
        return torch.where(flipped, images.flip(-1), images)
