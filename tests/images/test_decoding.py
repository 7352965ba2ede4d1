"""What becomes of colour modes, transparency, orientation, depth and size."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ddpm_kedro.errors import InputError
from ddpm_kedro.images.decoding import decode

RED, BLUE = (255, 0, 0), (0, 0, 255)


def _reopened(image: Image.Image, kind: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(buffer)


@pytest.mark.parametrize(
    ("mode", "natural"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3), ("YCbCr", 3)],
)
def test_each_mode_has_its_channels(mode: str, natural: int) -> None:
    image = Image.new("RGB", (4, 6), RED).convert(mode)
    assert decode(image.copy(), None, None).shape == (natural, 6, 4)
    for channels in (1, 3, 4):
        array = decode(image.copy(), None, channels)
        assert array.shape == (channels, 6, 4)
        assert array.dtype == np.uint8


@pytest.mark.parametrize("mode", ["P", "RGB", "CMYK", "YCbCr"])
def test_colours_stay(mode: str) -> None:
    array = decode(Image.new("RGB", (2, 2), RED).convert(mode), None, None)
    np.testing.assert_allclose(array[:, 0, 0], RED, atol=1)


def test_planes_are_red_green_blue_rows_and_columns() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    array = decode(Image.fromarray(pixels), None, None)
    for channel in range(3):
        np.testing.assert_array_equal(array[channel], pixels[:, :, channel])


def test_transparency_is_laid_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (*BLUE, 0))
    array = decode(image, None, None)
    assert array[:, 0, 0].tolist() == [255, 0, 0]
    assert array[:, 0, 1].tolist() == [255, 255, 255]
    half = decode(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), None, None)
    np.testing.assert_allclose(half, 127, atol=1)


def test_transparency_is_kept_where_four_channels_are_asked_for() -> None:
    array = decode(Image.new("RGBA", (1, 1), (*BLUE, 77)), None, 4)
    assert array[:, 0, 0].tolist() == [0, 0, 255, 77]


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    array = decode(_reopened(image, "PNG", transparency=1), None, None)
    assert array[:, 0, 0].tolist() == [255, 0, 0]
    assert array[:, 0, 1].tolist() == [255, 255, 255]


def test_sixteen_bits_become_eight() -> None:
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    array = decode(_reopened(Image.fromarray(levels), "PNG"), None, None)
    assert array.tolist() == [[[0, 0, 1, 1, 128, 255]]]


def test_pixels_without_a_range_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        decode(Image.new("F", (2, 2)), None, None)
    with pytest.raises(ValueError, match="32-bit"):
        decode(Image.fromarray(np.array([[-1, 70000]], dtype=np.int32)), None, None)


def test_photo_is_turned_as_its_exif_says() -> None:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    array = decode(_reopened(image, "PNG", exif=exif), None, None)
    assert array.shape == (3, 2, 1)
    assert array[:, 0, 0].tolist() == [255, 0, 0]
    assert array[:, 1, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("size", [(12, 4), (4, 12), (13, 4), (4, 4)])
def test_crop_is_centred(size: tuple[int, int]) -> None:
    width, height = size
    side = min(size)
    image = Image.new("L", size, 0)
    image.paste(200, ((width - side) // 2, (height - side) // 2, width, height))
    cropped = decode(image, side, None)
    assert cropped.shape == (1, side, side)
    assert (cropped == 200).all()


def test_resize_averages_what_it_leaves_out() -> None:
    checkers = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = decode(checkers, 8, None)
    assert small.shape == (1, 8, 8)
    np.testing.assert_allclose(small, 127.5, atol=2)  # picking pixels would give 0 or 255


def test_large_jpeg_gives_the_picture_that_full_decoding_gives() -> None:
    ramp = np.linspace(0, 255, 512)
    picture = np.stack([np.add.outer(ramp, ramp) / 2] * 3, axis=-1).astype(np.uint8)
    jpeg = _reopened(Image.fromarray(picture), "JPEG", quality=95)
    whole = Image.fromarray(picture).resize((32, 32), Image.Resampling.LANCZOS)
    difference = decode(jpeg, 32, None) - np.asarray(whole, dtype=float).transpose(2, 0, 1)
    assert np.abs(difference).max() < 4


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3), (5, 4, 4)])
def test_arrays_and_pictures_of_them_agree(shape: tuple[int, ...], channels: int | None) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    picture = Image.fromarray(pixels[..., 0] if shape[-1] == 1 else pixels)
    np.testing.assert_array_equal(decode(pixels, None, channels), decode(picture, None, channels))


def test_cut_file_raises() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    with pytest.raises(OSError, match="truncated"):
        decode(Image.open(io.BytesIO(buffer.getvalue()[:1000])), None, None)


def test_array_of_floats_is_refused() -> None:
    with pytest.raises(InputError, match="uint8"):
        decode(np.zeros((4, 4)), None, None)
