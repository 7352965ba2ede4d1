from __future__ import annotations

import numpy as np
import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation import memorisation
from ddpm_kedro.evaluation.features import extractor
from ddpm_kedro.evaluation.memorisation import (
    count_duplicates,
    excess_closeness,
    kolmogorov_smirnov,
    nearest_neighbours,
)


def random_images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)


def test_neighbours_are_the_nearest_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, references = random_images(23, seed=0), random_images(57, seed=1)
    monkeypatch.setattr(memorisation, "QUERY_ROWS", 7)
    monkeypatch.setattr(extractor, "CHUNK_BYTES", 8 * 48 * 10)
    found = nearest_neighbours(queries, references)
    differences = queries[:, None].astype(float) - references[None].astype(float)
    table = np.sqrt(np.square(differences).mean(axis=(2, 3, 4)))
    np.testing.assert_array_equal(found.index, table.argmin(axis=1))
    np.testing.assert_allclose(found.distance, table.min(axis=1), rtol=1e-12)


def test_a_copy_is_at_distance_zero_exactly() -> None:
    references = random_images(40, seed=2)
    found = nearest_neighbours(references[[3, 17, 39]], references)
    np.testing.assert_array_equal(found.index, [3, 17, 39])
    np.testing.assert_array_equal(found.distance, 0.0)


def test_one_grey_level_everywhere_is_a_distance_of_one() -> None:
    black = np.zeros((1, 1, 5, 5), np.uint8)
    assert nearest_neighbours(black + 1, black).distance[0] == 1.0


def test_the_first_of_equal_neighbours_is_named() -> None:
    reference = random_images(1, seed=3).repeat(4, axis=0)
    assert nearest_neighbours(reference[:1], reference).index[0] == 0


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        nearest_neighbours(random_images(2, seed=0), np.zeros((2, 1, 4, 4), np.uint8))
    with pytest.raises(InputError, match="one shape"):
        nearest_neighbours(random_images(0, seed=0), random_images(2, seed=0))


def test_excess_closeness_has_a_direction() -> None:
    near, far = np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0])
    assert excess_closeness(near, far) == 1.0
    assert excess_closeness(far, near) == 0.0
    assert kolmogorov_smirnov(far, near) == 1.0
    assert excess_closeness(near, near) == 0.0


def test_the_statistic_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(4)
    first, second = generator.normal(0.3, 1, 70), generator.normal(0, 1, 50)
    expected = stats.ks_2samp(first, second).statistic
    assert kolmogorov_smirnov(first, second) == pytest.approx(expected)
    greater = stats.ks_2samp(first, second, alternative="greater").statistic
    assert excess_closeness(first, second) == pytest.approx(greater)


def test_duplicates_are_counted_beyond_the_first() -> None:
    images = random_images(5, seed=5)
    assert count_duplicates(images) == 0
    assert count_duplicates(images[[0, 1, 1, 2, 1]]) == 2
