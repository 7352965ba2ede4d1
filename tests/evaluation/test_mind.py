from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.mind import MindScores, mind


def gaussian(seed: int, count: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


def directions(size: int) -> np.ndarray:
    """As torch-fidelity draws them: part of what the score is."""
    drawn = torch.randn(1000, size, generator=torch.Generator().manual_seed(2020)).numpy()
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_it_is_the_mean_transport_cost_along_a_thousand_directions() -> None:
    first, second = gaussian(0, 50, 7), 1.5 * gaussian(1, 50, 7) + 0.3
    costs = []
    for direction in directions(7).astype(np.float64):
        left = sorted(float(row @ direction) for row in first)
        right = sorted(float(row @ direction) for row in second)
        costs.append(sum((a - b) ** 2 for a, b in zip(left, right, strict=True)) / 50)
    assert mind(first, second) == pytest.approx(3 * 7 * sum(costs) / 1000, rel=1e-5)


def test_a_shift_costs_its_squared_projections_whatever_the_distribution() -> None:
    features, shift = gaussian(2, 300, 5), np.array([0.5, -1.0, 0.0, 2.0, 0.25], dtype=np.float32)
    expected = 3 * 5 * np.square(directions(5) @ shift).mean()
    assert mind(features + shift, features) == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(3 * np.square(shift).sum(), rel=0.1)  # the limit: 3 |shift|^2


def test_gaussians_of_two_widths_have_the_closed_form() -> None:
    # Along a direction W2^2 is (2 - 1)^2, and 1/n of bias is below the tolerance.
    assert mind(2 * gaussian(3, 4000, 4), gaussian(4, 4000, 4)) == pytest.approx(12, rel=0.03)


def test_equal_sets_in_any_order_score_zero() -> None:
    features = gaussian(5, 64, 6)
    assert mind(features[::-1].copy(), features) == pytest.approx(0.0, abs=1e-10)


def test_subsets_score_as_sets_of_their_own() -> None:
    real, pool = gaussian(6, 40, 6), gaussian(7, 120, 6)
    subsets = [np.arange(40), np.arange(0, 120, 3)]
    found = MindScores(torch.from_numpy(real)).values(torch.from_numpy(pool), subsets)["mind"]
    assert found == pytest.approx([mind(pool[rows], real) for rows in subsets], rel=1e-5)


def test_sets_of_different_size_are_refused() -> None:
    with pytest.raises(InputError, match="sets of one size, not of 30 and 40 images"):
        mind(gaussian(0, 30, 3), gaussian(1, 40, 3))
