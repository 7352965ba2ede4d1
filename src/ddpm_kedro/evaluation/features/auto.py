"""The extractor that fits the images, chosen when their shape is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import numpy as np

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features.efficientnet_lite import EfficientNetLite
from ddpm_kedro.evaluation.features.extractor import FeatureExtractor
from ddpm_kedro.evaluation.features.principal_components import PrincipalComponents


class AutoFeatures(FeatureExtractor):
    """`EfficientNetLite` for grey and RGB images whose shorter side has `from_pixels` pixels or
    more, else `PrincipalComponents` with `num_components`: smaller images hold nothing that a
    network of photographs knows, and it has no eye for transparency."""

    identity = "auto"

    def __init__(self, from_pixels: int = 24, num_components: int = 20) -> None:
        if from_pixels < 1:
            raise InputError(f"from_pixels={from_pixels}: give 1 or more")
        self.from_pixels = from_pixels
        self.network = EfficientNetLite()
        self.pixels = PrincipalComponents(num_components)

    def check(self) -> None:
        """InputError where the network's weights are missing or altered."""
        self.network.check()

    def for_images(self, shape: tuple[int, int, int]) -> FeatureExtractor:
        """One of the two, for images (C, H, W)."""
        channels, height, width = shape
        is_seen = channels in (1, 3) and min(height, width) >= self.from_pixels
        return self.network.for_images(shape) if is_seen else self.pixels

    def features(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Always a TypeError: another extractor is to be asked."""
        return self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError("AutoFeatures only chooses: use what its for_images returns")
