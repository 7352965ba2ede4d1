"""Planted copies are told from new images, and new images are not suspected."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ddpm_kedro.evaluation.memorisation import (
    Closeness,
    closest_pairs,
    copies,
    count_duplicates,
    excess_closeness,
    near_copies,
    pixel_closeness,
)
from ddpm_kedro.images.imageset import ImageSet


def smooth_images(count: int, seed: int, side: int = 16) -> np.ndarray:
    """Blobs with colours and a little detail, uint8 (count, 3, side, side): no two alike."""
    generator = np.random.default_rng(seed)
    coarse = generator.normal(128, 40, (count, 1, 2, 2))
    middle = generator.normal(0, 20, (count, 3, 4, 4))
    images = sum(
        part.repeat(side // part.shape[2], axis=2).repeat(side // part.shape[3], axis=3)
        for part in (coarse, middle, generator.normal(0, 8, (count, 3, side, side)))
    )
    return images.clip(0, 255).astype(np.uint8)


TRAIN, TEST = ImageSet(smooth_images(1500, seed=1)), ImageSet(smooth_images(400, seed=2))


def compared(samples: np.ndarray) -> Closeness:
    plain, mirrored = pixel_closeness(samples, TRAIN, TEST, 400, "cpu")
    return plain.or_mirrored(mirrored)


def suspected(samples: np.ndarray) -> bool:
    found = compared(samples).near_copies()
    return found["near_copies"] > found["near_copies_limit"]


def noisy(images: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(3).normal(0, 2, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def jpeg(images: np.ndarray) -> np.ndarray:
    def stored(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=75)
        return np.asarray(Image.open(file)).transpose(2, 0, 1)

    return np.stack([stored(image) for image in images])


@pytest.mark.parametrize(
    "copied", [np.copy, lambda images: images[..., ::-1], noisy, jpeg], ids=repr
)
def test_a_twentieth_of_copies_is_suspected(copied: Callable[[np.ndarray], np.ndarray]) -> None:
    samples = smooth_images(400, seed=3)
    samples[::20] = copied(TRAIN.images[100:120])
    assert not suspected(smooth_images(400, seed=3))
    assert suspected(samples)
    pairs = closest_pairs(compared(samples), samples, TRAIN, 20)
    assert {pair["training"] for pair in pairs} == set(range(100, 120))
    assert all(pair["sample"] == 20 * (pair["training"] - 100) for pair in pairs)
    assert all(pair["grey_levels"] < 25 for pair in pairs)


@pytest.mark.parametrize("seed", range(4, 8))
def test_new_images_are_not_suspected_blurred_or_not(seed: int) -> None:
    samples = smooth_images(400, seed)
    assert not suspected(samples)
    blurred = samples.reshape(400, 3, 2, 8, 2, 8).mean((3, 5)).repeat(8, 2).repeat(8, 3)
    near = compared(blurred.astype(np.uint8))
    assert excess_closeness(near.samples.distance, near.held_out.distance) > 0.5
    assert not suspected(blurred.astype(np.uint8))


def test_pairs_say_which_way_they_are_alike() -> None:
    samples = smooth_images(10, seed=3)
    samples[2], samples[7] = TRAIN.images[5], TRAIN.images[6][..., ::-1]
    exact, mirrored = closest_pairs(compared(samples), samples, TRAIN, 2)
    assert exact | {"sample": 2, "training": 5, "distance": 0.0, "grey_levels": 0.0} == exact
    assert mirrored | {"sample": 7, "training": 6, "grey_levels": 0.0, "mirrored": True} == mirrored
    assert exact["mirrored"] is False
    plain, turned = pixel_closeness(samples, TRAIN, TEST, 400, "cpu")
    found = copies(plain, turned)
    assert found["copies_of_training"] == found["mirrored_copies_of_training"] == 1
    assert found["copies_in_held_out"] == 0


def test_the_limit_is_that_of_the_beta_binomial_distribution() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count, others, rank in ((2000, 2048, 20), (512, 180, 2), (10, 5, 1), (100, 10_000, 100)):
        _, limit = near_copies(np.ones(count), np.ones(others))
        law = stats.betabinom(count, rank, others - rank + 1)
        assert law.sf(limit) <= 1e-3 < law.sf(limit - 1)


def test_new_values_exceed_the_limit_about_once_in_a_thousand() -> None:
    generator = np.random.default_rng(0)
    found = [near_copies(generator.random(300), generator.random(200)) for _ in range(2000)]
    assert sum(count > limit for count, limit in found) <= 7  # more has a chance of 1 in 1,000
    assert 2 < np.mean([count for count, _ in found]) < 4  # of 300 below a rank of 2 in 200


def test_what_is_as_near_as_the_threshold_is_no_copy() -> None:
    assert near_copies(np.zeros(50), np.zeros(100)) == (
        0,
        near_copies(np.ones(50), np.ones(100))[1],
    )


def test_excess_closeness_has_a_direction() -> None:
    near, far = np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0])
    assert excess_closeness(near, far) == 1.0
    assert excess_closeness(far, near) == 0.0
    assert excess_closeness(near, near) == 0.0


def test_the_statistic_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(4)
    first, second = generator.normal(0.3, 1, 70), generator.normal(0, 1, 50)
    greater = stats.ks_2samp(first, second, alternative="greater").statistic
    assert excess_closeness(first, second) == pytest.approx(greater)


def test_duplicates_are_counted_beyond_the_first() -> None:
    images = smooth_images(5, seed=5)
    assert count_duplicates(images) == 0
    assert count_duplicates(images[[0, 1, 1, 2, 1]]) == 2
