"""Principal components: pixels along the directions in which training images vary most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features.extractor import FeatureExtractor, pixel_chunks
from ddpm_kedro.progress import Progress

EXACT_UP_TO = 1024  # numbers in an image up to which the covariance is decomposed as a whole


class PrincipalComponents(FeatureExtractor):
    """Coordinates along the directions in which the training images vary most.

    z = V^T (x - mean), x the pixels in [-1, 1] and V the leading eigenvectors of their covariance:
    unscaled, so a direction counts by the variance it has. Needs no network and no download, and
    says nothing of detail beyond the leading components.

    Images of up to 1,024 numbers are decomposed exactly; larger ones by block power iteration with
    a Rayleigh-Ritz step (Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.3), which never forms
    the covariance and reads the images chunk by chunk.

    `num_components` is d, the number of directions, >= 1, fewer where the data have fewer;
    `num_iterations` the passes over the images of the power iteration, >= 1.
    """

    uses_pixels: ClassVar[bool] = True

    def __init__(self, num_components: int = 20, num_iterations: int = 6) -> None:
        if num_components < 1 or num_iterations < 1:
            raise InputError(
                f"num_components={num_components}, num_iterations={num_iterations}: "
                "both are at least 1"
            )
        self.num_components = num_components
        self.num_iterations = num_iterations
        self.mean: np.ndarray | None = None  # (D,)
        self.directions: np.ndarray | None = None  # (D, d), orthonormal columns
        self.explained_variance = float("nan")  # share of the training images' variance, 0..1

    @property
    def identity(self) -> str:
        """As in `pixels: 20 principal components`, of the training images of the day."""
        count = self.num_components if self.directions is None else self.directions.shape[1]
        return f"pixels: {count} principal components"

    def fit(self, images: np.ndarray) -> None:
        """Find mean and directions, see the class; InputError for fewer than two images."""
        if len(images) < 2:
            raise InputError(
                f"principal components need at least 2 training images, not {len(images)}"
            )
        size = int(np.prod(images.shape[1:]))
        count = min(self.num_components, size, len(images) - 1)
        passes = 3 if size <= EXACT_UP_TO else 3 + self.num_iterations
        work = passes * len(images)
        with Progress(work, "images", "principal components", most_lines=1) as progress:
            self._fit(images, size, count, progress)

    def _fit(self, images: np.ndarray, size: int, count: int, progress: Progress) -> None:
        def chunks() -> Iterator[np.ndarray]:
            for chunk in pixel_chunks(images):
                yield chunk
                progress.update(len(chunk))

        self.mean = sum(chunk.sum(axis=0) for chunk in chunks()) / len(images)
        total = sum(np.square(chunk - self.mean).sum() for chunk in chunks())
        if size <= EXACT_UP_TO:
            basis = np.eye(size)
        else:
            # A few more columns than asked for: the last ones converge slowest.
            start = np.random.default_rng(0).standard_normal((size, min(size, count + 12)))
            basis = np.linalg.qr(start)[0]
            for _ in range(self.num_iterations):
                basis = np.linalg.qr(self._scatter_times(chunks(), basis))[0]
        scatter = basis.T @ self._scatter_times(chunks(), basis)  # (k, k)
        variances, rotation = np.linalg.eigh((scatter + scatter.T) / 2)  # ascending
        self.directions = basis @ rotation[:, ::-1][:, :count]
        self.explained_variance = float(variances[::-1][:count].sum() / total) if total else 1.0

    def _scatter_times(self, chunks: Iterator[np.ndarray], basis: np.ndarray) -> np.ndarray:
        """sum_i (x_i - mean)(x_i - mean)^T basis, (D, k)."""
        product = np.zeros_like(basis)
        for chunk in chunks:
            centred = chunk - self.mean
            product += centred.T @ (centred @ basis)
        return product

    def features(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the coordinates, float64 (n, d); InputError where it is not fitted yet, or the
        images have another shape than the training images."""
        if self.mean is None or self.directions is None:
            raise InputError("principal components: fit them on the training images first")
        if int(np.prod(images.shape[1:])) != len(self.mean):
            raise InputError(
                f"images of shape {images.shape[1:]} do not have the {len(self.mean)} numbers of "
                "the training images"
            )
        for chunk in pixel_chunks(images):
            yield (chunk - self.mean) @ self.directions
