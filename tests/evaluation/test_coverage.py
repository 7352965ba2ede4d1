from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm_kedro.evaluation import feature_tensors
from ddpm_kedro.evaluation.pairs import PairScores


def gaussian(seed: int, count: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


def scores(samples: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    found = PairScores(torch.from_numpy(reference)).values(
        torch.from_numpy(samples), [np.arange(len(samples))]
    )
    return {name: float(value[0]) for name, value in found.items()}


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.linalg.norm(first[:, None].astype(np.float64) - second, axis=2)


def by_hand(samples: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    radius = [np.sort(distances(s, s), axis=1)[:, 5] for s in (samples, reference)]
    between = distances(samples, reference)
    covered = [(between[:, j] <= radius[1][j]).any() for j in range(len(reference))]
    recalled = [(between[:, j] <= radius[0]).any() for j in range(len(reference))]
    return float(np.mean(covered)), float(np.mean(recalled))


@pytest.mark.parametrize("width", [1.0, 0.6, 3.0])
def test_they_are_what_five_neighbours_say_by_brute_force(width: float) -> None:
    samples, reference = width * gaussian(0, 90, 6), gaussian(1, 110, 6)
    found = scores(samples, reference)
    assert (found["coverage"], found["recall"]) == pytest.approx(by_hand(samples, reference))


def test_a_copier_has_both_and_the_same_photo_over_and_over_neither() -> None:
    real = gaussian(2, 100, 4)
    assert scores(real, real) == pytest.approx({"kid": 0.0, "coverage": 1.0, "recall": 1.0}, abs=1)
    assert scores(real, real)["coverage"] == scores(real, real)["recall"] == 1
    few = np.repeat(gaussian(3, 10, 4), 10, axis=0)
    assert scores(few, real)["recall"] <= 0.01
    assert scores(few, real)["coverage"] < 0.7


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real, pool = torch.from_numpy(gaussian(4, 60, 5)), torch.from_numpy(gaussian(5, 200, 5))
    subsets = [np.arange(60), np.arange(140, 200), np.arange(1, 200, 3)[:60]]

    def all_scores() -> list[np.ndarray]:
        found = PairScores(real)
        deviations = found.deviations(pool[:60], np.random.default_rng(0))
        return [*found.values(pool, subsets).values(), np.array(list(deviations.values()))]

    whole = all_scores()
    monkeypatch.setattr(feature_tensors, "BLOCK_NUMBERS", 7 * 60)
    for one, other in zip(whole, all_scores(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_sets_with_fewer_neighbours_take_as_many_as_there_are(count: int) -> None:
    found = PairScores(torch.from_numpy(gaussian(6, count, 3)))
    samples = torch.from_numpy(gaussian(7, count, 3))
    values = found.values(samples, [np.arange(count)])
    deviations = found.deviations(samples, np.random.default_rng(0))
    assert np.isfinite([*(value[0] for value in values.values()), *deviations.values()]).all()
