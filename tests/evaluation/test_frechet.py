from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.frechet import (
    FrechetScores,
    Gaussian,
    expected_bias,
    frechet_distance,
    leading_components,
)


def random_covariance(generator: np.random.Generator, size: int) -> np.ndarray:
    factor = generator.standard_normal((size, size))
    return factor @ factor.T


def test_commuting_gaussians_have_the_closed_form() -> None:
    # Sharing eigenvectors, the distance is |m1 - m2|^2 + sum (sqrt(a_i) - sqrt(b_i))^2.
    generator = np.random.default_rng(0)
    vectors = np.linalg.qr(generator.standard_normal((5, 5)))[0]
    first, second = np.array([4.0, 2.0, 1.0, 0.5, 0.0]), np.array([1.0, 3.0, 1.0, 0.0, 2.0])
    means = generator.standard_normal((2, 5))
    distance = frechet_distance(
        Gaussian(means[0], (vectors * first) @ vectors.T),
        Gaussian(means[1], (vectors * second) @ vectors.T),
    )
    expected = np.square(means[0] - means[1]).sum()
    expected += np.square(np.sqrt(first) - np.sqrt(second)).sum()
    assert distance == pytest.approx(expected, abs=1e-10)


def test_two_by_two_matches_the_formula_of_trace_and_determinant() -> None:
    # In two dimensions tr((AB)^(1/2)) = sqrt(tr(AB) + 2 sqrt(det A det B)), commuting or not.
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    overlap = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    expected = 1.0 + np.trace(a) + np.trace(b) - 2 * overlap
    distance = frechet_distance(Gaussian(np.zeros(2), a), Gaussian(np.array([0.6, 0.8]), b))
    assert distance == pytest.approx(expected, abs=1e-10)


def test_it_is_symmetric_invariant_to_rotation_and_zero_for_equal_ones() -> None:
    generator = np.random.default_rng(1)
    mean, other = generator.standard_normal((2, 6))
    a, b = random_covariance(generator, 6), random_covariance(generator, 6)
    rotation = np.linalg.qr(generator.standard_normal((6, 6)))[0]
    first, second = Gaussian(mean, a), Gaussian(other, b)
    distance = frechet_distance(first, second)
    turned = frechet_distance(
        Gaussian(rotation @ mean, rotation @ a @ rotation.T),
        Gaussian(rotation @ other, rotation @ b @ rotation.T),
    )
    assert frechet_distance(second, first) == pytest.approx(distance, abs=1e-10)
    assert turned == pytest.approx(distance, abs=1e-10)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-10)


def test_features_of_different_length_are_refused() -> None:
    with pytest.raises(InputError, match="2 and 3 numbers"):
        frechet_distance(Gaussian(np.zeros(2), np.eye(2)), Gaussian(np.zeros(3), np.eye(3)))


def test_moments_in_chunks_equal_moments_of_the_whole() -> None:
    # A mean of 1e6 costs a naive sum of squares all digits of a unit variance.
    values = np.random.default_rng(2).standard_normal((101, 4)) + 1e6
    whole = Gaussian.of(np.array_split(values, [1, 1, 40]))
    np.testing.assert_allclose(whole.mean, values.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(whole.covariance, np.cov(values, rowvar=False), atol=1e-9)
    assert whole.count == 101


def test_a_single_image_has_no_covariance() -> None:
    with pytest.raises(InputError, match="at least 2 images, not 1"):
        Gaussian.of([np.zeros((1, 3))])


def test_the_expected_bias_is_the_known_one_for_unit_variance() -> None:
    dimensions, count = 20, 500
    one_sided = expected_bias(np.eye(dimensions), count, 10**15)
    known = dimensions * (dimensions + 1) / (4 * count) + dimensions / count
    assert one_sided == pytest.approx(known, rel=1e-9)


@pytest.mark.parametrize("spectrum", ["flat", "falling"])
def test_perfect_samples_score_the_expected_bias(spectrum: str) -> None:
    size = 8
    variances = np.ones(size) if spectrum == "flat" else 0.5 ** np.arange(size)
    generator = np.random.default_rng(3)
    scores = []
    for _ in range(200):
        first, second = (
            Gaussian.of([generator.standard_normal((count, size)) * np.sqrt(variances)])
            for count in (400, 250)
        )
        scores.append(frechet_distance(first, second))
    error = np.std(scores) / np.sqrt(len(scores))
    expected = expected_bias(np.diag(variances), 400, 250)
    # The next order in 1/n is left out of the expectation: about 1%.
    assert np.mean(scores) == pytest.approx(expected, abs=4 * error + 0.01 * expected)
    assert expected > 20 * error


def scored(samples: np.ndarray, reference: np.ndarray, real: np.ndarray) -> dict[str, float]:
    sets = [torch.from_numpy(part.astype(np.float32)) for part in (samples, reference, real)]
    found = FrechetScores(*sets[1:]).values(sets[0], [np.arange(len(samples))])
    return {name: float(values[0]) for name, values in found.items()}


def test_the_plain_distance_equals_torch_fidelity_on_the_same_features() -> None:
    # 40 numbers: all of them are among the 64 leading components.
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    generator = np.random.default_rng(5)
    mixing = generator.standard_normal((40, 40))
    real, reference, samples = (
        generator.standard_normal((n, 40)) @ mixing for n in (600, 200, 200)
    )
    samples = 1.2 * samples + 0.5
    statistics = [
        metric_fid.fid_features_to_statistics(torch.from_numpy(features))
        for features in (samples, reference)
    ]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, False)[metric_fid.KEY_METRIC_FID]
    assert scored(samples, reference, real)["at_n"] == pytest.approx(theirs, rel=1e-4)


def test_only_the_leading_components_of_real_images_are_compared() -> None:
    generator = np.random.default_rng(6)
    widths = np.where(np.arange(80) < 70, 2.0, 0.01)
    features = torch.from_numpy((generator.standard_normal((400, 80)) * widths).astype(np.float32))
    axes = leading_components([features[:150], features[150:]])[1].numpy()
    assert axes.shape == (80, 64)
    assert abs(axes[70:]).max() < 0.05
    np.testing.assert_allclose(axes.T @ axes, np.eye(64), atol=1e-5)


@pytest.mark.parametrize("width", [1.0, 1.1])
def test_it_is_extrapolated_to_many_images_whatever_the_distribution(width: float) -> None:
    # Heavy tails: the closed form, which holds for Gaussians, takes off too little.
    generator, found = np.random.default_rng(7), []
    for _ in range(12):
        real, reference, samples = (
            np.sign(draw) * np.square(draw) / np.sqrt(3)
            for draw in (generator.standard_normal((n, 20)) for n in (2000, 1000, 1000))
        )
        found.append(list(scored(width * samples, reference, real).values()))
    truth = 20 * (width - 1) ** 2
    plain, closed_form, value = np.mean(found, axis=0) - truth
    error = np.std(found, axis=0)[2] / np.sqrt(12)
    assert abs(value) < 3 * error
    assert plain > closed_form > 3 * error


def test_below_a_thousand_images_the_closed_form_is_the_value() -> None:
    generator = np.random.default_rng(8)
    found = scored(*(generator.standard_normal((n, 5)) for n in (999, 999, 2000)))
    assert found["frechet"] == found["closed_form"] < found["at_n"]
