"""Thresholding: keep estimates of x_0 in the range of pixels while sampling."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from ddpm_kedro.ranges import Part, Settings, number, require


class Threshold(ABC):
    """A map of x_0 estimates (B, C, H, W) to estimates in or near [-1, 1]."""

    @abstractmethod
    def __call__(self, x0: Tensor) -> Tensor: ...


class StaticThreshold(Threshold):
    """Clamp to [-1, 1] (Ho et al. 2020)."""

    def __call__(self, x0: Tensor) -> Tensor:
        return x0.clamp(-1, 1)


@dataclass(frozen=True)
class DynamicThreshold(Settings, Threshold):
    """Clamp a sample to [-s, s] and divide by s, s its p-th quantile of |x_0|, in [1, maximum].

    Saharia et al. 2022 (Imagen), section 2.3. p=1, maximum=1 is the static threshold.
    """

    quantile: Part = 0.995
    maximum: Annotated[float, number(float, least=1)] | None = None

    def __call__(self, x0: Tensor) -> Tensor:
        ordered = x0.abs().flatten(1).sort(dim=1).values  # (B, CHW)
        place = self.quantile * (ordered.shape[1] - 1)
        below, above = math.floor(place), math.ceil(place)
        size = ordered[:, below].lerp(ordered[:, above], place - below)
        size = size.clamp(min=1, max=self.maximum).reshape(-1, *(1,) * (x0.ndim - 1))
        return x0.clamp(-size, size) / size


def threshold_named(value: str | Threshold) -> Threshold:
    """The threshold that "static" or "dynamic" stands for; an object passes through."""
    if isinstance(value, Threshold):
        return value
    require(value in ("static", "dynamic"), "choose static, dynamic or null (none)")
    return StaticThreshold() if value == "static" else DynamicThreshold()
