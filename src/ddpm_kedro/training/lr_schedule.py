"""Learning-rate schedules: the factor on the optimizer's own rate, as a function of images seen."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ddpm_kedro.construction import locate
from ddpm_kedro.errors import InputError
from ddpm_kedro.ranges import NotNegative, Part, Probability, Settings


class LRSchedule(ABC):
    """A pure function, so that resuming needs no state and batch size changes nothing."""

    @abstractmethod
    def factor(self, images_seen: int, budget_images: int) -> float:
        """The factor, >= 0, of the step after `images_seen` of `budget_images` in a training."""

    def settled_images(self, budget_images: int) -> int:
        """Images seen before which a higher budget gives every step the same rate.

        From there a training goes on exactly to a higher budget. 0 makes a training with another
        budget another training. Never less for a higher budget.
        """
        return budget_images


class Constant(LRSchedule):
    """factor = 1."""

    def factor(self, images_seen: int, budget_images: int) -> float:
        return 1.0


@dataclass(frozen=True)
class LinearWarmup(Settings, LRSchedule):
    """factor = min(1, n / w) after n images, w = 1000 `warmup_kimg`; 1 throughout for w = 0."""

    warmup_kimg: NotNegative

    @property
    def warmup_images(self) -> float:
        """w."""
        return 1000 * self.warmup_kimg

    def factor(self, images_seen: int, budget_images: int) -> float:
        return min(1.0, images_seen / self.warmup_images) if self.warmup_images else 1.0


@dataclass(frozen=True)
class Cosine(LinearWarmup):
    """Linear warm-up to 1, then half a cosine down to `final_factor` at the end of the budget.

    factor = f + (1 - f) (1 + cos(pi (n - w) / (b - w))) / 2 for n >= w (Loshchilov and Hutter 2017,
    eq. 5, without restarts); f is `final_factor`, w as in `LinearWarmup`.
    """

    warmup_kimg: NotNegative = 0.0
    final_factor: Probability = 0.0

    def factor(self, images_seen: int, budget_images: int) -> float:
        if images_seen < self.warmup_images:
            return super().factor(images_seen, budget_images)
        span = max(budget_images - self.warmup_images, 1)
        progress = min(1.0, (images_seen - self.warmup_images) / span)
        half_cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.final_factor + (1 - self.final_factor) * half_cosine

    def settled_images(self, budget_images: int) -> int:
        """0: the budget stretches the curve."""
        return 0


@dataclass(frozen=True)
class WarmupStableDecay(LinearWarmup):
    """Linear warm-up to 1, then 1, then a line down to `final_factor` at the end of the budget.

    factor = 1 - (1 - f) (n - s) / (b - s) for n >= s = (1 - d) b, never above the warm-up's (Hu et
    al. 2024, arXiv 2404.06395; the line: Haegele et al. 2024, arXiv 2405.18392). A training that
    ended goes on to a higher budget from where its decay began. d is `decay_share`,
    f `final_factor`.
    """

    warmup_kimg: NotNegative = 0.0
    decay_share: Part = 0.2
    final_factor: Probability = 0.0

    def factor(self, images_seen: int, budget_images: int) -> float:
        settled = self.settled_images(budget_images)
        progress = max(0.0, (images_seen - settled) / max(budget_images - settled, 1))
        falling = 1 - (1 - self.final_factor) * min(1.0, progress)
        return min(super().factor(images_seen, budget_images), falling)

    def settled_images(self, budget_images: int) -> int:
        """Where the decay begins."""
        return int((1 - self.decay_share) * budget_images)


def is_torch_scheduler(option: Mapping[str, Any]) -> bool:
    """Whether the option names a `torch.optim.lr_scheduler`, which counts optimizer steps.
    InputError where it names neither that nor an `LRSchedule`, or one that waits for a metric, as
    `ReduceLROnPlateau` does."""
    found = locate(option["type"])
    if inspect.isclass(found) and issubclass(found, LRSchedule):
        return False
    if not inspect.isclass(found) or not issubclass(found, torch.optim.lr_scheduler.LRScheduler):
        raise InputError(f"lr_schedule: {option['type']} is not a learning-rate schedule")
    if issubclass(found, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise InputError(
            f"lr_schedule: {option['type']} follows a metric; choose one that is a function of time"
        )
    return True
