"""MIND, Monge Inception Distance: the sliced Wasserstein distance of two sets of features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.feature_tensors import feature_tensors
from ddpm_kedro.evaluation.standing import corrected_deviation, resamples

NUM_DIRECTIONS = 1000
DIRECTIONS_SEED = 2020  # part of the score's identity; that of torch-fidelity, which it then equals


def mind(
    samples: np.ndarray, reference: np.ndarray, device: torch.device | str | None = None
) -> float:
    """MIND of two sets of n features (n, d), >= 0, in squared feature units.

    3 d times the mean over 1,000 random directions of the squared 2-Wasserstein distance of the
    projections, which compares them in order of size (arXiv 2605.06797). It is biased upwards, by
    about 1/n: only scores of equal n compare. InputError as `feature_tensors`, and where the sets
    differ in size.
    """
    drawn, real = feature_tensors(device, samples=samples, reference=reference)
    return float(MindScores(real).values(drawn, [np.arange(len(drawn))])["mind"][0])


class MindScores:
    """MIND against one reference (n, d), whose projections are sorted once."""

    def __init__(self, reference: torch.Tensor) -> None:
        size = reference.shape[1]
        generator = torch.Generator().manual_seed(DIRECTIONS_SEED)
        directions = torch.randn(NUM_DIRECTIONS, size, generator=generator)
        directions /= directions.norm(dim=1, keepdim=True)
        self._directions = directions.to(reference.device)
        self._scale = 3.0 * size
        self._reference = _sorted(self._directions @ reference.T)

    def values(
        self, features: torch.Tensor, subsets: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Scores of subsets of `features` (p, d), given by row numbers: (subsets,)."""
        projected = self._directions @ features.T
        found = [self._distance(_sorted(projected, rows), self._reference) for rows in subsets]
        return {"mind": np.array(found)}

    def deviations(self, samples: torch.Tensor, generator: np.random.Generator) -> dict[str, float]:
        """Standard deviation of the score of fresh `samples` (n, d), the reference given."""
        projected = self._directions @ samples.T
        own = _sorted(projected)
        pairs = [
            (self._distance(drawn, self._reference), self._distance(drawn, own))
            for drawn in (_sorted(projected, rows) for rows in resamples(len(samples), generator))
        ]
        return {"mind": corrected_deviation(*np.var(pairs, axis=0, ddof=1))}

    def _distance(self, first: torch.Tensor, second: torch.Tensor) -> float:
        if first.shape != second.shape:
            raise InputError(
                f"MIND compares sets of one size, not of {first.shape[1]:,} and "
                f"{second.shape[1]:,} images"
            )
        return self._scale * float((first - second).square().mean())


def _sorted(projected: torch.Tensor, columns: np.ndarray | None = None) -> torch.Tensor:
    """Projections (directions, n) of some columns, each direction's by size."""
    if columns is not None:
        projected = projected[:, torch.from_numpy(columns).to(projected.device)]
    if projected.device.type == "cpu":  # numpy sorts float32 some twenty times faster than torch
        return torch.from_numpy(np.sort(projected.numpy(), axis=1))
    return projected.sort(dim=1).values
