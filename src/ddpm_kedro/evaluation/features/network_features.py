"""Features of networks with fixed weights, in exact fp32."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from torch import nn

from ddpm_kedro.diffusion.precision import autocast, product_mode
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features.extractor import FeatureExtractor

BATCH = {"cpu": 32}  # images at once: on a CPU as many as its caches hold
BATCH_ELSEWHERE = 256


class NetworkFeatures(FeatureExtractor):
    """Shows images to a network that is made at the first use; grey ones three times over."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._network: nn.Module | None = None

    @abstractmethod
    def make_network(self) -> nn.Module:
        """The network with its weights, on the CPU; InputError where these are missing or wrong."""

    @abstractmethod
    def answer(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, d) of uint8 images (n, 3, H, W) on the network's device."""

    def for_images(self, shape: tuple[int, int, int]) -> Self:
        """Itself; InputError for images (C, H, W) that are neither grey nor RGB."""
        if shape[0] not in (1, 3):
            raise InputError(
                f"features {self.identity}: sees grey or RGB images, not {shape[0]} channels; "
                "choose features=pixels"
            )
        return self

    def to(self, device: torch.device | str) -> Self:
        """Itself, computing on `device` from now on."""
        self.device = torch.device(device)
        if self._network is not None:
            self._network.to(self.device)
        return self

    @property
    def network(self) -> nn.Module:
        """On the device; InputError as `make_network`."""
        if self._network is None:
            self._network = self.make_network().eval().requires_grad_(False).to(self.device)
        return self._network

    def features(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Yield float32 (n, d) features of uint8 images (N, C, H, W), C of 1 or 3, in order."""
        self.for_images(images.shape[1:])
        step = BATCH.get(self.device.type, BATCH_ELSEWHERE)
        for start in range(0, len(images), step):
            block = np.ascontiguousarray(images[start : start + step])  # of mirrored images too
            chunk = torch.tensor(block, device=self.device)
            with torch.no_grad(), autocast("fp32", self.device.type), product_mode("fp32"):
                found = self.answer(chunk.expand(-1, 3, -1, -1))
            yield found.cpu().numpy()
