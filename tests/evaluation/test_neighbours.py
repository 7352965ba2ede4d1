"""The nearest training image: exact, whatever the blocks, plain and mirrored."""

from __future__ import annotations

import numpy as np
import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation import neighbours
from ddpm_kedro.evaluation.neighbours import Neighbours, nearest_features, nearest_neighbours


def random_images(count: int, seed: int, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 4, width), dtype=np.uint8)


def table_of(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """All distances, by their definition."""
    differences = queries[:, None].astype(float) - references[None].astype(float)
    return np.sqrt(np.square(differences).mean(axis=(2, 3, 4)))


@pytest.mark.parametrize("width", [4, 5])
@pytest.mark.parametrize("columns", [4096, 7])
def test_neighbours_are_the_nearest_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch, width: int, columns: int
) -> None:
    queries, references = random_images(23, 0, width), random_images(57, 1, width)
    for name, value in {"QUERY_ROWS": 7, "REFERENCE_ROWS": 10, "PAIRS_AT_ONCE": 2}.items():
        monkeypatch.setattr(neighbours, name, value)
    monkeypatch.setattr(neighbours, "COLUMNS", columns)
    found = nearest_neighbours(queries, references)
    for way, asked in zip(found, (queries, queries[..., ::-1]), strict=True):
        table = table_of(asked, references)
        np.testing.assert_array_equal(way.index, table.argmin(axis=1))
        np.testing.assert_allclose(way.distance, table.min(axis=1), rtol=1e-12)
        np.testing.assert_allclose(way.tenth, np.sort(table, axis=1)[:, 9], rtol=1e-5)


def test_distances_that_float32_cannot_tell_apart_are_told_apart() -> None:
    query = np.zeros((1, 3, 32, 32), np.uint8)
    references = np.full((300, 3, 32, 32), 255, np.uint8)
    references[:, 1, 7, 9] = 1
    references[211, 1, 7, 9] = 0  # its squared distance is smaller by 1, of 200 million
    found, mirrored = nearest_neighbours(query, references)
    assert found.index[0] == mirrored.index[0] == 211
    assert found.distance[0] == np.sqrt(255**2 * (query.size - 1) / query.size)


def test_the_nearest_of_many_that_are_almost_equal_is_found() -> None:
    generator = np.random.default_rng(1)
    queries = generator.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    base = generator.integers(1, 255, (1, 3, 32, 32))
    references = (base + generator.integers(-1, 2, (400, 3, 32, 32)) * (base > 250)).astype(
        np.uint8
    )
    found = nearest_neighbours(queries, references)[0]
    np.testing.assert_array_equal(found.index, table_of(queries, references).argmin(axis=1))


def test_a_copy_is_at_distance_zero_exactly() -> None:
    references = random_images(40, seed=2)
    rows = [3, 17, 39]
    plain, mirrored = nearest_neighbours(references[rows], references)
    np.testing.assert_array_equal(plain.index, rows)
    np.testing.assert_array_equal(plain.distance, 0.0)
    assert (mirrored.distance > 0).all()
    plain, mirrored = nearest_neighbours(references[rows][..., ::-1], references)
    np.testing.assert_array_equal(mirrored.index, rows)
    np.testing.assert_array_equal(mirrored.distance, 0.0)
    both = plain.or_mirrored(mirrored)
    np.testing.assert_array_equal(both.index, rows)
    np.testing.assert_array_equal(both.relative, 0.0)


def test_one_grey_level_everywhere_is_a_distance_of_one() -> None:
    black = np.zeros((1, 1, 5, 5), np.uint8)
    assert nearest_neighbours(black + 1, black)[0].distance[0] == 1.0


def test_the_first_of_equal_neighbours_is_named() -> None:
    reference = random_images(1, seed=3).repeat(4, axis=0)
    assert nearest_neighbours(reference[:1], reference)[0].index[0] == 0


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        nearest_neighbours(random_images(2, seed=0), np.zeros((2, 1, 4, 4), np.uint8))
    with pytest.raises(InputError, match="one shape"):
        nearest_neighbours(random_images(0, seed=0), random_images(2, seed=0))


def test_neighbours_in_features_are_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(5)
    queries, references = (
        (100 + generator.standard_normal((count, 30))).astype(np.float32) for count in (23, 57)
    )
    queries[4] = references[31]
    monkeypatch.setattr(neighbours, "QUERY_ROWS", 7)
    found = nearest_features(queries, references)
    table = np.linalg.norm(queries[:, None].astype(float) - references[None], axis=2)
    np.testing.assert_array_equal(found.index, table.argmin(axis=1))
    np.testing.assert_allclose(found.distance, table.min(axis=1), rtol=1e-9)
    np.testing.assert_allclose(found.tenth, np.sort(table, axis=1)[:, 9], rtol=1e-6)
    assert found.distance[4] == 0.0


def test_a_relative_distance_is_a_part_of_the_tenth_and_one_where_ten_are_as_near() -> None:
    index = np.zeros(4, np.int64)
    found = Neighbours(index, np.array([0.0, 1.0, 3.0, 0.0]), np.array([2.0, 2.0, 2.9, 0.0]))
    np.testing.assert_array_equal(found.relative, [0.0, 0.5, 1.0, 1.0])
    few = nearest_neighbours(random_images(3, 0), random_images(1, 1))[0]  # no tenth: the last
    np.testing.assert_allclose(few.relative, 1.0, rtol=1e-6)
