from __future__ import annotations

import numpy as np
import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.sets import ComparedSets, compared_sets
from ddpm_kedro.images.imageset import ImageSet


def image_set(seed: int, count: int) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    return ImageSet(pixels)


def chosen(
    samples: int, train: int, test: int, max_images: int | None = None, seed: int = 0
) -> ComparedSets:
    drawn = image_set(0, samples).images
    return compared_sets(drawn, image_set(1, train), image_set(2, test), max_images, seed)


@pytest.mark.parametrize(
    ("sizes", "max_images", "name", "pool"),
    [
        ((30, 400, 30), None, "30 held-out images", 150),
        ((90, 400, 30), 20, "20 held-out images", 100),
        ((90, 100, 95), None, "50 held-out images", 100),  # the pool has twice as many at least
        ((30, 400, 29), None, "30 training images", 150),
        ((90, 120, 29), None, "40 training images", 80),
    ],
)
def test_held_out_images_are_the_reference_where_they_suffice(
    sizes: tuple[int, int, int], max_images: int | None, name: str, pool: int
) -> None:
    sets = chosen(*sizes, max_images)
    assert sets.reference_name == name
    assert f"{len(sets.samples)} " == name[:3]
    assert len(sets.samples) == len(sets.reference)
    assert len(sets.pool) == pool
    assert sets.held_out == ("held-out" in name)


def test_no_image_is_in_reference_and_pool_and_none_is_twice_in_one() -> None:
    sets = chosen(30, 100, 2)
    rows = np.concatenate([sets.reference_rows, sets.pool_rows])
    assert len(np.unique(rows)) == len(rows) == 100
    np.testing.assert_array_equal(sets.reference, sets.train.images[sets.reference_rows])


def test_the_seed_draws_the_rows_and_the_stamp_tells() -> None:
    first, again, other = (chosen(30, 400, 60, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.pool_rows, again.pool_rows)
    assert not np.array_equal(first.pool_rows, other.pool_rows)
    assert first.stamp("pixels") == again.stamp("pixels") != other.stamp("pixels")
    assert first.stamp("pixels") != first.stamp("network")
    assert first.stamp("pixels") != chosen(29, 400, 60).stamp("pixels")
    assert len(first.stamp("pixels")) == 12


@pytest.mark.parametrize("sizes", [(1, 400, 60), (30, 5, 2), (30, 3, 60)])
def test_too_few_images_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=f"{sizes[0]} samples beside {sizes[1]} training images"):
        chosen(*sizes)
