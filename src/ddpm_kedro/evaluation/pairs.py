"""Scores of pairs of images, KID, coverage and recall, from one pass over the inner products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ddpm_kedro.evaluation.coverage import deviation_from_halves, halves, radii, squared_distances
from ddpm_kedro.evaluation.feature_tensors import product_blocks
from ddpm_kedro.evaluation.kid import kernel_of, kid_of, kid_variances
from ddpm_kedro.evaluation.standing import corrected_deviation


class _Within(NamedTuple):
    """Of the pairs within a set of n images."""

    sums: torch.Tensor  # float64 (n,), of an image's kernel with all others
    squares: float  # sum of the squared kernel
    radii: torch.Tensor  # (n, 2), squared distances to the 5th and 10th neighbour


class _Between(NamedTuple):
    """Of the pairs of p images with m of the reference."""

    means: torch.Tensor  # float64 (p,), of an image's kernel with the reference
    nearest: torch.Tensor  # (subsets, m), squared distance to the nearest of each subset
    margin: torch.Tensor  # (subsets, m), the least of (squared distance - radius) of each subset


class PairScores:
    """KID, coverage and recall against one reference (m, d)."""

    def __init__(self, reference: torch.Tensor) -> None:
        self._reference = reference
        self._lengths = reference.square().sum(dim=1)
        self._within = _within(reference)

    def values(
        self, features: torch.Tensor, subsets: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Scores of subsets of `features` (p, d), given by ascending row numbers: (subsets,)."""
        within = [_within(features[torch.from_numpy(rows)]) for rows in subsets]
        between = self._between(features, subsets, [own.radii[:, 0] for own in within])
        kids = [
            kid_of(own.sums, self._within.sums, between.means[torch.from_numpy(rows)])
            for own, rows in zip(within, subsets, strict=True)
        ]
        return {
            "kid": np.array(kids),
            "coverage": _shares(between.nearest <= self._within.radii[:, 0]),
            "recall": _shares(between.margin <= 0),
        }

    def deviations(self, samples: torch.Tensor, generator: np.random.Generator) -> dict[str, float]:
        """Standard deviations of the scores of fresh `samples` (n, d), the reference given."""
        parts = halves(len(samples), generator)
        radius = [_within(samples[torch.from_numpy(rows)]).radii[:, 0] for rows in parts]
        between = self._between(samples, parts, radius)
        own, count = _within(samples), len(self._reference)
        coverage = _shares(between.nearest <= self._within.radii[:, 1])
        recall = _shares(between.margin <= 0)
        return {
            "kid": corrected_deviation(*kid_variances(own.sums, own.squares, between.means)),
            "coverage": deviation_from_halves(coverage, count),
            "recall": deviation_from_halves(recall, count),
        }

    def _between(
        self,
        features: torch.Tensor,
        subsets: Sequence[np.ndarray],
        radius: Sequence[torch.Tensor],
    ) -> _Between:
        count, size = self._reference.shape
        means = torch.empty(len(features), dtype=torch.float64, device=features.device)
        nearest = features.new_full((len(subsets), count), torch.inf)
        margin = nearest.clone()
        for rows, products in product_blocks(features, self._reference):
            means[rows] = kernel_of(products, size).mean(dim=1, dtype=torch.float64)
            lengths = features[rows].square().sum(dim=1)
            distances = squared_distances(products, lengths, self._lengths)
            for index, members in enumerate(subsets):
                first, last = np.searchsorted(members, (rows.start, rows.stop))
                if first == last:
                    continue
                found = distances[torch.from_numpy(members[first:last] - rows.start)]
                nearest[index] = torch.minimum(nearest[index], found.amin(dim=0))
                found -= radius[index][first:last, None]
                margin[index] = torch.minimum(margin[index], found.amin(dim=0))
        return _Between(means, nearest, margin)


def _within(features: torch.Tensor) -> _Within:
    size, lengths = features.shape[1], features.square().sum(dim=1)
    sums, squares, found = [], 0.0, []
    for rows, products in product_blocks(features, features):
        kernel = kernel_of(products, size, within=rows)
        sums.append(kernel.sum(dim=1, dtype=torch.float64))
        squares += float(kernel.square_().sum(dtype=torch.float64))
        found.append(radii(squared_distances(products, lengths[rows], lengths), rows))
    return _Within(torch.cat(sums), squares, torch.cat(found))


def _shares(found: torch.Tensor) -> np.ndarray:
    return found.double().mean(dim=1).cpu().numpy()
