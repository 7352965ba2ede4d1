"""Frechet distance: how far apart two sets of features are, as Gaussians."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ddpm_kedro.errors import InputError


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of a set of features.

    Args:
        mean: float64 (d,).
        covariance: float64 (d, d), symmetric, positive semi-definite.
        count: number of feature vectors they come from; 0 for an exact distribution.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int = 0

    @classmethod
    def of(cls, chunks: Iterable[np.ndarray]) -> Gaussian:
        """Moments of feature vectors that come in chunks (n, d), in one pass.

        The covariance is the unbiased one, over n - 1. Chunks are merged by the update of Chan,
        Golub & LeVeque (1983), so a large mean costs no digits.

        Raises:
            InputError: fewer than two vectors.
        """
        count, mean, scatter = 0, np.zeros(()), np.zeros(())
        for chunk in chunks:
            chunk = np.asarray(chunk, dtype=np.float64)
            added = len(chunk)
            if not added:
                continue
            chunk_mean = chunk.mean(axis=0)
            centred = chunk - chunk_mean
            shift = chunk_mean - mean
            scatter = (
                scatter
                + centred.T @ centred
                + np.multiply.outer(shift, shift) * (count * added / (count + added))
            )
            mean = mean + shift * (added / (count + added))
            count += added
        if count < 2:
            raise InputError(f"a covariance needs at least 2 images, not {count}")
        return cls(mean, scatter / (count - 1), count)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians, >= 0, in squared feature units.

    |m_1 - m_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2)): Dowson & Landau 1982; as a score of
    generated images, Heusel et al. 2017, eq. 6. The last trace is the nuclear norm of
    S_1^(1/2) S_2^(1/2), which holds for singular covariances too and needs no complex root.

    Raises:
        InputError: the two have features of different length.
    """
    if first.mean.shape != second.mean.shape:
        raise InputError(
            f"features of {first.mean.size} and {second.mean.size} numbers cannot be compared"
        )
    product = _square_root(first.covariance) @ _square_root(second.covariance)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    distance = (
        np.square(first.mean - second.mean).sum()
        + np.trace(first.covariance)
        + np.trace(second.covariance)
        - 2 * overlap
    )
    return max(float(distance), 0.0)  # equal Gaussians differ by rounding


def expected_bias(covariance: np.ndarray, first_count: int, second_count: int) -> float:
    """What two perfect samples of one Gaussian score, to first order in 1/n.

    (1/n_1 + 1/n_2) (tr S + 1/2 sum_ij l_i l_j / (l_i + l_j) + 1/4 tr S), l the eigenvalues of S:
    the mean's share first, then the covariance's, from the second-order term of the Bures distance
    under the sampling error of S. For S = I and one infinite sample it is d/n + d(d+1)/(4n).

    Args:
        covariance: (d, d) of the true distribution (or an estimate of it).
        first_count, second_count: sizes of the samples, >= 1.
    """
    values = np.clip(np.linalg.eigvalsh(covariance), 0.0, None)
    values = values[values > 0]
    pairs = (np.outer(values, values) / np.add.outer(values, values)).sum()
    total = values.sum()
    return float((1 / first_count + 1 / second_count) * (total + pairs / 2 + total / 4))


def _square_root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    # The root of an eigenvalue that is 0 up to rounding, 1e-16, would be 1e-8: no longer rounding.
    smallest = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return (vectors * np.sqrt(np.where(values > smallest, values, 0.0))) @ vectors.T
