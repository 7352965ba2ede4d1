from __future__ import annotations

import math

import numpy as np
import pytest

from ddpm_kedro.evaluation.standing import Standing, corrected_deviation, resamples

FLOORS = [1.0, 2.0, 3.0] * 7


def standing(value: float, count: int = 1000, **options: object) -> Standing:
    return Standing.of(value, FLOORS, 0.1, count, 10**9, **options)


def at(z: float, count: int = 1000) -> str:
    return standing(2.0 + z * standing(2.0).floor_std, count).word


@pytest.mark.parametrize(
    ("z", "word"),
    [
        (-4.1, "better than real images"),
        (-3.9, "indistinguishable"),
        (1.9, "indistinguishable"),
        (2.1, "close"),
        (9.9, "close"),
        (10.1, "far"),
    ],
)
def test_words_for_how_many_deviations_from_the_floor(z: float, word: str) -> None:
    assert at(z) == word


def test_few_images_tell_only_what_is_far() -> None:
    words = {z: at(z, count=499) for z in (-9.0, 0.0, 9.9, 10.1)}
    assert words == {**dict.fromkeys((-9.0, 0.0, 9.9), "not distinguishable"), 10.1: "far"}


def test_positive_z_is_worse_whichever_way_the_score_points() -> None:
    assert standing(5.0).z > 0 > standing(1.0).z
    assert standing(5.0, larger_is_better=True).z == pytest.approx(-standing(5.0).z)


def test_a_floor_that_does_not_vary_is_met_or_not() -> None:
    met, missed, beaten = (Standing.of(v, [1.0] * 20, 0.0, 1000, 5000).z for v in (1.0, 1.1, 0.9))
    assert (met, missed, beaten) == (0.0, math.inf, -math.inf)


def test_a_share_is_known_to_one_image_at_best() -> None:
    # All sets of real images cover everything: one image less is nothing to speak of.
    missed = Standing.of(0.999, [1.0] * 20, 0.0, 1000, 5000, larger_is_better=True)
    assert missed.word == "indistinguishable"
    assert Standing.of(0.9, [1.0] * 20, 0.0, 1000, 5000, larger_is_better=True).word == "far"


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_perfect_model_has_a_z_of_unit_variance_from_a_pool_of_any_size(share: float) -> None:
    # Means of n numbers: fresh ones, beside those of 20 subsets of a pool that is drawn anew too.
    generator, found = np.random.default_rng(0), []
    count, pool = 50, round(50 / share)
    for _ in range(800):
        real = generator.standard_normal(pool)
        floors = [generator.permutation(real)[:count].mean() for _ in range(20)]
        value = generator.standard_normal(count).mean()
        found.append(Standing.of(value, floors, 1.0, count, pool).z)
    # z has 19 degrees of freedom: Student's variance is 19 / 17
    assert np.std(found) == pytest.approx(math.sqrt(19 / 17), rel=0.06)
    assert abs(np.mean(found)) < 0.1


def test_the_bootstrap_of_a_squared_distance_is_corrected_for_the_noise_that_it_doubles() -> None:
    # |mean of samples - mean of reference|^2 in 8 dimensions, the reference given.
    generator = np.random.default_rng(1)
    count, size, found, plain, corrected = 200, 8, [], [], []
    for _ in range(200):
        reference = generator.standard_normal((count, size)).mean(axis=0)
        fresh = generator.standard_normal((50, size)) / math.sqrt(count)  # means of fresh samples
        found.append(np.square(fresh - reference).sum(axis=1).var())
        samples = generator.standard_normal((count, size))
        drawn = np.array([samples[rows].mean(axis=0) for rows in resamples(count, generator)])
        variances = [
            np.square(drawn - one).sum(axis=1).var() for one in (reference, samples.mean(axis=0))
        ]
        plain.append(variances[0])
        corrected.append(corrected_deviation(*variances) ** 2)
    assert np.mean(corrected) == pytest.approx(np.mean(found), rel=0.15)
    assert np.mean(plain) > 1.4 * np.mean(found)


def test_near_the_floor_the_interval_is_at_least_as_wide_as_the_floor_spreads() -> None:
    few, many = (Standing.of(2.0, FLOORS, own, 1000, 10**9).interval for own in (0.0, 5.0))
    assert few == pytest.approx(1.96 * standing(2.0).floor_std)
    assert many > 1.96 * 5.0


def test_flat_metrics_have_the_name_before_them() -> None:
    found = standing(5.0, ratio=2.5, extras={"at_n": 7.0}).metrics("pixels_frechet")
    of_name = ("", "_floor", "_floor_std", "_interval", "_z", "_verdict", "_ratio", "_at_n")
    assert set(found) == {f"pixels_frechet{part}" for part in of_name}
    assert found["pixels_frechet_ratio"] == 2.5
    assert "kid_ratio" not in standing(5.0).metrics("kid")
