from __future__ import annotations

import numpy as np
import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.images.grid import PADDING_VALUE, make_grid


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_every_image_is_found_where_reading_order_puts_it(channels: int, mode: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 3, 4), dtype=np.uint8)
    grid = make_grid(images, columns=2, padding=1, scale=1)
    assert grid.mode == mode
    assert grid.size == (2 * 5 + 1, 3 * 4 + 1)
    pixels = np.asarray(grid).reshape(13, 11, channels)
    for index in range(5):
        top, left = 1 + 4 * (index // 2), 1 + 5 * (index % 2)
        found = pixels[top : top + 3, left : left + 4].transpose(2, 0, 1)
        np.testing.assert_array_equal(found, images[index])


def test_padding_and_the_empty_place_are_grey() -> None:
    pixels = np.asarray(make_grid(np.zeros((3, 1, 2, 2), np.uint8), columns=2, scale=1))
    assert (pixels[0] == PADDING_VALUE).all()
    assert (pixels[4:6, 4:6] == PADDING_VALUE).all()
    assert (pixels == 0).sum() == 3 * 4


def test_scaling_repeats_pixels() -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, 3, 2, 2), dtype=np.uint8)
    small = np.asarray(make_grid(images, scale=1))
    large = np.asarray(make_grid(images, scale=3))
    np.testing.assert_array_equal(large, small.repeat(3, axis=0).repeat(3, axis=1))


def test_tiny_images_are_enlarged_and_large_ones_are_not() -> None:
    assert max(make_grid(np.zeros((64, 1, 8, 8), np.uint8)).size) >= 512
    assert make_grid(np.zeros((1, 3, 600, 600), np.uint8), padding=0).size == (600, 600)


def test_images_are_left_as_they_were() -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 1, 3, 4)
    images.flags.writeable = False  # a memory map opened for reading
    make_grid(images)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 2, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((1, 3, 4, 4), np.float32),
        np.zeros((0, 3, 4, 4), np.uint8),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images: np.ndarray) -> None:
    with pytest.raises(InputError, match="a grid needs"):
        make_grid(images)


@pytest.mark.parametrize("layout", [{"columns": 0}, {"padding": -1}, {"scale": 0}])
def test_a_layout_below_its_range_is_refused(layout: dict[str, int]) -> None:
    with pytest.raises(InputError, match="columns >= 1"):
        make_grid(np.zeros((1, 1, 2, 2), np.uint8), **layout)
