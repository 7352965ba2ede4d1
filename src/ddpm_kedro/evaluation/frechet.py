"""Frechet distance: how far apart two sets of features are, as Gaussians."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.standing import corrected_deviation, resamples

COMPONENTS = 64  # leading principal components that are compared; more add nothing but noise
EXTRAPOLATED_FROM = 1000  # images; of fewer, the limit is too uncertain
GROUPS = 10  # of a set, left out in turn


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of a set of features."""

    mean: np.ndarray
    """float64 (d,)."""
    covariance: np.ndarray
    """float64 (d, d), symmetric, positive semi-definite."""
    count: int = 0
    """Number of feature vectors they come from; 0 for an exact distribution."""

    @classmethod
    def of(cls, chunks: Iterable[np.ndarray]) -> Gaussian:
        """Moments of feature vectors that come in chunks (n, d), in one pass.

        The covariance is the unbiased one, over n - 1. Chunks are merged by the update of Chan,
        Golub & LeVeque (1983), so a large mean costs no digits. InputError where there are fewer
        than two vectors.
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
    InputError where the two have features of different length.
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
    `covariance` (d, d) is that of the true distribution, or an estimate; the counts are >= 1.
    """
    values = np.clip(np.linalg.eigvalsh(covariance), 0.0, None)
    values = values[values > 0]
    pairs = (np.outer(values, values) / np.add.outer(values, values)).sum()
    total = values.sum()
    return float((1 / first_count + 1 / second_count) * (total + pairs / 2 + total / 4))


class FrechetScores:
    """Frechet distance to one reference on the leading components of real images' features."""

    def __init__(self, reference: torch.Tensor, real: torch.Tensor) -> None:
        """Find the components: `reference` (m, d) and `real` (p, d) together have them."""
        self._extrapolated = len(reference) >= EXTRAPOLATED_FROM
        self._centre, self._axes = leading_components((reference, real))
        coordinates = self._coordinates(reference)
        self._reference = Gaussian.of([coordinates])
        self._without = _without_groups(coordinates) if self._extrapolated else []
        self._covariance = Gaussian.of([coordinates, self._coordinates(real)]).covariance

    def values(
        self, features: torch.Tensor, subsets: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Distances of subsets of `features` (p, d), given by row numbers: (subsets,) each.

        "at_n" is the plain distance, biased upwards by about 1/n; "closed_form" that less
        `expected_bias`, which holds for Gaussian features; "frechet" the limit for many images
        whatever their distribution, on a line in 1/n through the distance of the sets and those
        without one of 10 groups of either (the jackknife, Quenouille 1949), from 1,000 images; of
        fewer, it is the closed form.
        """
        coordinates = self._coordinates(features)
        rows = [self._distances(coordinates[subset]) for subset in subsets]
        names = ("at_n", "closed_form", "frechet")
        return dict(zip(names, np.array(rows).T, strict=True))

    def deviations(self, samples: torch.Tensor, generator: np.random.Generator) -> dict[str, float]:
        """Standard deviation of the distance of fresh `samples` (n, d), the reference given."""
        coordinates = self._coordinates(samples)
        own = Gaussian.of([coordinates])
        pairs = [
            (frechet_distance(drawn, self._reference), frechet_distance(drawn, own))
            for drawn in (
                Gaussian.of([coordinates[rows]]) for rows in resamples(len(samples), generator)
            )
        ]
        return {"frechet": corrected_deviation(*np.var(pairs, axis=0, ddof=1))}

    def _coordinates(self, features: torch.Tensor) -> np.ndarray:
        return ((features - self._centre) @ self._axes).double().cpu().numpy()

    def _distances(self, coordinates: np.ndarray) -> tuple[float, float, float]:
        drawn, real = Gaussian.of([coordinates]), self._reference
        plain = frechet_distance(drawn, real)
        closed_form = plain - expected_bias(self._covariance, drawn.count, real.count)
        if not self._extrapolated:
            return plain, closed_form, closed_form
        without = [frechet_distance(one, real) for one in _without_groups(coordinates)]
        without_real = [frechet_distance(drawn, one) for one in self._without]
        change = 2 * plain - float(np.mean(without)) - float(np.mean(without_real))
        return plain, closed_form, plain + (GROUPS - 1) * change


def leading_components(sets: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (d,) of features and the directions (d, 64) in which they vary most, float32."""
    total = sum(len(features) for features in sets)
    centre = sum(features.sum(dim=0, dtype=torch.float64) for features in sets) / total
    scatter = torch.zeros(len(centre), len(centre), dtype=torch.float64, device=centre.device)
    for features in sets:
        for chunk in features.split(4096):
            centred = chunk - centre.float()
            scatter += (centred.T @ centred).double()
    vectors = torch.linalg.eigh(scatter)[1].flip(1)
    return centre.float(), vectors[:, :COMPONENTS].float()


def _without_groups(features: np.ndarray) -> list[Gaussian]:
    """Moments of `features` (n, d) without each of 10 groups of rows."""
    groups = np.arange(len(features)) % GROUPS
    return [Gaussian.of([features[groups != group]]) for group in range(GROUPS)]


def _square_root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    # The root of an eigenvalue that is 0 up to rounding, 1e-16, would be 1e-8: no longer rounding.
    smallest = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return (vectors * np.sqrt(np.where(values > smallest, values, 0.0))) @ vectors.T
