from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm_kedro.evaluation.kid import kernel_of, kid_of, kid_variances
from ddpm_kedro.evaluation.pairs import PairScores
from ddpm_kedro.evaluation.standing import corrected_deviation


def gaussian(seed: int, count: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


def kid(samples: np.ndarray, reference: np.ndarray) -> float:
    scores = PairScores(torch.from_numpy(reference))
    return float(scores.values(torch.from_numpy(samples), [np.arange(len(samples))])["kid"][0])


def test_it_is_the_unbiased_estimate_pair_by_pair() -> None:
    first, second = gaussian(0, 9, 4), gaussian(1, 11, 4) + 0.5

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x.astype(np.float64) @ y / 4 + 1) ** 3)

    own = [
        np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j])
        for s in (first, second)
    ]
    between = np.mean([kernel(x, y) for x in first for y in second])
    assert kid(first, second) == pytest.approx(own[0] + own[1] - 2 * between, rel=1e-5)


def test_it_equals_torch_fidelity_on_the_same_features() -> None:
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    first, second = gaussian(2, 200, 64), 1.1 * gaussian(3, 200, 64)
    theirs = metric_kid.kernel_mmd(
        first.astype(np.float64),
        second.astype(np.float64),
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1,
    )
    floor_deviation = 2e-3  # of two sets of 200, about
    assert abs(kid(first, second) - theirs) <= 1e-4 * max(abs(theirs), floor_deviation)


def test_it_is_around_zero_for_equal_distributions_at_any_n() -> None:
    for count in (20, 200):
        found = [kid(gaussian(i, count, 8), gaussian(1000 + i, count, 8)) for i in range(100)]
        assert abs(np.mean(found)) < 3 * np.std(found) / 10


def test_the_closed_form_is_what_resampling_the_samples_gives() -> None:
    # Resamples against reference and samples, the duplicates' own pairs included: the V-statistic.
    generator = np.random.default_rng(4)
    samples, real = (torch.from_numpy(gaussian(seed, 300, 6)).double() for seed in (5, 6))
    within, between = kernel_of(samples @ samples.T, 6), kernel_of(samples @ real.T, 6)
    weights = torch.from_numpy(generator.multinomial(300, np.full(300, 1 / 300), size=4000) / 300)
    own = (weights @ within * weights).sum(dim=1)
    to_reference = own - 2 * weights @ between.mean(dim=1)
    to_samples = own - 2 * weights @ within.mean(dim=1)
    off = within.clone().fill_diagonal_(0)
    plain, noise = kid_variances(off.sum(dim=1), float(off.square().sum()), between.mean(dim=1))
    assert plain == pytest.approx(float(to_reference.var()), rel=0.1)
    assert noise == pytest.approx(float(to_samples.var()), rel=0.15)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_deviation_is_that_of_fresh_samples(shift: float) -> None:
    real = torch.from_numpy(gaussian(7, 200, 30))
    found, stated = [], []
    of_reference = (kernel_of(real @ real.T, 30)).fill_diagonal_(0).double().sum(dim=1)
    for seed in range(200):
        samples = torch.from_numpy(gaussian(10_000 + seed, 200, 30)) + shift
        own = kernel_of(samples @ samples.T, 30).fill_diagonal_(0).double()
        between = kernel_of(samples @ real.T, 30).double().mean(dim=1)
        found.append(kid_of(own.sum(dim=1), of_reference, between))
        squares = float(own.square().sum())
        stated.append(corrected_deviation(*kid_variances(own.sum(dim=1), squares, between)))
    assert np.mean(stated) == pytest.approx(np.std(found), rel=0.15)
