"""Feature extractors: what an image is turned into before two sets of images are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.progress import Progress

CHUNK_BYTES = 64 << 20  # of float64 pixels held at once, whatever the number of images


def byte_chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (n, C*H*W) float64 values 0..255 of uint8 images (N, C, H, W), in order."""
    size = int(np.prod(images.shape[1:]))
    step = max(1, CHUNK_BYTES // (8 * size))
    for start in range(0, len(images), step):
        yield images[start : start + step].reshape(-1, size).astype(np.float64)


def pixel_chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (n, C*H*W) float64 pixels in [-1, 1] of uint8 images (N, C, H, W), in order."""
    for chunk in byte_chunks(images):
        chunk /= 127.5
        chunk -= 1.0
        yield chunk


class FeatureExtractor(ABC):
    """Turns images into vectors. One of your own gives `identity` and `features`."""

    uses_pixels: ClassVar[bool] = False
    """Whether the features are pixels in other coordinates, fitted to each data set."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What the features are, so that equal texts mean comparable features: the network, the
        size it sees, its precision and the start of its weights' hash."""

    def check(self) -> None:  # noqa: B027 most need nothing
        """InputError where something it needs is missing or altered: a package, weights."""

    def for_images(self, shape: tuple[int, int, int]) -> FeatureExtractor:
        """The extractor to use for images of a shape (C, H, W): itself, unless it chooses another
        one. InputError where it can say nothing of such images."""
        return self

    def to(self, device: torch.device | str) -> FeatureExtractor:
        """Itself, computing on `device` from now on if it has a network."""
        return self

    def fit(self, images: np.ndarray) -> None:  # noqa: B027 a network has nothing to learn
        """Learn whatever the features need from training images, uint8 (N, C, H, W)."""

    @abstractmethod
    def features(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Yield (n, d) features of uint8 images (N, C, H, W), chunk by chunk, in order."""


def features_of(extractor: FeatureExtractor, images: np.ndarray) -> np.ndarray:
    """All features as one float32 array (N, d), showing progress; InputError where one is not
    finite."""
    chunks: list[np.ndarray] = []
    with Progress(len(images), "images", "features", most_lines=1) as progress:
        for chunk in extractor.features(images):
            chunks.append(np.asarray(chunk, np.float32))
            progress.update(len(chunk))
    found = np.concatenate(chunks)
    if broken := int((~np.isfinite(found)).any(axis=1).sum()):
        raise InputError(
            f"features {extractor.identity}: those of {broken:,} of {len(images):,} images are "
            "not finite numbers, so nothing can be compared by them"
        )
    return found
